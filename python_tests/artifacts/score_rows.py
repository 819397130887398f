"""One row of ``scores.csv``, made from what a test is about."""

from __future__ import annotations

from medad_fast.artifacts.scores import ScoreRow
from medad_fast.data.dataset import Label


def score_row(score: float, label: Label, patient: str, threshold: float = 0.5) -> ScoreRow:
    """Of the only picture of a patient, called abnormal above the threshold."""
    return ScoreRow(
        path=f"{patient}.png",
        patient=patient,
        slice=0,
        split="test",
        label=label,
        mask="",
        map="",
        anomaly_score=score,
        threshold=threshold,
        prediction="abnormal" if score > threshold else "normal",
        p_value=0.5,
    )
