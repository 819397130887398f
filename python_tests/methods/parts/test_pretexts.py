"""The damage and the turns that networks learn from."""

from __future__ import annotations

import pytest
import torch

from medad_fast.methods.parts.pretexts import (
    bend_intensities,
    corrupt,
    quarter_turns,
    shuffle_pixels,
)
from python_tests.methods.small import discs

KINDS = ("intensity", "shuffle", "inner_fill", "outer_fill")


def test_intensities_are_bent_by_rising_curves_that_keep_the_ends():
    ramp = torch.linspace(-1, 1, 1024).reshape(1, 1, 32, 32).repeat(20, 1, 1, 1)
    bent = bend_intensities(ramp).flatten(1)
    assert (bent.diff(dim=1) >= -1e-6).all()
    assert torch.allclose(bent[:, 0], torch.tensor(-1.0), atol=1e-5)
    assert torch.allclose(bent[:, -1], torch.tensor(1.0), atol=1e-5)
    assert bent.abs().max() <= 1 + 1e-6
    assert bent[:, 512].std() > 0.1  # each image has a curve of its own
    assert bend_intensities(ramp.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("size", [32, 64, 160])
def test_shuffled_pixels_come_from_nearby_and_channels_stay_together(size):
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    images = torch.stack([rows, columns]).float().repeat(6, 1, 1, 1)
    moved = shuffle_pixels(images) - images
    assert moved.abs().max() < max(size // 10, 2)
    assert moved.abs().max() >= max(size // 10, 2) // 2
    assert (moved != 0).float().mean() > 0.3
    assert abs(moved.mean()) < 0.1
    same = shuffle_pixels(images[:, :1].repeat(1, 3, 1, 1))
    assert torch.equal(same[:, 0], same[:, 2])


@pytest.mark.parametrize(
    ("kinds", "low", "high"), [(("inner_fill",), 0.02, 0.5), (("outer_fill",), 0.1, 0.85)]
)
def test_fills_replace_boxes_or_all_but_boxes_by_noise(kinds, low, high):
    images = torch.zeros(200, 1, 48, 48)
    filled = corrupt(images, kinds, 1.0) != 0
    share = filled.float().mean((1, 2, 3))
    assert low < share.mean() < high
    border = torch.cat([filled[:, 0, 0], filled[:, 0, -1]], dim=1).float().mean()
    assert (border > 0.5) == (kinds == ("outer_fill",))
    noise = corrupt(images, kinds, 1.0)[filled]
    assert noise.min() < -0.95
    assert noise.max() > 0.95


def test_an_image_gets_one_fill_of_the_two_as_often_as_the_other():
    images = torch.zeros(400, 1, 32, 32)
    filled = corrupt(images, ("inner_fill", "outer_fill"), 1.0) != 0
    outer = filled[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]].float().mean(1) > 0.5
    assert 0.4 < outer.float().mean() < 0.6
    assert (filled.flatten(1).any(1)).all()


def test_the_probability_is_each_kinds_own():
    images = discs(400).clamp(-0.5, 0.5)
    changed = (corrupt(images, ("intensity",), 0.3) != images).flatten(1).any(1)
    assert 0.2 < changed.float().mean() < 0.4
    for kinds, probability in ((KINDS, 0.0), ((), 1.0)):
        assert torch.equal(corrupt(images, kinds, probability), images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_damage_keeps_shape_range_and_the_callers_images_and_follows_the_seed(dtype):
    images = discs(4, channels=3).to(dtype)
    kept = images.clone()
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(corrupt(images, KINDS, 0.7))
    assert torch.equal(images, kept)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert results[0].dtype == dtype
    assert results[0].shape == images.shape
    assert results[0].abs().max() <= 1 + 1e-6


def test_four_quarter_turns_lead_back():
    images = torch.randn(2, 1, 8, 8)
    turned = quarter_turns(images)
    assert torch.equal(turned[0], images)
    assert torch.equal(turned[2], images.flip(2, 3))
    assert torch.equal(quarter_turns(turned[1])[3], images)
