"""All metrics of one folder of predictions, with their resamples: what a summary or test needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medad_fast.artifacts.predictions import Predictions
from medad_fast.evaluation.decisions import Cut, decided_items, decided_pixels, stored_cuts
from medad_fast.evaluation.figures import Resampler, Sample
from medad_fast.evaluation.levels import Aggregation, Items
from medad_fast.evaluation.slices import SliceData, read_slices

__all__ = ["Metrics", "metrics_of"]


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
                "unit": {**units, "pixel": self.slices.unit},
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
    slices = read_slices(predictions, cuts["pixel"].value)
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
        {**decisions, "pixel": decided_pixels(slices, cuts["pixel"], resampler)},
        aggregation,
        resampler,
    )
