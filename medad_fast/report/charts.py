"""Charts as coordinates of SVG paths; the template colours them, so they follow light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.artifacts.scores import ScoreRow
from medad_fast.evaluation.bootstrap import draw_clusters, resampled_counts
from medad_fast.evaluation.levels import Items

SIDE = 240
"""Width and height of the plotted area, in SVG units."""
PERCENT = np.arange(101)
GRID = PERCENT / 100
"""Where a band is computed: false-positive rates, or recalls."""
BARS = 48


@dataclass(frozen=True)
class Bands:
    """The middle 95 % of the resamples of both curves over :data:`GRID`, each ``(2, 101)``."""

    roc: NDArray[np.float64]
    precision_recall: NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One curve with its 95 % band, both as SVG path data in a square of ``SIDE``."""

    line: str
    band: str
    decision: tuple[float, float] | None
    """Place of the stored threshold on it."""


@dataclass(frozen=True)
class Row:
    """The scores of one class: bars as ``(x, y, width, height)``."""

    label: str
    bars: list[tuple[float, float, float, float]]
    count: int
    above: int
    """How many are above the threshold."""
    largest: float
    """Share of the class in the highest bar."""


@dataclass(frozen=True)
class Histogram:
    """One row of bars for each class over one axis of scores, and the threshold on it."""

    rows: list[Row]
    threshold: float
    labels: list[tuple[float, str]]
    """Place and text of the ticks along the scores."""
    beyond: int
    """How many scores lie beyond the axis and are counted in its last bar."""


def curves(rows: Sequence[ScoreRow], bootstrap: Mapping[str, Any]) -> tuple[Curve, Curve] | None:
    """ROC and precision-recall curve of the images with patient-clustered bootstrap bands.

    Args:
        rows: the scored slices.
        bootstrap: of ``metrics.json``: the bands come from the very resamples of its intervals.

    Returns:
        The two curves, or ``None`` where there is one class only.
    """
    labelled = [row for row in rows if row.label != "unlabeled"]
    items = Items.of_rows(labelled)
    if items.abnormal.all() or not items.abnormal.any():
        return None
    found = bands(items, resamples=bootstrap["resamples"], seed=bootstrap["seed"])
    table = items.ranking()
    hits, alarms = np.cumsum(table.abnormal), np.cumsum(table.normal)
    fpr, tpr, precision = alarms / alarms[-1], hits / hits[-1], hits / (hits + alarms)
    called = np.array([row.prediction == "abnormal" for row in labelled])
    hit, alarm = int((called & items.abnormal).sum()), int((called & ~items.abnormal).sum())
    decision = (alarm / int(alarms[-1]), hit / int(hits[-1]))
    # Precision at a recall is that of the first threshold that reaches it, as in AP: a stair.
    stair_x = np.repeat(np.concatenate([[0.0], tpr]), 2)[1:-1]
    return (
        Curve(
            _path(np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr])),
            _area(found.roc),
            decision,
        ),
        Curve(
            _path(stair_x, np.repeat(precision, 2)),
            _area(found.precision_recall),
            (decision[1], hit / (hit + alarm)) if hit + alarm else None,
        ),
    )


def bands(items: Items, *, resamples: int, seed: int) -> Bands:
    """Percentile bands of both curves.

    The ROC curve is the polygon through its points, at a false-positive rate with several heights
    the highest; the precision at a recall is that of the highest threshold that reaches it.
    Resamples that hold one class only are left out, as for the intervals.
    """
    clusters = items.resampled
    draws = draw_clusters(int(clusters.max()) + 1, resamples, seed)
    roc, precision_recall = list[NDArray[Any]](), list[NDArray[Any]]()
    for _, normal, ill in resampled_counts(items.scores, items.abnormal, clusters, draws):
        hits, alarms = np.cumsum(ill, axis=1), np.cumsum(normal, axis=1)
        both = (hits[:, -1] > 0) & (alarms[:, -1] > 0)
        for hit, alarm in zip(hits[both], alarms[both], strict=True):
            # In whole numbers: 7 of 20 is 0.35, never a little less.
            places = PERCENT * alarm[-1]
            roc.append(np.interp(places, np.append(0, 100 * alarm), np.append(0, hit / hit[-1])))
            reached = np.searchsorted(100 * hit, np.maximum(PERCENT * hit[-1], 1))
            called = hit + alarm
            precision_recall.append(hit[reached] / called[reached])
    if not roc:
        nothing = np.zeros((2, 0))
        return Bands(nothing, nothing)
    limits = (2.5, 97.5)
    return Bands(
        np.percentile(np.stack(roc), limits, axis=0),
        np.percentile(np.stack(precision_recall), limits, axis=0),
    )


def histogram(rows: Sequence[ScoreRow], *, width: float, height: float) -> Histogram:
    """The scores of each class, each bar as a share of its class; ``height`` is that of one row."""
    values = {
        label: np.array([row.anomaly_score for row in rows if row.label == label])
        for label in ("normal", "abnormal", "unlabeled")
    }
    values = {label: found for label, found in values.items() if len(found)}
    together, threshold = np.concatenate(list(values.values())), rows[0].threshold
    low = min(float(together.min()), threshold)
    # One extreme score must not squeeze all others into one bar: the last bar holds the rest.
    high = max(float(np.quantile(together, 0.995)), threshold)
    span = (high - low) or abs(low) or 1.0
    edges = np.linspace(low, low + span, BARS + 1)
    step = width / BARS
    found_rows = []
    for label, found in values.items():
        shares = np.histogram(np.clip(found, low, low + span), edges)[0] / len(found)
        top = float(shares.max())
        bars = [
            (i * step + 0.5, height * (1 - share / top), step - 1, height * share / top)
            for i, share in enumerate(shares.tolist())
            if share > 0
        ]
        above = int(np.count_nonzero(found > threshold))
        found_rows.append(Row(label, bars, len(found), above, top))
    return Histogram(
        found_rows,
        width * (threshold - low) / span,
        [(width * (value - low) / span, f"{value:.4g}") for value in ticks(low, low + span)],
        int(np.count_nonzero(together > low + span)),
    )


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """About ``wanted`` round values from ``low`` to ``high``."""
    rough = (high - low) / wanted
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(next(power * m for m in (1, 2, 5, 10) if power * m >= rough))
    first = np.ceil(low / step) * step
    return [float(value) + 0.0 for value in np.arange(first, high + step * 1e-6, step)]


def _area(band: NDArray[np.float64]) -> str:
    if not band.size:
        return ""
    low, high = band
    return f"{_path(GRID, high)}L{_path(GRID[::-1], low[::-1])[1:]}Z"


def _path(x: Iterable[float], y: Iterable[float]) -> str:
    points = [f"{SIDE * a:.1f},{SIDE * (1 - b):.1f}" for a, b in zip(x, y, strict=True)]
    return "M" + "L".join(dict.fromkeys(points))
