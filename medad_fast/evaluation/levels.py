"""One score from many: of a volume from its slices, of a patient from the volumes.

The rule is chosen before the test set is seen and is the same for every volume:

- ``max``: the largest score. Grows with the number of slices, normal ones included.
- ``top-K``: mean of the ``K`` largest scores, of all where there are fewer.
- ``quantile-Q``: the smallest score that at least a share ``Q`` of the scores do not exceed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.errors import InputError

__all__ = ["Rule", "aggregate", "rule_named"]

Rule = Callable[[NDArray[np.float64]], float]
"""Rising scores of one volume or patient, at least one, to one score."""


def rule_named(text: str, argument: str = "rule") -> Rule:
    """The rule of a name: ``max``, ``top-3``, ``quantile-0.9``.

    Raises:
        InputError: no such rule; names ``argument``.
    """
    found = re.fullmatch(r"(max)|top-([0-9]{1,9})|quantile-([0-9.]{1,20})", text)
    if found and found[1]:
        return _largest
    if found and found[2] and int(found[2]) >= 1:
        return _mean_of_largest(int(found[2]))
    if found and found[3] and found[3].count(".") <= 1 and found[3] != ".":
        share = Fraction(found[3])
        if 0 < share <= 1:
            return _quantile(share)
    raise InputError(
        f"{argument} must be max, top-K with K from 1, or quantile-Q with Q above 0 and at most "
        f"1, got {text!r}"
    )


def aggregate(
    scores: NDArray[np.float64], owner: NDArray[np.int64], rule: Rule
) -> NDArray[np.float64]:
    """The score of each owner: ``(N)`` scores and owners 0 to ``G - 1``, each with one or more."""
    order = np.lexsort((scores, owner))
    ends = np.cumsum(np.bincount(owner))[:-1] if len(owner) else np.zeros(0, dtype=np.int64)
    parts = np.split(scores[order], ends) if len(owner) else []
    return np.array([rule(part) for part in parts], dtype=np.float64)


def _largest(rising: NDArray[Any]) -> float:
    return float(rising[-1])


def _mean_of_largest(count: int) -> Rule:
    return lambda rising: math.fsum(rising[-count:].tolist()) / min(count, len(rising))


def _quantile(share: Fraction) -> Rule:
    # In rational numbers of the decimal that was written: 0.9 of 10 is the ninth.
    return lambda rising: float(rising[math.ceil(share * len(rising)) - 1])
