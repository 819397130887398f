"""Simulated fundus patches and OCT scans: where they are from, and what changes in them."""

from __future__ import annotations

import numpy as np
import pytest

from bench.quality.sets import fundus, oct, oct_lesions
from bench.quality.sets.retina_layers import LAYERS, WIDTH_UM, draw_retina, swollen


def retina(seed=0, size=96):
    return draw_retina(np.random.default_rng(seed), size)


@pytest.mark.parametrize("upper", [True, False])
def test_patches_come_from_one_half_and_never_from_the_disc(upper):
    rng = np.random.default_rng(0)
    for _ in range(50):
        middle = fundus._draw_middle(rng, upper=upper, reach=150.0)
        assert (middle[0] < fundus._FOVEA_ROW) == upper
        assert abs(middle[0] - fundus._FOVEA_ROW) >= 150
        assert np.hypot(*(middle - fundus._DISC)) >= 150
        assert np.hypot(*(middle - fundus._CENTRE)) + 150 <= fundus._RADIUS


def test_blood_darkens_green_more_than_red_and_exudates_turn_yellow():
    for number in range(8):
        pair = fundus.draw_fundus(3, "test", number, abnormal=True, size=64)
        change = (pair.abnormal.astype(float) - pair.normal)[pair.mask].mean(axis=0)
        relative = change / pair.normal[pair.mask].mean(axis=0)
        if pair.kind in ("blots", "flames"):
            assert (relative < -0.15).all()
            assert relative[1] < relative[0]
        else:
            assert change[1] > 0
            assert relative[1] > relative[0]


def test_a_patch_shows_tissue_everywhere():
    for number in range(5):
        pair = fundus.draw_fundus(4, "train", number, abnormal=False, size=48)
        assert pair.normal.shape == (48, 48, 3)
        assert pair.normal[..., 0].min() > 60  # no black frame
        red, green, blue = pair.normal.reshape(-1, 3).mean(axis=0)
        assert red > green > 0.6 * blue


def test_a_normal_retina_has_the_thickness_of_one_and_no_fluid():
    for seed in range(10):
        eye = retina(seed)
        assert not eye.thickness[LAYERS.index("fluid")].any()
        assert not eye.thickness[LAYERS.index("drusen")].any()
        whole = eye.thickness.sum(axis=0)
        assert whole.min() > 150
        assert whole.max() < 400
        assert (np.diff(eye.tops(), axis=0) >= 0).all()
        assert eye.tops()[0].min() > 0
        assert eye.bruch.max() < 0.8 * oct.DEPTH_UM


def test_swelling_lifts_what_is_above_and_nothing_beneath():
    eye = retina()
    raised = swollen(eye, "fluid", np.full_like(eye.columns, 50))
    place = LAYERS.index("fluid")
    np.testing.assert_allclose(raised.tops()[: place + 1], eye.tops()[: place + 1] - 50, atol=1e-3)
    np.testing.assert_allclose(raised.tops()[place + 1 :], eye.tops()[place + 1 :], atol=1e-3)
    assert (swollen(eye, "inner nuclear", -1e3 * np.ones_like(eye.columns)).thickness >= 0).all()


def test_fluid_and_cysts_are_dark_in_the_mask():
    for number in (0, 1, 4, 5):
        pair = oct.draw_oct(3, "test", number, abnormal=True)
        retina_grey = np.percentile(pair.normal, 90)
        assert pair.abnormal[pair.mask].mean() < 0.4 * retina_grey


def test_thinning_takes_tissue_away():
    for number in (3, 7, 11):
        sick, detail, _ = oct_lesions._thinning(retina(number), np.random.default_rng(number))
        lost = retina(number).thickness.sum(axis=0) - sick.thickness.sum(axis=0)
        assert lost.min() >= -1e-3
        assert lost.max() >= oct_lesions.LEAST_LOSS_UM - 1e-2
        wide = (lost > 0).sum() * WIDTH_UM / 96
        assert wide <= detail["width_um"] + 130


def test_drusen_raise_the_pigment_epithelium_by_their_height():
    eye = retina(5)
    sick, detail, _ = oct_lesions._drusen(eye, np.random.default_rng(1))
    place = LAYERS.index("drusen")
    raised = eye.tops()[place] - sick.tops()[place]
    assert raised.max() == pytest.approx(detail["height_um"], abs=1e-2)
    assert 30 < detail["height_um"] <= 100
    inner = eye.tops()[0] - sick.tops()[0]
    assert inner.max() <= raised.max()
