"""From a folder of predictions to ``metrics.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medad_fast.artifacts.predictions import Predictions
from medad_fast.evaluation.levels import Aggregation, level_tables
from medad_fast.evaluation.metrics import Resampler, metrics_of
from medad_fast.evaluation.summary import summary


def evaluate(
    dir: str | Path,
    *,
    resamples: int = 1000,
    seed: int = 0,
    volume_score: str = "max",
    patient_score: str = "max",
) -> dict[str, Any]:
    """Evaluate the predictions in a folder and write ``metrics.json`` there. See docs/metrics.md.

    ``volumes.csv`` and ``patients.csv`` beside it hold the scores made from those of the slices.
    The dataset is not needed: labels, masks and groups are kept with the predictions.

    Args:
        dir: what :func:`medad_fast.predict` wrote.
        resamples: bootstrap resamples for each interval, at least 1.
        seed: of the resamples.
        volume_score: a volume's score from those of its slices: ``max``, ``top-K`` (mean of the K
            largest) or ``quantile-Q``.
        patient_score: a patient's score from those of the volumes, likewise.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        InputError: no finished prediction there, one of an older format, a missing map or mask, or
            a damaged table.
    """
    resampler = Resampler(resamples, seed)
    predictions = Predictions.read(dir)
    aggregation = Aggregation(volume_score, patient_score)
    metrics = metrics_of(predictions, aggregation, resampler)
    found = summary(predictions, metrics)
    predictions.save_metrics(found, level_tables(predictions.rows, aggregation, metrics.cuts))
    return found
