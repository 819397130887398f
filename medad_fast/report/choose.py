"""Which slices a page shows: by a rule that is printed beside them, never by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medad_fast.scores import ScoreRow

__all__ = ["Selection", "select"]

SPREAD = 6
WORST = 4


@dataclass(frozen=True)
class Selection:
    """The slices of each part of the gallery."""

    abnormal: list[ScoreRow]
    normal: list[ScoreRow]
    unlabeled: list[ScoreRow]
    false_positives: list[ScoreRow]
    """Normal slices with the highest scores, of those above the threshold."""
    false_negatives: list[ScoreRow]
    """Abnormal slices with the lowest scores, of those not above the threshold."""

    def all(self) -> list[ScoreRow]:
        """All slices, each once."""
        rows = [
            *self.abnormal,
            *self.normal,
            *self.unlabeled,
            *self.false_positives,
            *self.false_negatives,
        ]
        return list({(row.path, row.slice): row for row in rows}.values())


def select(rows: Sequence[ScoreRow]) -> Selection:
    """Spread each class evenly over its scores, one slice a patient, and find the worst errors."""
    normal = [row for row in rows if row.label == "normal"]
    abnormal = [row for row in rows if row.label == "abnormal"]
    missed = [row for row in abnormal if row.prediction == "normal"]
    alarms = [row for row in normal if row.prediction == "abnormal"]
    return Selection(
        abnormal=_spread(abnormal),
        normal=_spread(normal),
        unlabeled=_spread([row for row in rows if row.label == "unlabeled"]),
        false_positives=sorted(alarms, key=_score, reverse=True)[:WORST],
        false_negatives=sorted(missed, key=_score)[:WORST],
    )


def _spread(rows: Sequence[ScoreRow]) -> list[ScoreRow]:
    """Highest score first. Of each patient the slice with the median score stands for all."""
    by_patient: dict[str, list[ScoreRow]] = {}
    for row in sorted(rows, key=_score):
        by_patient.setdefault(row.patient, []).append(row)
    middle = [group[len(group) // 2] for group in by_patient.values()]
    if len(middle) < SPREAD:
        middle = list(rows)
    ordered = sorted(middle, key=_score, reverse=True)
    places = np.linspace(0, len(ordered) - 1, min(SPREAD, len(ordered))).round().astype(int)
    return [ordered[place] for place in places.tolist()]


def _score(row: ScoreRow) -> tuple[float, str, int]:
    return row.anomaly_score, row.path, row.slice
