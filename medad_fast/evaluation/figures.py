"""Each metric with its resamples, at the level of images, volumes, patients or pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.errors import InputError
from medad_fast.evaluation.bootstrap import (
    draw_clusters,
    interval,
    pixel_replicates,
    ratio_replicates,
    score_replicates,
)
from medad_fast.evaluation.levels import Items
from medad_fast.evaluation.pixels import aupro
from medad_fast.evaluation.ranking import (
    Metric,
    Ranking,
    auroc,
    average_precision,
    fpr_at_tpr95,
    oracle_dice,
)
from medad_fast.evaluation.slices import SliceData

__all__ = ["Figure", "Resampler", "Sample", "figure", "undefined"]

Figure = dict[str, Any]
"""``value``, ``low`` and ``high`` of one metric, null where undefined, then with ``reason``."""


@dataclass(frozen=True)
class Sample:
    """A metric and what it is in each resample: ``(resamples)``, NaN where undefined."""

    metric: Metric
    replicates: NDArray[np.float64]


class Resampler:
    """Computes metrics in the data and in every resample of the patients, all with equal draws."""

    def __init__(self, resamples: int, seed: int) -> None:
        if resamples < 1:
            raise InputError(f"resamples must be at least 1, got {resamples}")
        self.resamples = resamples
        self.seed = seed

    def scores(self, items: Items) -> dict[str, Sample]:
        """``auroc``, ``average_precision``, ``fpr_at_tpr95`` and ``best_dice`` of ranked items."""
        clusters = items.resampled
        replicates = score_replicates(
            items.scores, items.abnormal, clusters, self._draws(clusters.max(initial=-1) + 1)
        )
        ranking = items.ranking()
        return _samples(_ranking_metrics(ranking, items.item), replicates)

    def pixels(self, slices: SliceData) -> dict[str, Sample]:
        """The same of pixels, and ``aupro``."""
        ranking = slices.pixels.ranking()
        values = {**_ranking_metrics(ranking, "pixel"), "aupro": aupro(ranking)}
        if ranking.one_class():
            nothing = np.full(self.resamples, np.nan)
            return {
                name: Sample(Metric(None, slices.reason or metric.reason), nothing)
                for name, metric in values.items()
            }
        return _samples(
            values, pixel_replicates(slices.pixels, self._draws(slices.pixels.clusters))
        )

    def pixels_of_patients(self, slices: SliceData) -> dict[str, Sample]:
        """``average_precision_per_patient`` and ``aupro_per_patient``: means over the patients."""
        return {
            f"{name}_per_patient": self.ratio(
                np.nan_to_num(values),
                ~np.isnan(values),
                np.arange(len(values)),
                slices.reason or "no patient with normal and abnormal pixels",
            )
            for name, values in slices.of_patient.items()
        }

    def ratio(
        self,
        above: NDArray[Any],
        below: NDArray[Any],
        clusters: NDArray[np.int64],
        reason: str | None,
    ) -> Sample:
        """Sum of ``above`` by sum of ``below``, each ``(N)``; without a sum below, ``reason``."""
        total = float(np.sum(below))
        metric = Metric(float(np.sum(above)) / total) if total else Metric(None, reason)
        draws = self._draws(clusters.max(initial=-1) + 1)
        return Sample(metric, ratio_replicates(above, below, clusters, draws))

    def _draws(self, clusters: int) -> NDArray[np.int64]:
        return draw_clusters(int(clusters), self.resamples, self.seed)


def figure(sample: Sample) -> tuple[Figure, int]:
    """A metric with its interval, and how many resamples had to be left out."""
    if sample.metric.value is None:
        return undefined(sample.metric.reason), 0
    found = interval(sample.replicates)
    result: Figure = {"value": sample.metric.value, "low": found.low, "high": found.high}
    if found.low is None:
        result["reason"] = "no resample holds both classes"
    return result, found.dropped


def undefined(reason: str | None) -> Figure:
    """A figure without a value."""
    return {"value": None, "low": None, "high": None, "reason": reason}


def _ranking_metrics(ranking: Ranking, item: str) -> dict[str, Metric]:
    best, _ = oracle_dice(ranking, item)
    return {
        "auroc": auroc(ranking, item),
        "average_precision": average_precision(ranking, item),
        "fpr_at_tpr95": fpr_at_tpr95(ranking, item),
        "best_dice": best,
    }


def _samples(
    metrics: Mapping[str, Metric], replicates: Mapping[str, NDArray[np.float64]]
) -> dict[str, Sample]:
    return {name: Sample(metric, replicates[name]) for name, metric in metrics.items()}
