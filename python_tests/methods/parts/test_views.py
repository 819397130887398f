"""Random views: each change by itself, against what it should be."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from medad_fast.methods.parts.views import cover_squares, random_view
from python_tests.methods.small import discs

NOTHING = {
    "mirror": False,
    "rotation": 0.0,
    "scale": (1.0, 1.0),
    "shift": 0.0,
    "brightness": (1.0, 1.0),
    "noise_sigma": 0.0,
}


def view(images, seed=0, **changes):
    torch.manual_seed(seed)
    return random_view(images, **{**NOTHING, **changes})


def ramps(count, size=16, channels=1):
    """Grey rises along both axes, differently, so that every move shows."""
    line = torch.linspace(-0.5, 0.5, size)
    return (0.3 * line[:, None] + line).repeat(count, channels, 1, 1)


def test_nothing_asked_changes_nothing():
    images = discs(3, channels=3)
    torch.testing.assert_close(view(images), images, rtol=0, atol=1e-5)


def test_half_of_the_images_are_mirrored():
    images = ramps(200)
    views = view(images, mirror=True)
    straight = (views - images).abs().amax((1, 2, 3)) < 1e-5
    mirrored = (views - images.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    assert bool((straight ^ mirrored).all())
    assert 70 < int(mirrored.sum()) < 130


def test_rotations_are_rotations_and_stay_within_their_bound():
    size = 33
    line = torch.linspace(-1, 1, size)
    plane = (0.5 * line).repeat(size, 1)
    images = torch.stack([plane, plane.T]).repeat(400, 1, 1, 1)  # half of x and of y
    inner = view(images, rotation=0.3)[:, :, 10:23, 10:23]
    acrosses = (inner[..., -1] - inner[..., 0]).mean(2)
    downs = (inner[:, :, -1] - inner[:, :, 0]).mean(2)
    (across, across_y), (down, down_y) = acrosses.T, downs.T
    torch.testing.assert_close(across_y, -down, atol=1e-5, rtol=0)
    torch.testing.assert_close(down_y, across, atol=1e-5, rtol=0)
    scale = 0.5 * 2 * 12 / (size - 1)
    torch.testing.assert_close(across**2 + down**2, torch.full((400,), scale**2))
    angles = torch.atan2(down, across)
    assert 0.29 < angles.abs().max() <= 0.3 + 1e-4
    assert abs(angles.mean()) < 0.03


def test_half_of_the_views_are_enlarged_and_the_border_goes_on():
    size = 33
    line = torch.linspace(-1, 1, size)
    images = (0.5 * line).repeat(600, 1, size, 1)
    views = view(images, scale=(0.8, 1.5))
    inner = views[:, 0, 16, 10:23]
    factors = (inner[:, -1] - inner[:, 0]) / (0.5 * 2 * 12 / (size - 1))
    assert 0.8 - 1e-4 < factors.min() < 0.81
    assert 1.48 < factors.max() < 1.5 + 1e-4
    assert 240 < int((factors < 1).sum()) < 360
    assert views.max().item() == pytest.approx(0.5, abs=1e-5)


def test_a_shift_moves_by_at_most_its_share():
    images = F.one_hot(torch.tensor([8]), 17).float()
    images = (2 * images.T * images - 1).repeat(300, 1, 1, 1)
    views = view(images, shift=0.25)
    weight = (views[:, 0] + 1) / 2
    place = torch.arange(17.0)
    rows = (weight.sum(2) * place).sum(1) / weight.sum((1, 2)) - 8
    columns = (weight.sum(1) * place).sum(1) / weight.sum((1, 2)) - 8
    for moved in (rows, columns):
        assert 3.9 < moved.abs().max() <= 0.25 * 17 + 0.01
    assert abs(torch.corrcoef(torch.stack([rows, columns]))[0, 1]) < 0.2


def test_brightness_keeps_black_and_scales_the_distance_from_it():
    images = discs(200)
    views = view(images, brightness=(0.9, 1.1))
    black = images == -1
    assert views[black].max() <= -1 + 1e-5
    ratio = ((views + 1) / (images + 1).clamp(min=0.1)).masked_fill(black, math.nan)
    each = ratio.flatten(1).nanmedian(1).values
    assert 0.9 - 1e-4 <= each.min() < 0.91
    assert 1.09 < each.max() <= 1.1 + 1e-4
    torch.testing.assert_close(
        ratio.nan_to_num(1.0), torch.where(black, 1.0, each[:, None, None, None]), atol=1e-3, rtol=0
    )


def test_noise_has_up_to_the_deviation_that_was_asked_for():
    views = view(torch.zeros(300, 1, 32, 32), noise_sigma=0.1)
    deviations = views.flatten(1).std(1)
    assert deviations.max() < 0.11
    assert deviations.mean().item() == pytest.approx(0.05, rel=0.15)
    assert view(torch.ones(2, 1, 8, 8), noise_sigma=0.5).max() <= 1


def test_views_repeat_with_the_seed_and_differ_within_the_batch():
    images = discs(1).repeat(2, 1, 1, 1)
    changes = {**NOTHING, "mirror": True, "rotation": 0.2, "noise_sigma": 0.05}
    assert torch.equal(view(images, 1, **changes), view(images, 1, **changes))
    assert not torch.equal(view(images, 1, **changes), view(images, 2, **changes))
    one, two = view(images, 1, **changes)
    assert not torch.equal(one, two)


def test_squares_lie_inside_in_number_size_and_grey():
    torch.manual_seed(0)
    images = torch.full((400, 2, 20, 20), 5.0)
    covered = cover_squares(images, 3, 0.5)
    changed = covered != 5
    assert torch.equal(changed[:, 0], changed[:, 1])
    greys = [len(set(image[0][image[0] != 5].tolist())) for image in covered]
    assert set(greys) == {0, 1, 2, 3}
    assert 60 < greys.count(0) < 160  # a quarter, and squares of side 0
    inside = covered[changed]
    assert -1 <= inside.min() < -0.95
    assert 0.95 < inside.max() <= 1
    assert (covered[:, 0] != covered[:, 1])[changed[:, 0]].float().mean() > 0.99
    for image, count in zip(changed[:, 0], greys, strict=True):
        if count == 1:
            rows, columns = image.any(1).nonzero(), image.any(0).nonzero()
            height, width = (int(at.max() - at.min()) + 1 for at in (rows, columns))
            assert height == width <= 9
            assert int(image.sum()) == height * width
    assert changed[:, 0, -1].any()
    assert changed[:, 0, 0].any()


def test_no_squares_leave_the_images_alone():
    images = discs(3)
    assert torch.equal(cover_squares(images, 0, 0.5), images)
    assert torch.equal(cover_squares(images, 3, 0.0), images)
