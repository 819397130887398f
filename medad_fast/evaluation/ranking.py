"""Ranking metrics, exact and with ties as one step, all read from one sorted table of counts.

A :class:`Ranking` says how many normal and abnormal items stand at each distinct score. Every
metric here is a sum over it, in whole numbers as far as the formula allows, so that equal scores
never depend on the order in which they came. :mod:`medad_fast.evaluation.pixels` builds the same
table for pixels, with the coverage of each lesion beside it.

A metric that the data cannot define (a set of one class, say) is a :class:`Metric` without a value
and with the reason; it is never nan, 0.5 or 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medad_fast.errors import InputError


@dataclass(frozen=True)
class Metric:
    """A number, or why there is none."""

    value: float | None
    reason: str | None = None
    """Why the metric is undefined; ``None`` where there is a value."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """How many items stand at each of ``G`` distinct scores, from the largest score down."""

    scores: NDArray[np.floating[Any]]
    """``(G)``, strictly falling."""
    normal: NDArray[np.int64]
    """``(G)`` normal items at each score."""
    abnormal: NDArray[np.int64]
    """``(G)`` abnormal items at each score."""

    def one_class(self, item: str = "image") -> str | None:
        """Why nothing can be ranked: a class without items; ``None`` where both have some."""
        for name, counts in (("abnormal", self.abnormal), ("normal", self.normal)):
            if not counts.any():
                return f"no {name} {item}"
        return None


def rank(scores: ArrayLike, abnormal: ArrayLike) -> Ranking:
    """Sort ``scores`` once and count both classes at each distinct value.

    Args:
        scores: ``(N)``, larger is more anomalous; compared as float64. Infinities are ranked.
        abnormal: ``(N)`` bool, or 0 and 1.

    Raises:
        InputError: another shape, a NaN score, or a label other than 0 and 1.
    """
    values, truth = checked_scores(scores, abnormal)
    order = np.argsort(-values, kind="stable")
    ordered = values[order]
    starts = tie_starts(ordered)
    of_class = truth[order].astype(np.int64)
    hits = np.add.reduceat(of_class, starts) if len(starts) else of_class
    sizes = np.diff(starts, append=len(ordered))
    return Ranking(ordered[starts], sizes - hits, hits)


def checked_scores(
    scores: ArrayLike, abnormal: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The two columns as float64 and bool, refused where they cannot be ranked."""
    values = np.asarray(scores, dtype=np.float64)
    truth = np.asarray(abnormal)
    if values.ndim != 1 or truth.shape != values.shape:
        raise InputError(
            f"scores and abnormal must be two lists of one length, "
            f"not of shapes {values.shape} and {truth.shape}"
        )
    if np.isnan(values).any():
        raise InputError(f"scores has {np.isnan(values).sum()} NaN of {len(values)}")
    if truth.dtype != np.bool_ and not np.isin(truth, (0, 1)).all():
        raise InputError("abnormal must hold only 0 and 1 (or bool)")
    return values, truth.astype(np.bool_)


def tie_starts(ordered: NDArray[Any]) -> NDArray[np.int64]:
    """Where each run of equal values begins in a sorted array."""
    if not len(ordered):
        return np.zeros(0, dtype=np.int64)
    changes = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    return np.concatenate((np.zeros(1, dtype=np.int64), changes))


def auroc(ranking: Ranking, item: str = "image") -> Metric:
    """Chance that an abnormal item scores above a normal one; a tie counts one half."""
    return _metric(auroc_of_counts(ranking.normal, ranking.abnormal), ranking.one_class(item))


def average_precision(ranking: Ranking, item: str = "image") -> Metric:
    """Precision at each distinct score, weighted by the recall gained there (no interpolation).

    Defined without normal items too (then 1); we leave it undefined there, since a set of one
    class says nothing of a detector.
    """
    return _metric(precision_of_counts(ranking.normal, ranking.abnormal), ranking.one_class(item))


