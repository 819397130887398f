"""One figure from several seeds, and differences of two methods image by image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medad_fast.evaluation.bootstrap import draw_clusters, interval, score_replicates
from medad_fast.evaluation.ranking import auroc, rank

RESAMPLES = 2000
Record = dict[str, Any]


class Pooled(NamedTuple):
    """A mean over seeds with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def pool(figures: Sequence[dict[str, Any]]) -> Pooled | None:
    """Mean of one figure over seeds; ``None`` where one of them is undefined.

    Each seed has subjects of its own, so the half widths of the intervals add up as independent
    errors do, those below and above the value apart.
    """
    if not figures or any(each["value"] is None or each["low"] is None for each in figures):
        return None
    count = len(figures)
    value = sum(each["value"] for each in figures) / count
    below, above = (
        math.sqrt(sum((each["value"] - each[end]) ** 2 for each in figures)) / count
        for end in ("low", "high")
    )
    return Pooled(value, value - below, value + above)


def difference(better: Sequence[Record], worse: Sequence[Record]) -> Pooled:
    """Image AUROC of the first minus that of the second, over the same images.

    Resamples draw patients, the same for both; with several seeds each has its own, and the mean of
    the differences is resampled.

    Args:
        better: a record for each seed.
        worse: the same seeds in the same order.

    Raises:
        ValueError: the records are not of the same images.
    """
    values: list[float] = []
    replicates: list[NDArray[np.float64]] = []
    for one, other in zip(better, worse, strict=True):
        first, second = one["scores"], other["scores"]
        if any(first[name] != second[name] for name in ("path", "abnormal", "patient")):
            raise ValueError(f"{one['key']} and {other['key']} are not of the same images")
        names = {name: number for number, name in enumerate(dict.fromkeys(first["patient"]))}
        owner = [names[name] for name in first["patient"]]
        draws = draw_clusters(len(names), RESAMPLES, one["seed"])
        pair = [
            score_replicates(each["score"], first["abnormal"], owner, draws)["auroc"]
            for each in (first, second)
        ]
        replicates.append(pair[0] - pair[1])
        values.append(_auroc(first) - _auroc(second))
    found = interval(np.mean(replicates, axis=0))
    value = sum(values) / len(values)
    return Pooled(value, _or(found.low, value), _or(found.high, value))


def _auroc(scores: dict[str, Any]) -> float:
    value = auroc(rank(scores["score"], scores["abnormal"])).value
    if value is None:
        raise ValueError("both classes are needed")
    return value


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
