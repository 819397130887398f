"""The metrics again, straight from their definitions, in rational numbers. Slow on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


def _steps(scores: Sequence[float], abnormal: Sequence[bool]) -> list[tuple[int, int]]:
    """(hits, alarms) at each distinct threshold, from the largest down."""
    pairs = list(zip(scores, abnormal, strict=True))
    return [
        (
            sum(1 for score, truth in pairs if truth and score >= threshold),
            sum(1 for score, truth in pairs if not truth and score >= threshold),
        )
        for threshold in sorted(set(scores), reverse=True)
    ]


def auroc(scores: Sequence[float], abnormal: Sequence[bool]) -> Fraction:
    ill = [score for score, truth in zip(scores, abnormal, strict=True) if truth]
    well = [score for score, truth in zip(scores, abnormal, strict=True) if not truth]
    won = sum(Fraction(2 * (a > b) + (a == b), 2) for a in ill for b in well)
    return won / (len(ill) * len(well))


def average_precision(scores: Sequence[float], abnormal: Sequence[bool]) -> Fraction:
    total, before, area = sum(abnormal), 0, Fraction(0)
    for hits, alarms in _steps(scores, abnormal):
        area += Fraction(hits - before, total) * Fraction(hits, hits + alarms)
        before = hits
    return area


def fpr_at_tpr95(scores: Sequence[float], abnormal: Sequence[bool]) -> Fraction:
    total = sum(abnormal)
    for hits, alarms in _steps(scores, abnormal):
        if Fraction(hits, total) >= Fraction(95, 100):
            return Fraction(alarms, len(scores) - total)
    raise AssertionError("the lowest threshold finds everything")


def best_dice(scores: Sequence[float], abnormal: Sequence[bool]) -> Fraction:
    total = sum(abnormal)
    return max(Fraction(2 * h, h + a + total) for h, a in _steps(scores, abnormal))


def dice_above(scores: Sequence[float], abnormal: Sequence[bool], threshold: float) -> Fraction:
    """Dice of the decision "abnormal where the score is above the threshold"."""
    called = [score > threshold for score in scores]
    hits = sum(1 for call, truth in zip(called, abnormal, strict=True) if call and truth)
    return Fraction(2 * hits, sum(called) + sum(abnormal))


def regions(mask: NDArray[np.bool_]) -> list[set[tuple[int, int]]]:
    """8-connected regions by flood fill."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            region.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge.extend(near)
        found.append(region)
    return found


def aupro(maps: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.bool_]]) -> Fraction:
    """Trapezoids of the mean overlap over the false-positive rate, cut at exactly 3/10."""
    lesions = [
        [float(one_map[place]) for place in region]
        for one_map, mask in zip(maps, masks, strict=True)
        for region in regions(mask)
    ]
    normal = [float(v) for one, mask in zip(maps, masks, strict=True) for v in one[~mask]]
    limit, area = Fraction(3, 10), Fraction(0)
    last_fpr, last_pro = Fraction(0), Fraction(0)
    for threshold in sorted({float(v) for one in maps for v in one.ravel()}, reverse=True):
        fpr = Fraction(sum(v >= threshold for v in normal), len(normal))
        shares = (Fraction(sum(v >= threshold for v in one), len(one)) for one in lesions)
        pro = sum(shares, Fraction(0)) / len(lesions)
        if fpr > limit:
            cut = last_pro + (pro - last_pro) * (limit - last_fpr) / (fpr - last_fpr)
            return (area + (limit - last_fpr) * (last_pro + cut) / 2) / limit
        area += (fpr - last_fpr) * (last_pro + pro) / 2
        last_fpr, last_pro = fpr, pro
    raise AssertionError("the lowest threshold reaches a false-positive rate of 1")
