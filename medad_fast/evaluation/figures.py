"""Each metric with its resamples, at the level of images, volumes, patients or pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.artifacts.scores import ScoreRow
from medad_fast.evaluation.bootstrap import (
    draw_clusters,
    interval,
    pixel_replicates,
    ratio_replicates,
    score_replicates,
)
from medad_fast.evaluation.levels import Rule, aggregate
from medad_fast.evaluation.pixels import aupro
from medad_fast.evaluation.ranking import (
    Metric,
    Ranking,
    auroc,
    average_precision,
    fpr_at_tpr95,
    oracle_dice,
    rank,
)
from medad_fast.evaluation.slices import SliceData, number_in_order

__all__ = ["Figure", "Items", "Resampler", "Sample", "figure", "undefined"]

Figure = dict[str, Any]
"""``value``, ``low`` and ``high`` of one metric, null where undefined, then with ``reason``."""


@dataclass(frozen=True)
class Items:
    """What is ranked at one level: images, volumes or patients."""

    scores: NDArray[np.float64]
    abnormal: NDArray[np.bool_]
    patients: NDArray[np.int64]
    """Number of each item's patient, in order of first appearance: hashes change between runs."""
    volumes: NDArray[np.int64]
    """Number of each item's volume, in order of first appearance."""
    item: str = "image"

    @classmethod
    def of_rows(cls, rows: Sequence[ScoreRow]) -> Items:
        return cls(
            np.array([row.anomaly_score for row in rows], dtype=np.float64),
            np.array([row.label == "abnormal" for row in rows], dtype=np.bool_),
            number_in_order(row.patient for row in rows),
            number_in_order(row.path for row in rows),
        )

    def by_volume(self, rule: Rule) -> Items:
        """One item a volume; abnormal where one of the slices is."""
        return self._grouped(self.volumes, rule, "volume")

    def by_patient(self, rule: Rule) -> Items:
        """One item a patient; abnormal where one of the items is."""
        return self._grouped(self.patients, rule, "patient")

    def _grouped(self, owner: NDArray[np.int64], rule: Rule, item: str) -> Items:
        _, first = np.unique(owner, return_index=True)
        abnormal = np.zeros(len(first), dtype=np.bool_)
        np.logical_or.at(abnormal, owner, self.abnormal)
        scores = aggregate(self.scores, owner, rule)
        return Items(scores, abnormal, self.patients[first], self.volumes[first], item)

    def with_scores(self, scores: NDArray[np.float64]) -> Items:
        return Items(scores, self.abnormal, self.patients, self.volumes, self.item)

    @property
    def clusters(self) -> int:
        """How many patients there are."""
        return int(self.patients.max()) + 1 if len(self.patients) else 0

    @property
    def unit(self) -> str:
        """What is resampled."""
        return "patient" if self.clusters > 1 else self.item

    @property
    def resampled(self) -> NDArray[np.int64]:
        """Number of what each item is resampled with: its patient, or itself for a lone patient."""
        return self.patients if self.clusters > 1 else np.arange(len(self.scores))

    def ranking(self) -> Ranking:
        return rank(self.scores, self.abnormal)


@dataclass(frozen=True)
class Sample:
    """A metric and what it is in each resample: ``(resamples)``, NaN where undefined."""

    metric: Metric
    replicates: NDArray[np.float64]


class Resampler:
    """Computes metrics in the data and in every resample of the patients, all with equal draws."""

    def __init__(self, resamples: int, seed: int) -> None:
        self._resamples = resamples
        self._seed = seed

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
            nothing = np.full(self._resamples, np.nan)
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
        return draw_clusters(int(clusters), self._resamples, self._seed)


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
