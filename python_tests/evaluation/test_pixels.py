"""Pixel metrics from one sort against their definitions in rational numbers."""

from __future__ import annotations

import numpy as np
import pytest

from medad_fast.errors import InputError
from medad_fast.evaluation.pixels import (
    PixelCollector,
    SortedPixels,
    aupro,
    falling_keys,
    falling_scores,
    float32_up_to,
)
from medad_fast.evaluation.ranking import (
    auroc,
    average_precision,
    fpr_at_tpr95,
    oracle_dice,
)
from medad_fast.evaluation.slices import decisions
from python_tests.evaluation import exact


def random_slices(seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Small maps with many ties and masks whose regions touch at corners and borders."""
    generator = np.random.default_rng(seed)
    count, height, width = (int(n) for n in generator.integers(1, 7, 3))
    levels = int(generator.integers(1, 9))
    shape = (count, height + 1, width + 1)
    maps = (generator.integers(-levels, levels, shape) / 3).astype(np.float32)
    masks = generator.random(shape) < generator.choice([0.1, 0.4, 0.7])
    masks[0, 0, 0], masks[-1, -1, -1] = True, False
    return list(maps), list(masks)


def sort_slices(maps: list[np.ndarray], masks: list[np.ndarray]) -> SortedPixels:
    collector = PixelCollector()
    for cluster, (anomaly_map, mask) in enumerate(zip(maps, masks, strict=True)):
        collector.add(anomaly_map, mask, cluster)
    return collector.sort()


def decided(maps: list[np.ndarray], masks: list[np.ndarray], threshold: float) -> np.ndarray:
    """True-positive, false-positive and false-negative pixels of all slices."""
    cut = float32_up_to(threshold)
    return np.sum([decisions(*each, cut) for each in zip(maps, masks, strict=True)], axis=0)


@pytest.mark.parametrize("part", range(20))
def test_pixel_metrics_equal_their_definitions_in_rational_numbers(part: int) -> None:
    """1,000 random cases in all."""
    for seed in range(50 * part, 50 * (part + 1)):
        maps, masks = random_slices(seed)
        pixels = sort_slices(maps, masks)
        ranking = pixels.ranking()
        scores = np.concatenate([one.ravel() for one in maps]).tolist()
        truth = np.concatenate([one.ravel() for one in masks]).tolist()
        threshold = float(np.random.default_rng(seed).choice(scores))
        hits, alarms, missed = decided(maps, masks, threshold)
        dice = 2 * hits / (2 * hits + alarms + missed)
        assert dice == pytest.approx(float(exact.dice_above(scores, truth, threshold)), abs=1e-12)
        for ours, expected in (
            (auroc(ranking), exact.auroc(scores, truth)),
            (average_precision(ranking), exact.average_precision(scores, truth)),
            (fpr_at_tpr95(ranking), exact.fpr_at_tpr95(scores, truth)),
            (oracle_dice(ranking)[0], exact.best_dice(scores, truth)),
            (aupro(ranking), exact.aupro(maps, masks)),
        ):
            assert ours.value == pytest.approx(float(expected), abs=1e-12, rel=0)
        assert pixels.pixels == len(scores)
        assert pixels.lesion_pixels == sum(truth)
        assert pixels.lesions == sum(len(exact.regions(mask)) for mask in masks)


@pytest.mark.parametrize("seed", range(20))
def test_a_fixed_threshold_splits_pixels_as_in_double_precision(seed: int) -> None:
    maps, masks = random_slices(seed)
    scores, truth = np.stack(maps).astype(np.float64), np.stack(masks)
    odd = (-1e300, 1e300, 0.1, -0.1, 1 / 3, float("-inf"), float("inf"))
    for threshold in (*np.unique(scores).tolist(), *odd):
        called = scores > threshold
        counts = [(called & truth).sum(), (called & ~truth).sum(), (~called & truth).sum()]
        assert decided(maps, masks, threshold).tolist() == counts
    alone = decisions(maps[0], None, float32_up_to(0.1))
    assert alone == (0, int((maps[0].astype(np.float64) > 0.1).sum()), 0)


def test_a_perfect_map_has_aupro_one_and_its_opposite_zero() -> None:
    mask = np.zeros((16, 16), dtype=bool)
    mask[2:4, 2:4] = mask[8:14, 8:14] = True
    perfect = mask.astype(np.float32)
    assert aupro(sort_slices([perfect], [mask]).ranking()).value == 1.0
    assert aupro(sort_slices([-perfect], [mask]).ranking()).value == 0.0


@pytest.mark.parametrize("seed", range(30))
def test_rounding_never_lifts_aupro_above_one(seed: int) -> None:
    generator = np.random.default_rng(seed)
    mask = generator.random((40, 40)) < 0.25
    found = mask * generator.uniform(1, 2, mask.shape)
    value = aupro(sort_slices([found], [mask]).ranking()).value
    assert value is not None
    assert 1 - 1e-15 <= value <= 1


def test_a_flat_map_is_one_step() -> None:
    mask = np.eye(8, dtype=bool)
    # One step from (0, 0) to (1, 1): the overlap at 0.3 is 0.3, its mean up to there 0.15.
    value = aupro(sort_slices([np.zeros((8, 8), np.float32)], [mask]).ranking()).value
    assert value == pytest.approx(0.15, abs=1e-12)


def test_small_and_large_lesions_count_alike() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[0, 0] = mask[5:15, 5:15] = True
    found_small = np.zeros((20, 20), np.float32)
    found_small[0, 0] = 1
    found_large = mask.astype(np.float32) - found_small
    small, large = (
        aupro(sort_slices([m], [mask]).ranking()).value for m in (found_small, found_large)
    )
    assert small == pytest.approx(large, abs=1e-12)


def test_a_collector_is_empty_after_sorting() -> None:
    maps, masks = random_slices(4)
    collector = PixelCollector()

    def fill_and_sort() -> SortedPixels:
        for number, (anomaly_map, mask) in enumerate(zip(maps, masks, strict=True)):
            collector.add(anomaly_map, mask, number)
        return collector.sort()

    first, again = fill_and_sort(), fill_and_sort()
    assert again.lesions == first.lesions > 0
    assert aupro(again.ranking()) == aupro(first.ranking())
    nothing = collector.sort()
    assert (nothing.pixels, nothing.lesions, nothing.clusters) == (0, 0, 0)


def test_corner_neighbours_are_one_lesion() -> None:
    assert sort_slices([np.zeros((4, 4), np.float32)], [np.eye(4, dtype=bool)]).lesions == 1


def test_lesions_do_not_join_across_slices() -> None:
    mask = np.ones((2, 2), dtype=bool)
    assert sort_slices([np.zeros((2, 2), np.float32)] * 3, [mask] * 3).lesions == 3


def test_without_lesions_pixel_metrics_are_undefined() -> None:
    collector = PixelCollector()
    collector.add(np.ones((3, 3)), None, 0)
    ranking = collector.sort().ranking()
    for metric in (auroc, average_precision, aupro):
        assert metric(ranking).value is None
    assert aupro(ranking).reason == "no abnormal pixel"
    everything = sort_slices([np.ones((2, 2), np.float32)], [np.ones((2, 2), dtype=bool)])
    assert aupro(everything.ranking()).reason == "no normal pixel"
    assert aupro(PixelCollector().sort().ranking()).value is None


def test_keys_fall_as_scores_rise_and_come_back() -> None:
    values = np.array([-np.inf, -1e38, -1.0, -1e-45, 0.0, 1e-45, 1.0, 1e38, np.inf], np.float32)
    keys = falling_keys(values)
    assert (np.diff(keys.astype(np.int64)) < 0).all()
    np.testing.assert_array_equal(falling_scores(keys), values)
    assert falling_keys(np.float32([-0.0])) == falling_keys(np.float32([0.0]))


def test_every_pixel_of_a_patient_is_in_one_bin() -> None:
    maps, masks = random_slices(11)
    pixels = sort_slices(maps, masks)
    total = sum(counts.sum(axis=-1) for _, counts in pixels.binned_counts(8, at_once=3))
    for cluster, mask in enumerate(masks):
        normal, abnormal, coverage = total[:, cluster]
        assert (normal, abnormal) == (np.count_nonzero(~mask), np.count_nonzero(mask))
        assert coverage == pytest.approx(len(exact.regions(mask)))


def test_slices_that_cannot_be_compared_are_refused() -> None:
    collector = PixelCollector()
    with pytest.raises(InputError, match="NaN"):
        collector.add(np.full((2, 2), np.nan), None, 0)
    with pytest.raises(InputError, match=r"mask has shape \(3, 3\)"):
        collector.add(np.zeros((2, 2)), np.ones((3, 3)), 0)
