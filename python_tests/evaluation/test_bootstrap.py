"""Weighted resampling against resampling by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medad_fast.errors import InputError
from medad_fast.evaluation import bootstrap
from medad_fast.evaluation.bootstrap import (
    draw_clusters,
    interval,
    pixel_replicates,
    ratio_replicates,
    score_replicates,
)
from medad_fast.evaluation.pixels import PixelCollector, aupro
from medad_fast.evaluation.ranking import (
    Ranking,
    auroc,
    average_precision,
    fpr_at_tpr95,
    oracle_dice,
    rank,
)


def values(ranking: Ranking) -> dict[str, float | None]:
    return {
        "auroc": auroc(ranking).value,
        "average_precision": average_precision(ranking).value,
        "fpr_at_tpr95": fpr_at_tpr95(ranking).value,
        "best_dice": oracle_dice(ranking)[0].value,
    }


def clustered_scores(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    cluster = np.sort(generator.integers(0, 9, 50))
    cluster = np.unique(cluster, return_inverse=True)[1]
    abnormal = generator.random(50) < 0.4
    return np.round(generator.standard_normal(50) + abnormal, 1), abnormal, cluster


@pytest.mark.parametrize("seed", range(5))
def test_weights_equal_resampling_patients_by_hand(seed: int) -> None:
    scores, abnormal, cluster = clustered_scores(seed)
    draws = draw_clusters(cluster.max() + 1, 40, seed)
    replicates = score_replicates(scores, abnormal, cluster, draws)
    for number, counts in enumerate(draws):
        items = np.repeat(np.arange(len(scores)), counts[cluster])
        ranking = rank(scores[items], abnormal[items])
        for name, expected in values(ranking).items():
            ours = replicates[name][number]
            assert (
                np.isnan(ours) if expected is None else ours == pytest.approx(expected, abs=1e-12)
            )


@pytest.mark.parametrize("seed", range(3))
def test_ratios_equal_resampling_patients_by_hand(seed: int) -> None:
    scores, abnormal, cluster = clustered_scores(seed)
    draws = draw_clusters(cluster.max() + 1, 40, seed)
    found = scores > 0
    replicates = ratio_replicates(found & abnormal, abnormal, cluster, draws)
    for counts, ours in zip(draws, replicates, strict=True):
        items = np.repeat(np.arange(len(scores)), counts[cluster])
        ill = abnormal[items]
        assert np.isnan(ours) if not ill.any() else ours == found[items][ill].mean()
    assert np.isnan(ratio_replicates([1.0], [0.0], [0], np.ones((1, 1), np.int64))).all()


def small_study(patients: int) -> tuple[PixelCollector, list[np.ndarray], list[np.ndarray]]:
    generator = np.random.default_rng(5)
    masks = [generator.random((6, 6)) < 0.15 * (n % 2) for n in range(2 * patients)]
    maps = [np.round(generator.random((6, 6)) + m, 1).astype(np.float32) for m in masks]
    collector = PixelCollector()
    for number, (anomaly_map, mask) in enumerate(zip(maps, masks, strict=True)):
        collector.add(anomaly_map, mask, number // 2)
    return collector, maps, masks


def test_binned_pixels_equal_resampling_by_hand_where_bins_hold_one_value() -> None:
    collector, maps, masks = small_study(5)
    draws = draw_clusters(5, 20, 0)
    replicates = pixel_replicates(collector.sort(), draws)
    for number, counts in enumerate(draws):
        again = PixelCollector()
        for item in np.repeat(np.arange(10), np.repeat(counts, 2)):
            again.add(maps[item], masks[item], 0)
        ranking = again.sort().ranking()
        for name, expected in {**values(ranking), "aupro": aupro(ranking).value}.items():
            assert replicates[name][number] == pytest.approx(expected, abs=1e-12)


def test_bins_cost_little_where_lesions_are_rare() -> None:
    generator = np.random.default_rng(0)
    collector = PixelCollector()
    for patient in range(6):
        mask = np.zeros((128, 128), dtype=bool)
        mask[40:46, 40:50] = True
        anomaly_map = generator.gamma(2.0, 1.0, (128, 128)) + 8 * mask
        collector.add(anomaly_map.astype(np.float32), mask, patient)
    pixels = collector.sort()
    assert pixels.lesion_pixels < 0.004 * pixels.pixels
    ranking = pixels.ranking()
    for bins, allowed in ((4096, 2e-3), (64, 0.04)):
        once = pixel_replicates(pixels, np.ones((1, 6), dtype=np.int64), bins)
        for name, value in {**values(ranking), "aupro": aupro(ranking).value}.items():
            assert once[name][0] == pytest.approx(value, abs=allowed), name


def test_draws_keep_the_number_of_patients_and_follow_the_seed() -> None:
    draws = draw_clusters(7, 30, 3)
    assert draws.shape == (30, 7)
    assert (draws.sum(axis=1) == 7).all()
    np.testing.assert_array_equal(draws, draw_clusters(7, 30, 3))
    assert (draws != draw_clusters(7, 30, 4)).any()


def test_resamples_of_one_class_are_dropped_and_counted() -> None:
    scores, abnormal = [3.0, 2.0, 1.0], [True, False, False]
    draws = draw_clusters(3, 200, 0)
    undefined = int(((draws[:, 0] == 0) | (draws[:, 0] == 3)).sum())
    assert (draws[:, 0] == 3).any()
    assert 0 < undefined < 200
    for name, replicates in score_replicates(scores, abnormal, [0, 1, 2], draws).items():
        result = interval(replicates)
        assert result.dropped == undefined
        perfect = 0.0 if name == "fpr_at_tpr95" else 1.0
        assert (result.low, result.high) == (perfect, perfect)


def test_the_interval_is_the_middle_95_percent() -> None:
    replicates = np.random.default_rng(0).permutation(1001) / 1000
    found = interval(np.append(replicates, np.nan))
    assert (found.low, found.high, found.dropped) == (0.025, 0.975, 1)


def test_an_interval_without_any_defined_resample_is_empty() -> None:
    draws = draw_clusters(2, 10, 0)
    result = interval(score_replicates([1.0, 2.0], [True, True], [0, 1], draws)["auroc"])
    assert (result.low, result.high, result.dropped) == (None, None, 10)


def test_clustering_widens_the_interval_of_repeated_slices() -> None:
    generator = np.random.default_rng(1)
    truth = np.arange(40) % 2 == 0
    patient_scores = generator.standard_normal(40) + truth
    scores, abnormal = np.repeat(patient_scores, 20), np.repeat(truth, 20)
    by_patient = score_replicates(
        scores, abnormal, np.repeat(np.arange(40), 20), draw_clusters(40, 300, 0)
    )
    by_image = score_replicates(scores, abnormal, np.arange(800), draw_clusters(800, 300, 0))
    widths = [
        (found.high or 0) - (found.low or 0)
        for found in (interval(by_patient["auroc"]), interval(by_image["auroc"]))
    ]
    assert widths[0] > 2 * widths[1]


def test_long_lists_in_chunks_equal_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, abnormal, cluster = clustered_scores(2)
    draws = draw_clusters(cluster.max() + 1, 25, 0)
    whole = score_replicates(scores, abnormal, cluster, draws)
    monkeypatch.setattr(bootstrap, "_CELLS_AT_ONCE", 150)
    np.testing.assert_array_equal(
        score_replicates(scores, abnormal, cluster, draws)["auroc"], whole["auroc"]
    )


def test_every_score_needs_a_patient() -> None:
    with pytest.raises(InputError, match="cluster"):
        score_replicates([1.0, 2.0], [True, False], [0], draw_clusters(1, 2, 0))