def fpr_at_tpr95(ranking: Ranking, item: str = "image") -> Metric:
    """Share of normal items at or above the highest score that finds 95 % of the abnormal ones."""
    return _metric(
        fpr_at_tpr95_of_counts(ranking.normal, ranking.abnormal), ranking.one_class(item)
    )


def oracle_dice(ranking: Ranking, item: str = "pixel") -> tuple[Metric, float | None]:
    """Best Dice over all thresholds, and the score ("at or above") that reaches it.

    Oracle: the threshold is chosen on the very items that are evaluated, so that the figure is an
    upper limit and not a performance. Undefined in a set of one class, as the others are.
    """
    if reason := ranking.one_class(item):
        return Metric(None, reason), None
    dice = _dice_at_each(ranking.normal, ranking.abnormal)
    best = int(np.argmax(dice))
    return Metric(float(dice[best])), float(ranking.scores[best])


def auroc_of_counts(normal: NDArray[Any], abnormal: NDArray[Any]) -> NDArray[np.float64]:
    """AUROC of tables of counts ``(..., G)`` in falling order of score; NaN without both classes.

    The pairs are counted in the dtype of the counts: exact in int64, and in float64 below 2^53.
    """
    found = np.cumsum(abnormal, axis=-1)
    # An item of group g beats the normal items below it and half of those beside it; doubled.
    twice_won = np.sum(normal * (2 * found - abnormal), axis=-1)
    pairs = found[..., -1:].sum(axis=-1) * normal.sum(axis=-1)
    return _ratio(twice_won, 2 * pairs)


def precision_of_counts(normal: NDArray[Any], abnormal: NDArray[Any]) -> NDArray[np.float64]:
    """Average precision of tables of counts ``(..., G)``; NaN without both classes."""
    found = np.cumsum(abnormal, axis=-1)
    flagged = found + np.cumsum(normal, axis=-1)
    weighted = np.sum(abnormal * (found / np.maximum(flagged, 1)), axis=-1)
    total = found[..., -1:].sum(axis=-1)
    return _ratio(weighted, np.where(normal.any(axis=-1), total, 0))


def fpr_at_tpr95_of_counts(normal: NDArray[Any], abnormal: NDArray[Any]) -> NDArray[np.float64]:
    """False-positive rate at a true-positive rate of 95 % of tables of counts ``(..., G)``."""
    found, alarms = np.cumsum(abnormal, axis=-1), np.cumsum(normal, axis=-1)
    total = found[..., -1:].sum(axis=-1)
    # In whole numbers: 0.95 has no exact float, and 19 of 20 must count as reached.
    missed = np.count_nonzero(20 * found < 19 * found[..., -1:], axis=-1)
    if not alarms.shape[-1]:
        return np.full(np.shape(total), np.nan)
    called = np.take_along_axis(alarms, missed[..., None], axis=-1)[..., 0]
    return _ratio(called, np.where(total > 0, alarms[..., -1], 0))


def best_dice_of_counts(normal: NDArray[Any], abnormal: NDArray[Any]) -> NDArray[np.float64]:
    """Best Dice over all thresholds of tables of counts ``(..., G)``; NaN without both classes."""
    dice = _dice_at_each(normal, abnormal)
    defined = np.any(abnormal, axis=-1) & np.any(normal, axis=-1)
    return np.where(defined, np.max(dice, axis=-1, initial=0.0), np.nan)


def _dice_at_each(normal: NDArray[Any], abnormal: NDArray[Any]) -> NDArray[np.float64]:
    found = np.cumsum(abnormal, axis=-1)
    called_and_true = found + np.cumsum(normal, axis=-1) + found[..., -1:]
    dice: NDArray[np.float64] = 2 * found / np.maximum(called_and_true, 1)
    return dice


def _ratio(above: NDArray[Any], below: NDArray[Any]) -> NDArray[np.float64]:
    result = np.full(np.shape(above), np.nan)
    np.divide(above, below, out=result, where=np.asarray(below) > 0)
    return result


def _metric(value: NDArray[np.float64], reason: str | None) -> Metric:
    return Metric(None, reason) if reason else Metric(float(value))
