"""What a record takes from the files of a prediction and its evaluation."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medad_fast.artifacts.scores import ScoreRow
from medad_fast.evaluation.ranking import auroc, rank

LEVELS = {"image": ("auroc", "average_precision"), "pixel": ("auroc", "average_precision", "aupro")}


def levels(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The figures with their intervals, of images and of pixels."""
    return {
        level: {name: metrics[level][name] for name in names} for level, names in LEVELS.items()
    }


def scores(rows: Iterable[ScoreRow]) -> dict[str, list[Any]]:
    """Score, class and patient of each image, for comparing methods image by image."""
    ordered = sorted(rows, key=lambda row: row.path)
    return {
        "path": [row.path for row in ordered],
        "patient": [row.patient for row in ordered],
        "abnormal": [row.label == "abnormal" for row in ordered],
        "score": [float(f"{row.anomaly_score:.7g}") for row in ordered],
    }


def by_kind(data: Path, images: Collection[tuple[str, bool, float]]) -> dict[str, float | None]:
    """Image AUROC of each kind of abnormality against all normal images.

    Args:
        data: the set's folder, whose ``lesions.csv`` tells the kinds.
        images: of each its path, whether it is abnormal, and its score.
    """
    with (data / "lesions.csv").open(encoding="utf-8", newline="") as table:
        kinds = {row["file"]: row["kind"] for row in csv.DictReader(table)}
    normal = [score for _, abnormal, score in images if not abnormal]
    found: dict[str, float | None] = {}
    for kind in dict.fromkeys(kinds.values()):
        hits = [score for path, _, score in images if kinds.get(path) == kind]
        if hits:
            truth = np.arange(len(normal) + len(hits)) >= len(normal)
            found[kind] = auroc(rank(normal + hits, truth)).value
    return found
