"""All metrics of one folder of predictions, each with its resamples, at every level."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.artifacts.predictions import Predictions
from medad_fast.errors import InputError
from medad_fast.evaluation.bootstrap import (
    draw_clusters,
    interval,
    pixel_replicates,
    ratio_replicates,
    score_replicates,
)
from medad_fast.evaluation.levels import Aggregation, Cut, Items, stored_cuts
from medad_fast.evaluation.pixels import aupro
from medad_fast.evaluation.ranking import (
    Metric,
    Ranking,
    auroc,
    average_precision,
    fpr_at_tpr95,
    oracle_dice,
)
from medad_fast.evaluation.slices import SliceData, read_slices

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


@dataclass(frozen=True)
class Metrics:
    """Each metric by level and name, with its resamples."""

    levels: dict[str, Items]
    slices: SliceData
    cuts: dict[str, Cut]
    """By level: ``image``, ``volume``, ``patient`` and ``pixel``."""
    ranking: dict[str, dict[str, Sample]]
    """Figures of the order of the scores, by level and name."""
    decisions: dict[str, dict[str, Sample]]
    """What the stored thresholds do on the test set, by level and name."""

    aggregation: Aggregation
    resampler: Resampler

    def settings(self) -> dict[str, dict[str, Any]]:
        """How levels were made and intervals were found, as results tell it."""
        units = {level: items.unit for level, items in self.levels.items()}
        return {
            "aggregate": {"volume": self.aggregation.volume, "patient": self.aggregation.patient},
            "bootstrap": {
                "resamples": self.resampler.resamples,
                "seed": self.resampler.seed,
                "level": 0.95,
                "interval": "percentile",
                "unit": {**units, "pixel": self.slices.items.unit},
            },
        }


def metrics_of(predictions: Predictions, aggregation: Aggregation, resampler: Resampler) -> Metrics:
    """Compute every metric at every level. Unlabeled slices count nowhere.

    Raises:
        InputError: no such rule of aggregation, or a map or mask is missing or damaged.
    """
    labelled = [row for row in predictions.rows if row.label != "unlabeled"]
    levels = aggregation.levels(Items.of_rows(labelled))
    cuts = stored_cuts(predictions.about["thresholds"], aggregation)
    above = cuts["pixel"].value
    slices = read_slices(predictions, math.inf if above is None else above)
    ranking = {level: resampler.scores(items) for level, items in levels.items()}
    decisions = {
        level: decided_items(items, cuts[level], resampler) for level, items in levels.items()
    }
    return Metrics(
        levels,
        slices,
        cuts,
        {
            **ranking,
            "pixel": {**resampler.pixels(slices), **resampler.pixels_of_patients(slices)},
        },
        {**decisions, "pixel": _decided_pixels(slices, cuts["pixel"], resampler)},
        aggregation,
        resampler,
    )


def decided_items(items: Items, cut: Cut, resampler: Resampler) -> dict[str, Sample]:
    """``fpr``, ``tpr`` and ``dice`` of the decision "abnormal above the threshold"."""
    ill, clusters = items.abnormal, items.resampled
    called = np.zeros(len(ill), dtype=np.bool_) if cut.value is None else items.scores > cut.value
    known = np.full(len(ill), cut.value is not None)
    hits = called & ill
    no_ill, no_well = (cut.reason or f"no {kind} {items.item}" for kind in ("abnormal", "normal"))
    found = {
        "fpr": (called & ~ill, ~ill & known, no_well),
        "tpr": (hits, ill & known, no_ill),
        # Without abnormal items Dice would be 0 whatever the decision.
        "dice": (2.0 * hits, (1.0 * called + ill) * (known & ill.any()), no_ill),
    }
    return {
        name: resampler.ratio(above, below, clusters, reason)
        for name, (above, below, reason) in found.items()
    }


def _decided_pixels(slices: SliceData, cut: Cut, resampler: Resampler) -> dict[str, Sample]:
    """The same of pixels, with Dice pooled over all, per abnormal image and per such patient."""
    sizes, clusters, patients = slices.sizes, slices.items.resampled, slices.items.patients
    hits, alarms, missed = slices.decided.T * (cut.value is not None)
    lesion = hits + missed
    normal = (sizes - lesion) * (cut.value is not None)
    no_lesion = cut.reason or slices.reason or "no abnormal pixel"
    no_normal = cut.reason or "no normal pixel"

    def mean_dice(owner: np.ndarray[Any, Any], owner_clusters: np.ndarray[Any, Any]) -> Sample:
        h, a, m = (np.bincount(owner, part).astype(np.float64) for part in (hits, alarms, missed))
        ill = h + m > 0
        dice = np.divide(2 * h, 2 * h + a + m, out=np.zeros_like(h), where=ill)
        return resampler.ratio(dice, ill, owner_clusters, no_lesion)

    return {
        "fpr": resampler.ratio(alarms, normal, clusters, no_normal),
        "tpr": resampler.ratio(hits, lesion, clusters, no_lesion),
        "dice": resampler.ratio(
            2 * hits, (2 * hits + alarms + missed) * bool(lesion.any()), clusters, no_lesion
        ),
        "dice_per_image": mean_dice(np.arange(len(sizes)), clusters),
        "dice_per_patient": mean_dice(patients, np.arange(patients.max(initial=-1) + 1)),
    }


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
