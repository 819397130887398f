"""Ranking metrics against their definitions in rational numbers, and against scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from medad_fast.errors import InputError
from medad_fast.evaluation.levels import Cut, Items
from medad_fast.evaluation.metrics import Resampler, decided_items
from medad_fast.evaluation.ranking import (
    Metric,
    auroc,
    average_precision,
    fpr_at_tpr95,
    oracle_dice,
    rank,
)
from python_tests.evaluation import exact

PARTS = 20
CASES = 50
"""Random cases in each part: 1,000 in all."""


def tied_scores(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Both classes present, few distinct values, so that ties are the rule."""
    generator = np.random.default_rng(seed)
    count = int(generator.integers(2, 60))
    levels = int(generator.integers(1, 12))
    scores = generator.integers(-levels, levels + 1, count) / 3
    abnormal = generator.random(count) < generator.choice([0.1, 0.5, 0.9])
    abnormal[0], abnormal[-1] = True, False
    return scores, abnormal


def decided(
    scores: Sequence[float] | np.ndarray, abnormal: Sequence[bool] | np.ndarray, threshold: float
) -> dict[str, Metric]:
    """What the decision "abnormal above the threshold" does, each item a patient of its own."""
    alone = np.arange(len(scores))
    items = Items(np.asarray(scores), np.asarray(abnormal), alone, alone)
    found = decided_items(items, Cut(threshold), Resampler(1, 0))
    return {name: sample.metric for name, sample in found.items()}


@pytest.mark.parametrize("part", range(PARTS))
def test_metrics_equal_their_definitions_in_rational_numbers(part: int) -> None:
    for seed in range(CASES * part, CASES * (part + 1)):
        scores, abnormal = tied_scores(seed)
        ranking, pair = rank(scores, abnormal), (scores.tolist(), abnormal.tolist())
        threshold = float(np.random.default_rng(seed).choice(scores))
        for ours, truth in (
            (auroc(ranking), exact.auroc(*pair)),
            (average_precision(ranking), exact.average_precision(*pair)),
            (fpr_at_tpr95(ranking), exact.fpr_at_tpr95(*pair)),
            (oracle_dice(ranking)[0], exact.best_dice(*pair)),
            (decided(*pair, threshold)["dice"], exact.dice_above(*pair, threshold)),
        ):
            assert ours.value == pytest.approx(float(truth), abs=1e-12, rel=0)


def sklearn_values(scores: np.ndarray, abnormal: np.ndarray) -> dict[str, float]:
    from sklearn import metrics

    fpr, tpr, _ = metrics.roc_curve(abnormal, scores, drop_intermediate=False)
    precision, recall, _ = metrics.precision_recall_curve(abnormal, scores)
    # 19 hits of 20 reach 95 %, whatever 19 / 20 is in binary.
    reached = np.round(tpr * abnormal.sum()) * 20 >= 19 * abnormal.sum()
    either = np.maximum(precision + recall, 1e-300)
    return {
        "auroc": metrics.roc_auc_score(abnormal, scores),
        "average_precision": metrics.average_precision_score(abnormal, scores),
        "fpr_at_tpr95": fpr[reached].min(),
        "best_dice": (2 * precision * recall / either).max(),
        "dice_above_0": metrics.f1_score(abnormal, scores > 0, zero_division=0.0),
    }


@pytest.mark.parametrize("part", range(PARTS))
def test_metrics_equal_scikit_learn_where_it_defines_them(part: int) -> None:
    cases = [tied_scores(seed) for seed in range(CASES * part, CASES * (part + 1))]
    generator = np.random.default_rng(part)
    truth = generator.random(3000) < 0.2
    cases.append((np.round(generator.standard_normal(3000) + truth, 1), truth))
    for scores, abnormal in cases:
        ranking = rank(scores, abnormal)
        ours = {
            "auroc": auroc(ranking),
            "average_precision": average_precision(ranking),
            "fpr_at_tpr95": fpr_at_tpr95(ranking),
            "best_dice": oracle_dice(ranking)[0],
            "dice_above_0": decided(scores, abnormal, 0.0)["dice"],
        }
        for name, value in sklearn_values(scores, abnormal).items():
            assert ours[name].value == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("seed", range(10))
def test_order_of_items_changes_no_bit(seed: int) -> None:
    scores, abnormal = tied_scores(seed)
    shuffle = np.random.default_rng(seed).permutation(len(scores))
    first, second = rank(scores, abnormal), rank(scores[shuffle], abnormal[shuffle])
    for metric in (auroc, average_precision, fpr_at_tpr95):
        assert metric(first) == metric(second)


def test_reversed_scores_reverse_auroc() -> None:
    scores, abnormal = tied_scores(3)
    forward, backward = auroc(rank(scores, abnormal)), auroc(rank(-scores, abnormal))
    assert forward.value is not None
    assert backward.value == pytest.approx(1 - forward.value, abs=1e-12)


def test_equal_scores_rank_nothing() -> None:
    ranking = rank([2.0] * 8, [True] * 2 + [False] * 6)
    assert auroc(ranking).value == 0.5
    assert average_precision(ranking).value == 0.25
    assert fpr_at_tpr95(ranking).value == 1.0


def test_negative_zero_ties_with_zero() -> None:
    assert auroc(rank([-0.0, 0.0], [True, False])).value == 0.5


def test_infinite_scores_are_ranked() -> None:
    assert auroc(rank([np.inf, 1.0, -np.inf], [True, False, False])).value == 1.0


@pytest.mark.parametrize(
    ("abnormal", "missing"), [([True, True], "normal"), ([False, False], "abnormal"), ([], "abn")]
)
def test_one_class_gives_a_reason_and_no_number(abnormal: list[bool], missing: str) -> None:
    ranking = rank(np.arange(len(abnormal)), np.array(abnormal, dtype=bool))
    for metric in (auroc, average_precision, fpr_at_tpr95):
        result = metric(ranking)
        assert result.value is None
        assert result.reason is not None
        assert f"no {missing}" in result.reason


def test_dice_needs_something_to_find() -> None:
    ranking = rank([1.0, 2.0], [False, False])
    assert oracle_dice(ranking)[0].value is None
    assert decided([1.0, 2.0], [False, False], 1.5)["dice"].value is None


def test_threshold_itself_is_not_above_the_threshold() -> None:
    found = decided([3.0, 2.0, 2.0, 1.0], [True, True, False, False], 2.0)
    assert {name: metric.value for name, metric in found.items()} == {
        "fpr": 0.0,
        "tpr": 0.5,
        "dice": pytest.approx(2 / 3),
    }


def test_oracle_threshold_reaches_the_oracle_dice() -> None:
    scores, abnormal = tied_scores(7)
    ranking = rank(scores, abnormal)
    best, threshold = oracle_dice(ranking)
    assert threshold in scores
    found = decided(scores, abnormal, float(np.nextafter(threshold, -np.inf)))
    assert found["dice"].value == pytest.approx(best.value)


@pytest.mark.parametrize(
    ("scores", "abnormal", "words"),
    [
        ([1.0, np.nan], [True, False], "1 NaN of 2"),
        ([1.0, 2.0], [True], "one length"),
        ([[1.0], [2.0]], [[1], [0]], "one length"),
        ([1.0, 2.0], [2, 0], "only 0 and 1"),
    ],
)
def test_scores_that_cannot_be_ranked_are_refused(
    scores: list[float], abnormal: list[int], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        rank(scores, abnormal)
