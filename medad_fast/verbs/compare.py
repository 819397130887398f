"""Two folders of predictions on the same images, metric by metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medad_fast.artifacts.predictions import Predictions
from medad_fast.evaluation.comparison import comparison
from medad_fast.evaluation.levels import Aggregation
from medad_fast.evaluation.metrics import Resampler


def compare(
    a: str | Path,
    b: str | Path,
    *,
    resamples: int = 1000,
    seed: int = 0,
    volume_score: str = "max",
    patient_score: str = "max",
) -> dict[str, Any]:
    """Compare the predictions of two runs on the same images, metric by metric, paired.

    Args:
        a: what :func:`medad_fast.predict` wrote.
        b: the same of another run.
        resamples: bootstrap resamples of the patients, at least 1.
        seed: of the resamples.
        volume_score: a volume's score from those of its slices, as for ``evaluate``.
        patient_score: a patient's score from those of the volumes.

    Returns:
        JSON-ready: ``image``, ``volume``, ``patient``, ``pixel``, ``threshold`` and ``oracle`` as
        in ``metrics.json``. Each figure has ``a``, ``b``, ``difference`` (b - a), its 95 %
        interval ``low`` to ``high``, ``p_value``, and a ``reason`` where it is undefined.
        ``differs`` lists the settings in which the runs differ. See docs/metrics.md.

    Raises:
        InputError: the folders do not score the same images with the same labels, masks and
            patients, or one of them is no finished prediction, or of an older format.
    """
    resampler = Resampler(resamples, seed)
    first, second = Predictions.read(a), Predictions.read(b)
    return comparison(first, second, Aggregation(volume_score, patient_score), resampler)
