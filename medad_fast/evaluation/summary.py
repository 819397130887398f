"""From a folder of predictions to ``metrics.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medad_fast.artifacts.scores import read_columns
from medad_fast.errors import InputError
from medad_fast.evaluation.figures import Figure, Items, Resampler, Sample, figure, undefined
from medad_fast.evaluation.judgement import (
    Aggregation,
    Judgement,
    Predictions,
    judge,
    read_predictions,
)
from medad_fast.evaluation.ranking import oracle_dice
from medad_fast.evaluation.slices import MAP_PERCENTILE, SliceData
from medad_fast.evaluation.subgroups import read_groups, subgroups
from medad_fast.evaluation.tables import write_level_tables
from medad_fast.files import write_text

__all__ = ["ORACLE", "ORACLE_LABEL", "RANKING", "check_resamples", "evaluate"]

_ITEM_LEVELS = ("image", "volume", "patient")
_PER_PATIENT = ("average_precision_per_patient", "aupro_per_patient")
RANKING = {name: name for name in ("auroc", "average_precision", "aupro", *_PER_PATIENT)}
"""Figures without any threshold, and their names in a file of results."""
ORACLE = {"fpr_at_tpr95": "fpr_at_tpr95", "best_dice": "dice"}
"""Figures at a threshold from the test set, and their names in a file of results."""
ORACLE_LABEL = "oracle: thresholds chosen on the test set, an upper limit"


def evaluate(
    dir: str | Path,
    *,
    data: str | Path | None = None,
    resamples: int = 1000,
    seed: int = 0,
    volume_score: str = "max",
    patient_score: str = "max",
) -> dict[str, Any]:
    """Judge the predictions in a folder and write ``metrics.json`` there. See docs/metrics.md.

    ``volumes.csv`` and ``patients.csv`` beside it hold the scores made from those of the slices.

    Args:
        dir: what :func:`medad_fast.predict` wrote.
        data: where the data set lies now, if it moved since; masks are read from there.
        resamples: bootstrap resamples for each interval, at least 1.
        seed: of the resamples.
        volume_score: a volume's score from those of its slices: ``max``, ``top-K`` (mean of the K
            largest) or ``quantile-Q``.
        patient_score: a patient's score from those of the volumes, likewise.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        InputError: no finished prediction there, a missing map or mask, or a damaged table.
    """
    check_resamples(resamples)
    predictions = read_predictions(dir, data)
    aggregation = Aggregation(volume_score, patient_score)
    columns = read_columns(predictions.folder / "baselines.csv", len(predictions.rows))
    resampler = Resampler(resamples, seed)
    judged = judge(predictions, aggregation, resampler)
    writer = _Writer()
    metrics: dict[str, Any] = {
        **{
            level: writer.figures(level, samples, RANKING)
            for level, samples in judged.ranking.items()
        },
        "baselines": _baselines(columns, predictions, judged.levels["image"], resampler, writer),
        "published": predictions.about.get("published"),
        "counts": _counts(predictions, judged),
        "threshold": _thresholds(predictions, judged, writer),
        "maps": _maps(predictions.about["thresholds"], judged.slices),
        "oracle": _oracle(judged, writer),
        "subgroups": _subgroups(predictions, resampler),
        "aggregate": {"volume": aggregation.volume, "patient": aggregation.patient},
        "bootstrap": {
            "resamples": resamples,
            "seed": seed,
            "level": 0.95,
            "interval": "percentile",
            "unit": judged.units(),
            "dropped": writer.dropped,
        },
    }
    write_level_tables(predictions, aggregation, judged.cuts)
    text = json.dumps(metrics, indent=2, allow_nan=False) + "\n"
    write_text(predictions.folder / "metrics.json", text)
    return metrics


def check_resamples(resamples: int) -> None:
    """Refuse a number of resamples that gives no interval.

    Raises:
        InputError: it is below 1.
    """
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, got {resamples}")


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
    columns: dict[str, list[float]],
    predictions: Predictions,
    images: Items,
    resampler: Resampler,
    writer: _Writer,
) -> dict[str, dict[str, Figure]]:
    labelled = [number for number, row in enumerate(predictions.rows) if row.label != "unlabeled"]
    figures = {}
    for name, column in columns.items():
        scores = np.array(column, dtype=np.float64)[labelled]
        if np.isnan(scores).any():
            nothing = undefined("known only where each file holds one image")
            figures[name] = {"auroc": nothing, "average_precision": dict(nothing)}
        else:
            samples = resampler.scores(images.with_scores(scores))
            figures[name] = writer.figures(f"baselines.{name}", samples, RANKING)
    return figures


def _subgroups(predictions: Predictions, resampler: Resampler) -> dict[str, Any]:
    """Figures of the groups that the data set's manifest tells; without one there are none."""
    if predictions.manifest is None:
        return subgroups((), {}, resampler)
    try:
        groups = read_groups(predictions.manifest)
    except InputError:
        # Its message tells where the data set lies, which is nobody else's business.
        reason = f"{predictions.manifest.name} cannot be read any more"
        return {**subgroups((), {}, resampler), "reason": reason}
    return subgroups(predictions.rows, groups, resampler)


def _counts(predictions: Predictions, judged: Judgement) -> dict[str, Any]:
    rows, pixels, about = predictions.rows, judged.slices.pixels, predictions.about
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


def _thresholds(predictions: Predictions, judged: Judgement, writer: _Writer) -> dict[str, Any]:
    """What the thresholds from validation do on the test set."""
    result: dict[str, Any] = {
        "target_fpr": predictions.about["thresholds"]["score"]["target_fpr"],
    }
    for level, samples in judged.decisions.items():
        cut = judged.cuts[level]
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


def _oracle(judged: Judgement, writer: _Writer) -> dict[str, Any]:
    """Figures whose threshold was chosen on the test set itself."""
    rankings = {level: items.ranking() for level, items in judged.levels.items()}
    result: dict[str, Any] = {"label": ORACLE_LABEL}
    for level, samples in judged.ranking.items():
        ranking = rankings[level] if level in rankings else judged.slices.pixels.ranking()
        result[level] = {
            **writer.figures(f"oracle.{level}", samples, ORACLE),
            "dice_threshold": oracle_dice(ranking)[1],
        }
    return result
