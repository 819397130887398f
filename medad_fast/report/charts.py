"""Charts as coordinates of SVG paths; the template colours them, so they follow light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.evaluate.bootstrap import draw_clusters
from medad_fast.evaluate.figures import Items
from medad_fast.scores import ScoreRow

__all__ = ["Curve", "Histogram", "curves", "histogram", "ticks"]

SIDE = 240
"""Width and height of the plotted area, in SVG units."""
RESAMPLES = 400
GRID = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Curve:
    """One curve with its 95 % band, both as SVG path data in a square of ``SIDE``."""

    line: str
    band: str


@dataclass(frozen=True)
class Histogram:
    """Bars of normal and abnormal scores as ``(x, y, width, height)``, and the threshold."""

    normal: list[tuple[float, float, float, float]]
    abnormal: list[tuple[float, float, float, float]]
    threshold: float
    labels: list[tuple[float, str]]
    """Place and text of the ticks along the scores."""


def curves(rows: Sequence[ScoreRow], *, seed: int) -> tuple[Curve, Curve] | None:
    """ROC and precision-recall curve of the images, with patient-clustered bootstrap bands.

    Returns:
        The two curves, or ``None`` where there is one class only.
    """
    items = Items.of_rows([row for row in rows if row.label != "unlabeled"])
    if items.abnormal.all() or not items.abnormal.any():
        return None
    clusters = items.patients if items.clusters > 1 else np.arange(len(items.scores))
    draws = draw_clusters(int(clusters.max()) + 1, RESAMPLES, seed)
    order = np.argsort(-items.scores, kind="stable")
    truth = items.abnormal[order]
    ends = np.append(np.flatnonzero(np.diff(items.scores[order])), len(order) - 1)
    exact = _rates(np.ones((1, len(order))), truth, ends)
    weights = draws[:, clusters[order]].astype(np.float64)
    both = (weights @ truth > 0) & (weights @ ~truth > 0)
    resampled = _rates(weights[both], truth, ends)
    return _roc(exact, resampled), _precision_recall(exact, resampled)


def histogram(rows: Sequence[ScoreRow], *, width: float, height: float) -> Histogram | None:
    """Scores of both classes, each as a share of its class; ``None`` where nothing is labelled."""
    values = {
        label: np.array([row.anomaly_score for row in rows if row.label == label])
        for label in ("normal", "abnormal")
    }
    together = np.concatenate(list(values.values()))
    if not len(together):
        return None
    threshold = rows[0].threshold
    low = min(float(together.min()), threshold)
    # One extreme score must not squeeze all others into one bar: the last bar holds the rest.
    high = max(float(np.quantile(together, 0.995)), threshold)
    span = (high - low) or 1.0
    edges = np.linspace(low, low + span, 41)
    shares = {
        label: np.histogram(np.clip(found, low, low + span), edges)[0] / max(len(found), 1)
        for label, found in values.items()
    }
    top = max(float(share.max()) for share in shares.values()) or 1.0
    step = width / 40
    bars = {
        label: [
            (i * step, height * (1 - share / top), step, height * share / top)
            for i, share in enumerate(found.tolist())
            if share > 0
        ]
        for label, found in shares.items()
    }
    labels = [(width * (value - low) / span, f"{value:.3g}") for value in ticks(low, low + span)]
    return Histogram(bars["normal"], bars["abnormal"], width * (threshold - low) / span, labels)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """About ``wanted`` round values from ``low`` to ``high``."""
    rough = (high - low) / wanted
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(next(power * m for m in (1, 2, 5, 10) if power * m >= rough))
    first = np.ceil(low / step) * step
    return [float(value) for value in np.arange(first, high + step * 1e-6, step)]


@dataclass(frozen=True)
class _Rates:
    """At each threshold, from the highest score down: ``(resamples, thresholds)``."""

    false_positive: NDArray[Any]
    true_positive: NDArray[Any]
    precision: NDArray[Any]


def _rates(weights: NDArray[Any], truth: NDArray[np.bool_], ends: NDArray[Any]) -> _Rates:
    hits = np.cumsum(weights * truth, axis=1)[:, ends]
    alarms = np.cumsum(weights * ~truth, axis=1)[:, ends]
    called = hits + alarms
    # Before the first drawn item nothing is called abnormal; precision 1 there by convention.
    precision = np.divide(hits, called, out=np.ones_like(hits), where=called > 0)
    return _Rates(alarms / alarms[:, -1:], hits / hits[:, -1:], precision)


def _roc(exact: _Rates, resampled: _Rates) -> Curve:
    x = np.concatenate([[0.0], exact.false_positive[0]])
    y = np.concatenate([[0.0], exact.true_positive[0]])
    at_grid = [
        np.interp(GRID, np.concatenate([[0.0], a]), np.concatenate([[0.0], b]))
        for a, b in zip(resampled.false_positive, resampled.true_positive, strict=True)
    ]
    return Curve(_path(x, y), _band(at_grid))


def _precision_recall(exact: _Rates, resampled: _Rates) -> Curve:
    recall, precision = exact.true_positive[0], exact.precision[0]
    x = np.concatenate([[0.0], recall])
    y = np.concatenate([precision[:1], precision])
    at_grid = [
        np.interp(GRID, a, b)
        for a, b in zip(resampled.true_positive, resampled.precision, strict=True)
    ]
    return Curve(_path(x, y), _band(at_grid))


def _band(at_grid: list[NDArray[Any]]) -> str:
    if not at_grid:
        return ""
    low, high = np.percentile(np.stack(at_grid), [2.5, 97.5], axis=0)
    there = _path(GRID, high)
    back = _path(GRID[::-1], low[::-1])
    return f"{there}L{back[1:]}Z"


def _path(x: Iterable[float], y: Iterable[float]) -> str:
    points = [f"{SIDE * a:.1f},{SIDE * (1 - b):.1f}" for a, b in zip(x, y, strict=True)]
    return "M" + "L".join(dict.fromkeys(points))
