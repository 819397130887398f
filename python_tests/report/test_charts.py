"""Bands against curves of resamples that are computed one by one, in rational numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from medad_fast.artifacts.scores import ScoreRow
from medad_fast.evaluation.bootstrap import draw_clusters
from medad_fast.evaluation.levels import Items
from medad_fast.evaluation.metrics import Resampler
from medad_fast.evaluation.ranking import average_precision
from medad_fast.report.charts import PERCENT, bands, curves, histogram, ticks
from python_tests.artifacts.score_rows import score_row

RESAMPLES, SEED = 60, 5


def some_rows(seed: int, patients: int) -> list[ScoreRow]:
    generator = np.random.default_rng(seed)
    return [
        # Few different scores: ties within and between the classes.
        score_row(generator.integers(0, 6 + ill) / 6, ("normal", "abnormal")[ill], f"p{number}")
        for number in range(patients)
        for ill in (int(generator.random() < 0.4),)
        for _ in range(int(generator.integers(1, 4)))
    ]


def points(
    scores: Sequence[float], ill: Sequence[bool]
) -> list[tuple[Fraction, Fraction, Fraction]]:
    """False-positive rate, true-positive rate and precision from the highest score down."""
    well = len(ill) - sum(ill)
    found = []
    for cut in sorted(set(scores), reverse=True):
        called = [truth for score, truth in zip(scores, ill, strict=True) if score >= cut]
        hits = sum(called)
        alarms = len(called) - hits
        found.append(
            (Fraction(alarms, well), Fraction(hits, sum(ill)), Fraction(hits, len(called)))
        )
    return found


def height(curve: list[tuple[Fraction, Fraction, Fraction]], at: Fraction) -> Fraction:
    """Of the ROC polygon, the upper end where it is upright."""
    before = (Fraction(0), Fraction(0))
    best = Fraction(0)
    for fpr, tpr, _ in curve:
        if fpr <= at:
            best = tpr
        elif before[0] <= at < fpr:
            slope = (tpr - before[1]) / (fpr - before[0])
            best = before[1] + slope * (at - before[0])
        before = (fpr, tpr)
    return best


def precision(curve: list[tuple[Fraction, Fraction, Fraction]], at: Fraction) -> Fraction:
    return next(found for _, tpr, found in curve if tpr >= at and tpr > 0)


@pytest.mark.parametrize(("seed", "patients"), [(0, 12), (1, 30), (2, 5), (3, 1)])
def test_bands_are_percentiles_of_the_curves_of_the_resamples(seed: int, patients: int) -> None:
    rows = some_rows(seed, patients)
    if patients == 1:
        rows = [
            score_row(score / 7, ("normal", "abnormal")[score % 2], "only") for score in range(8)
        ]
    items = Items.of_rows(rows)
    clusters = items.resampled.tolist()
    roc, recall = [], []
    for draw in draw_clusters(max(clusters) + 1, RESAMPLES, SEED).tolist():
        times = [draw[cluster] for cluster in clusters]
        scores = np.repeat(items.scores, times).tolist()
        ill = np.repeat(items.abnormal, times).tolist()
        if not any(ill) or all(ill):
            continue
        curve = points(scores, ill)
        places = [Fraction(int(percent), 100) for percent in PERCENT]
        roc.append([float(height(curve, at)) for at in places])
        recall.append([float(precision(curve, at)) for at in places])
    found = bands(items, resamples=RESAMPLES, seed=SEED)
    assert len(roc) > 20
    np.testing.assert_allclose(found.roc, np.percentile(roc, (2.5, 97.5), axis=0), atol=1e-12)
    np.testing.assert_allclose(
        found.precision_recall, np.percentile(recall, (2.5, 97.5), axis=0), atol=1e-12
    )


def test_the_bands_use_the_resamples_of_the_intervals() -> None:
    """The area under the curves of the resamples is their AUROC: one seed, one set of draws."""
    rows = some_rows(4, 20)
    items = Items.of_rows(rows)
    areas = Resampler(1, SEED).scores(items)["auroc"].replicates
    found = bands(items, resamples=1, seed=SEED)
    np.testing.assert_array_equal(found.roc[0], found.roc[1])
    area = np.trapezoid(found.roc[0], PERCENT / 100)
    assert area == pytest.approx(areas[0], abs=0.02)
    other = bands(items, resamples=1, seed=SEED + 1)
    assert not np.array_equal(other.roc, found.roc)


def numbers(path: str) -> np.ndarray:
    return np.array(re.findall(r"-?[\d.]+,-?[\d.]+", path))


def drawn(path: str) -> np.ndarray:
    return np.array([[float(part) for part in point.split(",")] for point in numbers(path)]) / 240


def test_the_area_under_the_drawn_stair_is_the_average_precision() -> None:
    rows = some_rows(6, 30)
    found = curves(rows, {"resamples": 20, "seed": 0})
    assert found is not None
    stair = drawn(found[1].line)
    area = np.trapezoid(1 - stair[:, 1], stair[:, 0])
    expected = average_precision(Items.of_rows(rows).ranking()).value
    assert area == pytest.approx(expected, abs=2e-3)


def test_the_stored_threshold_lies_on_both_curves() -> None:
    rows = some_rows(7, 25)
    found = curves(rows, {"resamples": 5, "seed": 0})
    assert found is not None
    called = [each for each in rows if each.prediction == "abnormal"]
    hits = sum(each.label == "abnormal" for each in called)
    ill = sum(each.label == "abnormal" for each in rows)
    alarms, well = len(called) - hits, len(rows) - ill
    assert found[0].decision == (alarms / well, hits / ill)
    assert found[1].decision == (hits / ill, hits / len(called))


def test_one_class_has_no_curves() -> None:
    rows = [
        score_row(0.1, "normal", "a"),
        score_row(0.2, "normal", "b"),
        score_row(0.3, "unlabeled", "c"),
    ]
    assert curves(rows, {"resamples": 5, "seed": 0}) is None


def test_bars_hold_every_score_once() -> None:
    generator = np.random.default_rng(0)
    rows = [score_row(float(value), "normal", "p") for value in generator.normal(0, 1, 400)]
    rows += [score_row(float(value), "unlabeled", "q") for value in (0.4, 0.6, 50.0)]
    found = histogram(rows, width=480, height=100)
    assert [(each.label, each.count) for each in found.rows] == [("normal", 400), ("unlabeled", 3)]
    for each in found.rows:
        shares = [bar[3] / 100 * each.largest for bar in each.bars]
        assert sum(shares) == pytest.approx(1)
        assert max(bar[3] for bar in each.bars) == pytest.approx(100)
    assert found.rows[0].above == sum(each.prediction == "abnormal" for each in rows[:400])
    assert found.beyond >= 1
    below = sum(bar[0] + bar[2] <= found.threshold for bar in found.rows[1].bars)
    assert below == 1


@pytest.mark.parametrize("scores", [[0.5], [0.5, 0.5], [0.0, 0.0], [-1e9, 1e9], [1e-300, 2e-300]])
def test_any_scores_make_a_histogram(scores: list[float]) -> None:
    rows = [score_row(score, "normal", "p", threshold=scores[0]) for score in scores]
    found = histogram(rows, width=480, height=100)
    assert np.isfinite([place for place, _ in found.labels]).all()
    assert np.isfinite(found.threshold)
    assert found.labels


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert ticks(-3, 17) == [0, 5, 10, 15]
