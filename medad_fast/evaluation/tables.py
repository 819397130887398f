"""``volumes.csv`` and ``patients.csv``: the scores of slices made into one each, with decisions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medad_fast.artifacts.scores import write_table
from medad_fast.evaluation.figures import Items
from medad_fast.evaluation.judgement import Aggregation, Cut, Predictions
from medad_fast.training.thresholds import conformal_p

__all__ = ["write_level_tables"]

_JUDGED = ("label", "images", "anomaly_score", "threshold", "prediction", "p_value")


def write_level_tables(
    predictions: Predictions, aggregation: Aggregation, cuts: dict[str, Cut]
) -> None:
    """Write both tables beside ``scores.csv``: every scored volume and patient, also unlabeled.

    ``threshold``, ``prediction`` and ``p_value`` are empty where the run does not tell the patients
    of its validation images apart.

    Raises:
        DeviceError: the disk is full or not writable.
    """
    rows = predictions.rows
    levels = aggregation.levels(Items.of_rows(rows))
    images = levels["image"]
    path_of, patient_of = ([getattr(row, name) for row in rows] for name in ("path", "patient"))
    labels = np.array([("normal", "unlabeled", "abnormal").index(row.label) for row in rows])
    for level, owner, columns in (
        ("volume", images.volumes, {"path": path_of, "patient": patient_of}),
        ("patient", images.patients, {"patient": patient_of}),
    ):
        _, first = np.unique(owner, return_index=True)
        names = [[column[place] for place in first] for column in columns.values()]
        judged = _judged(levels[level].scores, labels, owner, cuts[level])
        path = Path(predictions.folder / f"{level}s.csv")
        with write_table(path, (*columns, *_JUDGED)) as table:
            table.write((*own, *cells) for *own, cells in zip(*names, judged, strict=True))


def _judged(
    scores: NDArray[np.float64], labels: NDArray[np.int64], owner: NDArray[np.int64], cut: Cut
) -> Iterator[tuple[object, ...]]:
    worst = np.zeros(len(scores), dtype=np.int64)
    np.maximum.at(worst, owner, labels)
    images = np.bincount(owner)
    for score, label, count in zip(scores.tolist(), worst.tolist(), images.tolist(), strict=True):
        told = ("normal", "unlabeled", "abnormal")[label]
        if cut.value is None:
            yield told, count, score, math.nan, "", math.nan
        else:
            verdict = "abnormal" if score > cut.value else "normal"
            yield told, count, score, cut.value, verdict, conformal_p(score, cut.calibration)
