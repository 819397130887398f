"""Patient-clustered bootstrap intervals without sorting again.

A resample draws patients with replacement; a patient drawn twice counts twice, with all images. So
a resample is one whole number for each patient, and a metric of it is the metric of the sorted
table with these numbers as weights. Pixels are resampled over counts in 4,096 quantile bins of
the score; their interval, never their value, carries that rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medad_fast.errors import InputError
from medad_fast.evaluation.pixels import SortedPixels, aupro_of_counts
from medad_fast.evaluation.ranking import (
    auroc_of_counts,
    best_dice_of_counts,
    checked_scores,
    fpr_at_tpr95_of_counts,
    precision_of_counts,
    tie_starts,
)

_CELLS_AT_ONCE = 1 << 22
_OF_COUNTS = {
    "auroc": auroc_of_counts,
    "average_precision": precision_of_counts,
    "fpr_at_tpr95": fpr_at_tpr95_of_counts,
    "best_dice": best_dice_of_counts,
}
"""The ranking metrics, each from counts of normal and abnormal items by falling score."""


@dataclass(frozen=True)
class Interval:
    """The middle 95 % of the resamples in which the metric was defined."""

    low: float | None
    high: float | None
    dropped: int
    """Resamples left out because the metric was undefined in them (one class only)."""


def interval(replicates: NDArray[np.float64]) -> Interval:
    """2.5th and 97.5th percentile of the defined (not NaN) ``replicates``."""
    defined = replicates[~np.isnan(replicates)]
    dropped = len(replicates) - len(defined)
    if not len(defined):
        return Interval(None, None, dropped)
    low, high = np.percentile(defined, (2.5, 97.5))
    return Interval(float(low), float(high), dropped)


def paired_p_value(differences: NDArray[np.float64]) -> float | None:
    """Two-sided p-value of a difference, from its resamples; ``None`` where none is defined.

    Twice the share of resamples on the rarer side of 0, zeros on both sides and the observed data
    counted as one more resample: the level at which the percentile interval just touches 0. Never
    below ``2 / (resamples + 1)``.
    """
    defined = differences[~np.isnan(differences)]
    if not len(defined):
        return None
    rarer = min(np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0))
    return min(1.0, 2 * (1 + int(rarer)) / (len(defined) + 1))


def draw_clusters(clusters: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """How often each cluster is drawn in each resample: ``(resamples, clusters)``.

    Every row sums to ``clusters``. The same arguments give the same draws, so that metrics of one
    dataset are resampled together and may be compared.
    """
    generator = np.random.default_rng(seed)
    draws = np.zeros((resamples, clusters), dtype=np.int64)
    for row in draws if clusters else ():
        row += np.bincount(generator.integers(0, clusters, clusters), minlength=clusters)
    return draws


def score_replicates(
    scores: ArrayLike, abnormal: ArrayLike, cluster: ArrayLike, draws: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """The ranking metrics of every resample, NaN where undefined.

    Args:
        scores: ``(N)``, larger is more anomalous.
        abnormal: ``(N)`` bool.
        cluster: ``(N)`` number of each item's patient, a column of ``draws``.
        draws: from :func:`draw_clusters`.

    Returns:
        ``auroc``, ``average_precision``, ``fpr_at_tpr95`` and ``best_dice``, each ``(resamples)``.
    """
    result = {name: np.full(len(draws), np.nan) for name in _OF_COUNTS}
    for part, normal, ill in resampled_counts(scores, abnormal, cluster, draws):
        for name, of_counts in _OF_COUNTS.items():
            result[name][part] = of_counts(normal, ill)
    return result


def resampled_counts(
    scores: ArrayLike, abnormal: ArrayLike, cluster: ArrayLike, draws: NDArray[np.int64]
) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.int64]]]:
    """Counts of normal and abnormal items at each distinct score, from the largest down.

    Args:
        scores: as for :func:`score_replicates`, like the others.

    Yields:
        Places of some resamples, and both counts ``(len, G)`` in them.
    """
    values, truth = checked_scores(scores, abnormal)
    owner = np.asarray(cluster, dtype=np.int64)
    if owner.shape != values.shape:
        raise InputError(f"cluster must have one number for each of {len(values)} scores")
    order = np.argsort(-values, kind="stable")
    starts, truth, owner = tie_starts(values[order]), truth[order], owner[order]
    rows = max(1, _CELLS_AT_ONCE // max(1, len(values)))
    for first in range(0, len(draws) if len(values) else 0, rows):
        part = slice(first, first + rows)
        weights = draws[part][:, owner]
        ill = np.add.reduceat(weights * truth, starts, axis=1)
        yield part, np.add.reduceat(weights, starts, axis=1) - ill, ill


def ratio_replicates(
    above: ArrayLike, below: ArrayLike, cluster: ArrayLike, draws: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Sum over items of ``above`` by sum of ``below`` in every resample, NaN where the latter is 0.

    Rates, means and Dice at a fixed threshold are all of this kind.

    Args:
        above: ``(N)``.
        below: ``(N)``, at least 0.
        cluster: ``(N)`` number of each item's patient, a column of ``draws``.
        draws: from :func:`draw_clusters`.
    """
    owner = np.asarray(cluster, dtype=np.int64)
    weights = draws.astype(np.float64)
    upper, lower = (
        weights @ np.bincount(owner, np.asarray(part, dtype=np.float64), weights.shape[1])
        for part in (above, below)
    )
    result = np.full(len(draws), np.nan)
    np.divide(upper, lower, out=result, where=lower > 0)
    return result


def pixel_replicates(
    pixels: SortedPixels, draws: NDArray[np.int64], bins: int = 4096
) -> dict[str, NDArray[np.float64]]:
    """The ranking metrics and AUPRO of every resample over binned pixels, NaN where undefined.

    Args:
        pixels: sorted once; its clusters are the columns of ``draws``.
        draws: from :func:`draw_clusters`.
        bins: quantile bins of the score; pixels of one bin count as tied.
    """
    weights = draws.astype(np.float64)
    tables: list[NDArray[Any]] = []
    for _, counts in pixels.binned_counts(bins):
        tables.append(weights @ counts)
    if not tables:
        nothing = np.full(len(draws), np.nan)
        return {name: nothing for name in (*_OF_COUNTS, "aupro")}
    normal, abnormal, coverage = np.concatenate(tables, axis=-1)
    lesions = weights @ pixels.lesions_by_cluster()
    result = {name: of_counts(normal, abnormal) for name, of_counts in _OF_COUNTS.items()}
    return {**result, "aupro": aupro_of_counts(normal, coverage, lesions)}
