"""Whether a trivial feature tells apart what a method should have to look at."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from medad_fast.data.dataset import Dataset
from medad_fast.doctor.facts import FEATURES, Facts
from medad_fast.doctor.finding import Finding, State

__all__ = ["shortcuts"]

_SEPARATES = 0.9
"""AUROC from which a feature separates two groups."""
_BY_CHANCE = 0.01
"""Largest probability that any of the features separates two equal groups so well."""


def shortcuts(dataset: Dataset, facts: list[Facts]) -> Iterator[Finding]:
    """Compare normal with abnormal test images, and training with test images that are normal."""
    normal, abnormal, learned = (
        np.array([f.features for f in facts if (f.case.split, f.case.label) == group])
        for group in (("test", "normal"), ("test", "abnormal"), ("train", "normal"))
    )
    pairs: tuple[tuple[NDArray[np.float64], NDArray[np.float64], State, str, str], ...] = (
        (normal, abnormal, "wrong", "shortcuts", "normal from abnormal test images"),
        (learned, normal, "note", "training and test", "training from test images, both normal"),
    )
    for first, second, state, check, what in pairs:
        if not len(first) or not len(second):
            continue
        found = _separating(first, second)
        if found:
            listed = ", ".join(f"{name} (AUROC {auroc:.2f})" for name, auroc in found)
            yield Finding(state, check, f"{listed} alone tells {what}")
        else:
            yield Finding("ok", check, f"no trivial feature tells {what}")


def _separating(first: NDArray[np.float64], second: NDArray[np.float64]) -> list[tuple[str, float]]:
    """Features with their AUROC, in either direction, best first."""
    from scipy.stats import mannwhitneyu

    found = []
    for place, name in enumerate(FEATURES):
        a, b = first[:, place], second[:, place]
        if a.min() == max(a.max(), b.max()) == b.min():
            continue
        tested = mannwhitneyu(a, b)
        auroc = float(tested.statistic) / (len(a) * len(b))
        auroc = max(auroc, 1 - auroc)
        if auroc >= _SEPARATES and tested.pvalue * len(FEATURES) < _BY_CHANCE:
            found.append((name, auroc))
    return sorted(found, key=lambda each: -each[1])
