"""``metrics.json``: all metrics of a folder of predictions, each with an interval or a reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from medad_fast.artifacts.predictions import Predictions
from medad_fast.evaluation.metrics import Figure, Metrics, Sample, figure, undefined
from medad_fast.evaluation.ranking import oracle_dice
from medad_fast.evaluation.slices import MAP_PERCENTILE, SliceData
from medad_fast.evaluation.subgroups import subgroups

_ITEM_LEVELS = ("image", "volume", "patient")
_PER_PATIENT = ("average_precision_per_patient", "aupro_per_patient")
RANKING = {name: name for name in ("auroc", "average_precision", "aupro", *_PER_PATIENT)}
"""Figures without any threshold, and their names in a file of results."""
ORACLE = {"fpr_at_tpr95": "fpr_at_tpr95", "best_dice": "dice"}
"""Figures at a threshold from the test set, and their names in a file of results."""
ORACLE_LABEL = "oracle: thresholds chosen on the test set, an upper limit"


def summary(predictions: Predictions, metrics: Metrics) -> dict[str, Any]:
    """What ``metrics.json`` holds; see docs/metrics.md.

    Args:
        predictions: what was evaluated.
        metrics: of it.

    Raises:
        InputError: a table is missing or damaged.
    """
    writer = _Writer()
    settings = metrics.settings()
    return {
        **{
            level: writer.figures(level, samples, RANKING)
            for level, samples in metrics.ranking.items()
        },
        "baselines": _baselines(predictions, metrics, writer),
        "published": predictions.about.get("published"),
        "counts": _counts(predictions, metrics),
        "threshold": _thresholds(predictions, metrics, writer),
        "maps": _maps(predictions.about["thresholds"], metrics.slices),
        "oracle": _oracle(metrics, writer),
        "subgroups": subgroups(
            predictions.rows, predictions.groups, metrics.cuts["image"], metrics.resampler
        ),
        "aggregate": settings["aggregate"],
        "bootstrap": {**settings["bootstrap"], "dropped": writer.dropped},
    }


class _Writer:
    """Makes figures of samples and counts the resamples that had to be left out."""

    def __init__(self) -> None:
        self.dropped: dict[str, int] = {}

    def figures(
        self, place: str, samples: Mapping[str, Sample], names: Mapping[str, str] | None = None
    ) -> dict[str, Figure]:
        return {
            told: self.figure(f"{place}.{told}", samples[name])
            for name, told in (names or {name: name for name in samples}).items()
            if name in samples
        }

    def figure(self, name: str, sample: Sample) -> Figure:
        found, dropped = figure(sample)
        if found["value"] is not None:
            self.dropped[name] = dropped
        return found


def _baselines(
    predictions: Predictions, metrics: Metrics, writer: _Writer
) -> dict[str, dict[str, Figure]]:
    labelled = [number for number, row in enumerate(predictions.rows) if row.label != "unlabeled"]
    figures = {}
    for name, column in predictions.baselines().items():
        scores = np.array(column, dtype=np.float64)[labelled]
        if np.isnan(scores).any():
            nothing = undefined("known only where each file holds one image")
            figures[name] = {"auroc": nothing, "average_precision": dict(nothing)}
        else:
            items = replace(metrics.levels["image"], scores=scores)
            samples = metrics.resampler.scores(items)
            figures[name] = writer.figures(f"baselines.{name}", samples, RANKING)
    return figures


def _counts(predictions: Predictions, metrics: Metrics) -> dict[str, Any]:
    rows, pixels, about = predictions.rows, metrics.slices.pixels, predictions.about
    labels = [row.label for row in rows]
    return {
        "images": len(rows),
        "normal": labels.count("normal"),
        "abnormal": labels.count("abnormal"),
        "unlabeled": labels.count("unlabeled"),
        "volumes": len({row.path for row in rows}),
        "patients": len({row.patient for row in rows}),
        "skipped_slices": about["counts"]["skipped_slices"],
        "failed_files": about["counts"]["failed_files"],
        "pixels": pixels.pixels,
        "lesion_pixels": pixels.lesion_pixels,
        "lesion_share": pixels.lesion_pixels / pixels.pixels if pixels.pixels else None,
        "lesions": pixels.lesions,
    }


def _thresholds(predictions: Predictions, metrics: Metrics, writer: _Writer) -> dict[str, Any]:
    """What the thresholds from validation do on the test set."""
    result: dict[str, Any] = {
        "target_fpr": predictions.about["thresholds"]["score"]["target_fpr"],
    }
    for level, samples in metrics.decisions.items():
        cut = metrics.cuts[level]
        result[level] = {"value": cut.value}
        if level in _ITEM_LEVELS:
            result[level]["expected_fpr"] = cut.expected_fpr
        result[level].update(writer.figures(f"threshold.{level}", samples))
    return result


def _maps(thresholds: dict[str, Any], slices: SliceData) -> dict[str, Any]:
    """How bright the maps are, and the common scale to show them on."""
    scale = thresholds.get("map", {})
    return {
        "percentile": MAP_PERCENTILE,
        "normal": slices.median_percentile("normal"),
        "abnormal": slices.median_percentile("abnormal"),
        "low": scale.get("low"),
        "high": scale.get("high"),
    }


def _oracle(metrics: Metrics, writer: _Writer) -> dict[str, Any]:
    """Figures whose threshold was chosen on the test set itself."""
    rankings = {level: items.ranking() for level, items in metrics.levels.items()}
    result: dict[str, Any] = {"label": ORACLE_LABEL}
    for level, samples in metrics.ranking.items():
        ranking = rankings[level] if level in rankings else metrics.slices.pixels.ranking()
        result[level] = {
            **writer.figures(f"oracle.{level}", samples, ORACLE),
            "dice_threshold": oracle_dice(ranking)[1],
        }
    return result
