"""Ranking metrics against their definitions in rational numbers, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from medad_fast.errors import InputError
from medad_fast.evaluate.metrics import (
    auroc,
    average_precision,
    confusion_at,
    dice_at,
    fpr_at_tpr95,
    oracle_dice,
    rank,
)
from python_tests.evaluate import exact

SEEDS = range(60)


def tied_scores(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Both classes present, few distinct values, so that ties are the rule."""
    generator = np.random.default_rng(seed)
    count = int(generator.integers(2, 60))
    levels = int(generator.integers(1, 12))
    scores = generator.integers(-levels, levels + 1, count) / 3
    abnormal = generator.random(count) < generator.choice([0.1, 0.5, 0.9])
    abnormal[0], abnormal[-1] = True, False
    return scores, abnormal


@pytest.mark.parametrize("seed", SEEDS)
def test_metrics_equal_their_definitions_in_rational_numbers(seed: int) -> None:
    scores, abnormal = tied_scores(seed)
    ranking, pair = rank(scores, abnormal), (scores.tolist(), abnormal.tolist())
    for ours, truth in (
        (auroc(ranking), exact.auroc(*pair)),
        (average_precision(ranking), exact.average_precision(*pair)),
        (fpr_at_tpr95(ranking), exact.fpr_at_tpr95(*pair)),
        (oracle_dice(ranking)[0], exact.best_dice(*pair)),
    ):
        assert ours.value == pytest.approx(float(truth), abs=1e-12, rel=0)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_scikit_learn_where_it_defines_them(seed: int) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    generator = np.random.default_rng(seed)
    abnormal = generator.random(3000) < 0.2
    scores = np.round(generator.standard_normal(3000) + abnormal, 1)
    ranking = rank(scores, abnormal)
    assert auroc(ranking).value == pytest.approx(roc_auc_score(abnormal, scores), abs=1e-12)
    expected = average_precision_score(abnormal, scores)
    assert average_precision(ranking).value == pytest.approx(expected, abs=1e-12)


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
    assert dice_at(confusion_at(ranking, 1.5)).value is None


def test_threshold_itself_is_not_above_the_threshold() -> None:
    counts = confusion_at(rank([3.0, 2.0, 2.0, 1.0], [True, True, False, False]), 2.0)
    assert counts == {
        "true_positive": 1,
        "false_positive": 0,
        "false_negative": 1,
        "true_negative": 2,
    }
    assert dice_at(counts).value == pytest.approx(2 / 3)


def test_oracle_threshold_reaches_the_oracle_dice() -> None:
    scores, abnormal = tied_scores(7)
    ranking = rank(scores, abnormal)
    best, threshold = oracle_dice(ranking)
    assert threshold in scores
    counts = confusion_at(ranking, float(np.nextafter(threshold, -np.inf)))
    assert dice_at(counts).value == pytest.approx(best.value)


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
