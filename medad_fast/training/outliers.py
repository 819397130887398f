"""Training images that look least normal to the method that learned from them.

An abnormal image among those called normal is the commonest fault of such studies, and it is
learned as normal without a word. The few images that score highest are worth a look.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from medad_fast.errors import InputError

SHARE = 0.01
"""Of the training images; at least one is told."""


@dataclass(frozen=True)
class Outlier:
    """One training image with a high score."""

    path: str
    """Relative to the dataset's root, with forward slashes."""
    slice: int
    """Place among the volume's slices in the run's plane, from 0."""
    anomaly_score: float


def most_anomalous(
    scores: Tensor, paths: Sequence[str], slices: Sequence[int]
) -> tuple[Outlier, ...]:
    """The highest of ``scores`` (n): 1 % of them, rounded up; highest first, ties in order.

    Args:
        scores: of the training images, finite, ``n >= 1``.
        paths: of each image's file, relative to the dataset's root.
        slices: each image's place in its volume.

    Raises:
        InputError: a score is not finite.
    """
    if not scores.isfinite().all():
        wrong = int((~scores.isfinite()).sum())
        raise InputError(
            f"{wrong} of {len(scores)} training images have a score that is not finite"
        )
    values = scores.tolist()
    order = sorted(range(len(values)), key=lambda place: -values[place])
    return tuple(
        Outlier(paths[place], slices[place], values[place])
        for place in order[: math.ceil(SHARE * len(values))]
    )
