"""What AnatPaste and CutPaste's variants make of an image, and where."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from medad_fast.errors import InputError
from medad_fast.methods.anatpaste import AnatPaste, AnatPasteConfig
from medad_fast.methods.parts.pasting import anatomical_paste, find_lungs
from medad_fast.ops import AnatomyPasteParams, anatomy_paste, lung_mask
from medad_fast.training.loop import train
from python_tests.methods.anatpaste.small import AUGMENTATIONS, build, chests
from python_tests.methods.small import discs


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_augmentation_changes_some_of_the_image_and_stays_in_range(augmentation, channels):
    images = chests(8, 64).repeat(1, channels, 1, 1)
    torch.manual_seed(0)
    method = build(augmentation=augmentation, image_size=64, channels=channels, jitter=0.0)
    original, *others = method.views(images)
    assert torch.equal(original, images)
    for other in others:
        changed = (other != images).any(1).float().mean((1, 2))
        assert changed.gt(0).float().mean() > 0.6
        assert changed.max() < 0.5
        assert other.abs().max() <= 1


def test_the_jitter_is_brightness_and_contrast_of_the_whole_image():
    images = 0.2 * chests(6, 64) - 0.78  # dark: that brightness is relative to black shows
    torch.manual_seed(2)
    jittered, _ = build(image_size=64, jitter=0.1).views(images)
    assert not torch.equal(jittered, images)
    for before, after in zip(images.flatten(1) + 1, jittered.flatten(1) + 1, strict=True):
        free = (after > 0.001) & (after < 1.999)  # not clamped
        x, y = before[free].double(), after[free].double()
        slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
        offset = y.mean() - slope * x.mean()
        torch.testing.assert_close(y, slope * x + offset, rtol=0, atol=1e-5)
        assert 0.81 <= slope <= 1.21
        mean = before.double().mean()
        assert 0.899 <= (slope * mean + offset) / mean <= 1.101  # contrast keeps the mean


def test_anatpaste_pastes_inside_the_lungs_only():
    images = chests(12)
    method = build(image_size=256, jitter=0.0)
    masks = method.masks(images)
    grey = ((images[:, 0] + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(masks, lung_mask(grey))
    found = masks.any((1, 2))
    assert found.sum() >= 4
    torch.manual_seed(0)
    original, pasted = method.views(images)
    changed = (original != pasted)[:, 0]
    assert not (changed & ~masks)[found].any()
    assert changed[found].any((1, 2)).float().mean() > 0.9


def test_sizes_in_pixels_are_the_codes_at_256_and_scaled_elsewhere(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "medad_fast.methods.parts.pasting.anatomy_paste",
        lambda images, masks, params: seen.append(params) or anatomy_paste(images, masks, params),
    )
    torch.manual_seed(0)
    anatomical_paste(torch.zeros(400, 1, 256, 256), None)
    anatomical_paste(torch.zeros(400, 1, 64, 64), None)
    full, small_ones = seen
    assert full.margin.unique().tolist() == [10]
    assert full.sigma.unique().tolist() == list(range(15))
    assert (full.opacity * 255).round().min() >= 150
    assert (full.opacity * 255).round().max() <= 254
    area = (full.width * full.height).double() / 256**2
    assert area.min() > 0.018
    assert area.max() < 0.152
    assert full.black.unique().tolist() == [-1]
    assert small_ones.margin.unique().tolist() == [2]
    assert small_ones.sigma.max() == 3.5


@pytest.mark.parametrize(("width", "changes"), [(17, False), (22, True)])
def test_a_shape_turned_inside_out_is_an_empty_one(width, changes, monkeypatch):
    """At 224 pixels the narrowest patch is 17 wide, and the margin 9 on either side."""
    sample = AnatomyPasteParams.sample

    def narrow(*arguments, **options):
        drawn = sample(*arguments, **options)
        drawn.width.fill_(width)
        return drawn

    monkeypatch.setattr(AnatomyPasteParams, "sample", narrow)
    torch.manual_seed(0)
    images = torch.rand(8, 1, 224, 224)
    same = (anatomical_paste(images, None) == images).flatten(1).all(1)
    assert torch.equal(same, torch.full((8,), not changes))


def test_other_anatomies_take_the_lungs_place():
    images = discs(4, size=64)
    assert build(image_size=64, anatomy="whole").masks(images) is None
    inside = build(image_size=64, anatomy="foreground").masks(images)
    assert torch.equal(inside, images[:, 0] > -0.98)
    half = torch.zeros(4, 64, 64, dtype=torch.bool)
    half[:, :32] = True
    method = AnatPaste(AnatPasteConfig(image_size=64, width=4, jitter=0.0), anatomy=lambda _: half)
    torch.manual_seed(0)
    original, pasted = method.views(images)
    changed = (original != pasted)[:, 0]
    assert changed[:, :32].any()
    assert not changed[:, 32:].any()


@pytest.mark.parametrize(
    "mask", [torch.ones(4, 64, 64), torch.ones(3, 64, 64, dtype=torch.bool)], ids=["type", "shape"]
)
def test_masks_that_do_not_fit_are_refused(mask):
    method = AnatPaste(AnatPasteConfig(image_size=64, width=4), anatomy=lambda _: mask)
    with pytest.raises(InputError, match=r"anatomy: masks of type bool and shape \(4, 64, 64\)"):
        method.views(discs(4, size=64))


def test_a_mask_common_to_all_images_comes_from_a_file_and_is_kept(tmp_path):
    mask = np.zeros((128, 128), dtype=np.uint8)
    mask[:64] = 1
    np.save(tmp_path / "mask.npy", mask)
    overrides = {"anatomy": "file", "anatomy_file": str(tmp_path / "mask.npy")}
    method = build(**overrides)
    train(method, discs(4), max_steps=1, device="cpu")
    expected = torch.zeros(2, 32, 32, dtype=torch.bool)
    expected[:, :16] = True
    assert torch.equal(method.masks(discs(2)), expected)
    again = build(**overrides)
    again.load_state_dict(method.state_dict())
    assert torch.equal(again.masks(discs(2)), expected)


@pytest.mark.parametrize("array", [np.zeros((4, 4)), np.ones((4, 4, 1)), None])
def test_a_file_that_is_no_mask_is_refused(array, tmp_path):
    path = tmp_path / "mask.npy"
    if array is None:
        path.write_text("not an array")
    else:
        np.save(path, array)
    method = build(anatomy="file", anatomy_file=str(path))
    with pytest.raises(InputError, match=r"anatomy_file: .*mask\.npy"):
        method.initialize()


def test_lungs_are_found_at_the_recipes_size_whatever_the_images():
    images = chests(6)
    smaller = F.interpolate(images, (128, 128), mode="bilinear", antialias=True)
    full, half = find_lungs(images), find_lungs(smaller)
    assert half.shape == (6, 128, 128)
    both = full[:, ::2, ::2]
    overlap = (both & half).sum((1, 2)) / (both | half).sum((1, 2)).clamp(min=1)
    assert overlap[full.any(2).any(1)].median() > 0.7
    assert find_lungs(images.repeat(1, 3, 1, 1)).equal(full)


def test_a_patch_of_cutpaste_is_a_piece_of_the_image_with_hard_edges(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "medad_fast.methods.parts.pasting.anatomy_paste",
        lambda images, masks, params: (
            seen.append((masks, params)) or anatomy_paste(images, masks, params)
        ),
    )
    images = torch.rand(16, 1, 64, 64) - 0.5
    method = build(augmentation="cutpaste", image_size=64, jitter=0.0)
    original, pasted = method.views(images)
    ((masks, params),) = seen
    assert masks is None
    for i in range(16):
        h, w = int(params.height[i]), int(params.width[i])
        top, left = (params.centre[i] - torch.tensor([h, w]) // 2).tolist()
        assert top >= 0
        assert left >= 0
        assert top + h <= 64
        assert left + w <= 64
        changed = pasted[i, 0] != original[i, 0]
        outside = changed.clone()
        outside[top : top + h, left : left + w] = False
        assert not outside.any()
        row, column = params.source_corner[i].tolist()
        source = original[i, 0, row : row + h, column : column + w].flatten().double()
        target = pasted[i, 0, top : top + h, left : left + w].flatten().double()
        assert torch.corrcoef(torch.stack([source, target]))[0, 1] > 1 - 1e-6


def test_a_scar_is_thin_turned_and_inside():
    torch.manual_seed(3)
    images = torch.linspace(-0.5, 0.5, 256)[None, None, None].repeat(64, 1, 256, 1)
    images = images + 0.01 * torch.rand(images.shape)
    _, scarred = build(augmentation="cutpaste-scar", image_size=256, jitter=0.0).views(images)
    changed = (scarred != images)[:, 0]
    area = changed.sum((1, 2))
    assert area.min() >= 2 * 10 * 0.7
    assert area.max() <= 16 * 25 * 1.2
    slants = []
    for each in changed:
        rows, columns = each.nonzero().double().unbind(1)
        assert max(rows.max() - rows.min(), columns.max() - columns.min()) <= 30
        slants.append(torch.corrcoef(torch.stack([rows, columns]))[0, 1].abs().item())
    assert sum(slant > 0.3 for slant in slants) > 20


def test_a_union_is_one_or_the_other_for_each_image():
    torch.manual_seed(0)
    images = torch.rand(64, 1, 64, 64)
    _, changed = build(augmentation="cutpaste-union", image_size=64, jitter=0.0).views(images)
    share = (changed != images).float().mean((1, 2, 3))
    scars = (share < 0.017).float().mean()
    assert 0.3 < scars < 0.7
