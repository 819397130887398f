"""Each figure with its interval, at the level of images, patients or pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.evaluate.bootstrap import (
    draw_clusters,
    interval,
    pixel_replicates,
    score_replicates,
)
from medad_fast.evaluate.metrics import Metric, Ranking, auroc, average_precision, rank
from medad_fast.evaluate.pixels import aupro
from medad_fast.evaluate.slices import SliceData, number_in_order
from medad_fast.scores import ScoreRow

__all__ = ["Figure", "Items", "Resampler", "undefined"]

Figure = dict[str, Any]
"""``value``, ``low`` and ``high`` of one metric, null where undefined, then with ``reason``."""


@dataclass(frozen=True)
class Items:
    """What is ranked at one level: images or patients."""

    scores: NDArray[np.float64]
    abnormal: NDArray[np.bool_]
    patients: NDArray[np.int64]
    """Number of each item's patient, in order of first appearance: hashes change between runs."""
    item: str = "image"

    @classmethod
    def of_rows(cls, rows: Sequence[ScoreRow]) -> Items:
        return cls(
            np.array([row.anomaly_score for row in rows], dtype=np.float64),
            np.array([row.label == "abnormal" for row in rows], dtype=np.bool_),
            number_in_order(row.patient for row in rows),
        )

    def by_patient(self) -> Items:
        """The largest score of each patient; abnormal where one of the slices is."""
        count = self.clusters
        scores = np.full(count, -np.inf)
        np.maximum.at(scores, self.patients, self.scores)
        abnormal = np.zeros(count, dtype=np.bool_)
        np.logical_or.at(abnormal, self.patients, self.abnormal)
        return Items(scores, abnormal, np.arange(count), "patient")

    def with_scores(self, scores: NDArray[np.float64]) -> Items:
        return Items(scores, self.abnormal, self.patients, self.item)

    @property
    def clusters(self) -> int:
        return int(self.patients.max()) + 1 if len(self.patients) else 0

    @property
    def unit(self) -> str:
        return "patient" if self.clusters > 1 else "image"

    def ranking(self) -> Ranking:
        return rank(self.scores, self.abnormal)


class Resampler:
    """Makes each figure with its interval, and counts the resamples that had to be left out."""

    def __init__(self, resamples: int, seed: int) -> None:
        self._resamples = resamples
        self._seed = seed
        self.dropped: dict[str, int] = {}

    def scores(self, level: str, items: Items) -> dict[str, Figure]:
        single = items.clusters <= 1
        clusters = np.arange(len(items.scores)) if single else items.patients
        draws = draw_clusters(len(set(clusters.tolist())), self._resamples, self._seed)
        replicates = score_replicates(items.scores, items.abnormal, clusters, draws)
        ranking = items.ranking()
        values = {
            "auroc": auroc(ranking, items.item),
            "average_precision": average_precision(ranking, items.item),
        }
        return self._figures(level, values, replicates)

    def pixels(self, slices: SliceData) -> dict[str, Figure]:
        pixels = slices.pixels
        ranking = pixels.ranking()
        values = {
            "auroc": auroc(ranking, "pixel"),
            "average_precision": average_precision(ranking, "pixel"),
            "aupro": aupro(ranking),
        }
        if ranking.one_class():
            undefined_all = {
                name: Metric(None, slices.reason or metric.reason)
                for name, metric in values.items()
            }
            return self._figures("pixel", undefined_all, {})
        draws = draw_clusters(pixels.clusters, self._resamples, self._seed)
        return self._figures("pixel", values, pixel_replicates(pixels, draws))

    def _figures(
        self, level: str, values: dict[str, Metric], replicates: dict[str, NDArray[np.float64]]
    ) -> dict[str, Figure]:
        figures = {}
        for name, metric in values.items():
            if metric.value is None:
                figures[name] = undefined(metric.reason)
                continue
            found = interval(replicates[name])
            self.dropped[f"{level}.{name}"] = found.dropped
            figures[name] = {"value": metric.value, "low": found.low, "high": found.high}
            if found.low is None:
                figures[name]["reason"] = "no resample holds both classes"
        return figures


def undefined(reason: str | None) -> Figure:
    """A figure without a value."""
    return {"value": None, "low": None, "high": None, "reason": reason}
