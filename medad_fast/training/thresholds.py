"""Thresholds and display scale, from normal validation images only.

The score threshold is split conformal: with ``n`` normal calibration scores and a target rate
``a``, it is the ``k``-th smallest of them, ``k = ceil((1 - a) (n + 1))``, and an image is called
abnormal when its score is *above* it. For a new normal image exchangeable with the calibration
images the chance of that is at most ``(n + 1 - k) / (n + 1) <= a``, whatever the distribution of
scores (Vovk et al., "Algorithmic learning in a random world", 2005); an interpolated quantile has
no such guarantee. The threshold is one of the scores, bit for bit. "Above the threshold" is the
same decision as "conformal p-value at most ``a``".

With too few images (``n < 1 / a - 1``: 19 for 5 %) no score reaches the target. Then the largest
is taken, ``expected_fpr = 1 / (n + 1)`` tells the rate that it stands for, and ``target_reached``
is false. Slices of one patient resemble each other, so with several slices each the rate holds on
average over patients, with a larger spread than ``n`` slices suggest.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medad_fast.errors import InputError

Values = Tensor | NDArray[Any] | Iterable[float]

TARGET_FPR = 0.05
MAP_LOW = 0.5
MAP_THRESHOLD = 0.995
MAP_HIGH = 0.999


def choose(
    scores: Values,
    *,
    maps: Tensor | NDArray[Any] | None = None,
    target_fpr: float = TARGET_FPR,
    volumes: Sequence[int] | None = None,
    patients: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Choose the thresholds of a run.

    Args:
        scores: ``(n)`` anomaly scores of normal validation images, finite, ``n >= 1``.
        maps: their anomaly maps, any shape, finite; without them there is no ``map`` entry.
        target_fpr: share of normal images that may be called abnormal, above 0 and below 1.
        volumes: number of each image's volume, for decisions on whole volumes.
        patients: number of each image's patient, for decisions on patients.

    Returns:
        JSON-ready: ``score`` with ``threshold`` (an image is abnormal above it), ``target_fpr``,
        ``expected_fpr``, ``target_reached``, ``images`` (n), ``calibration`` (all scores, rising)
        and, where given, the ``volumes`` and ``patients`` of these scores in the same order;
        ``map`` with ``low`` and ``high`` (display scale: the 50th and 99.9th percentile of all
        validation pixels, so that normal images look normal), ``threshold`` (a pixel is abnormal
        above it: the 99.5th percentile), and ``pixels``. All are values that occurred, except that
        ``high`` of a nearly constant map is raised a little above ``low``.

    Raises:
        InputError: no scores, a value that is not finite, or a target outside (0, 1).
    """
    values = _finite("scores", scores).astype(np.float64)
    order = np.argsort(values, kind="stable")
    chosen: dict[str, Any] = {"score": _score_threshold(values[order], target_fpr)}
    for name, numbers in (("volumes", volumes), ("patients", patients)):
        if numbers is not None:
            if len(numbers) != len(values):
                raise InputError(f"{name}: {len(values)} numbers expected, got {len(numbers)}")
            chosen["score"][name] = np.asarray(numbers, dtype=np.int64)[order].tolist()
    if maps is not None:
        chosen["map"] = _map_scale(_finite("maps", maps))
    return chosen


def at_target(thresholds: Mapping[str, Any], target_fpr: float) -> dict[str, Any]:
    """The thresholds of a run with the score's threshold for another false-positive rate.

    Args:
        thresholds: what :func:`choose` returned.
        target_fpr: above 0 and below 1.

    Raises:
        InputError: a target outside (0, 1).
    """
    score = thresholds["score"]
    calibration = np.asarray(score["calibration"], dtype=np.float64)
    return {**thresholds, "score": {**score, **_score_threshold(calibration, target_fpr)}}


def check_target(target_fpr: float) -> None:
    """Refuse a false-positive rate that no threshold can have.

    Raises:
        InputError: it is not inside (0, 1).
    """
    if not 0 < target_fpr < 1:
        raise InputError(f"target_fpr must be above 0 and below 1, got {target_fpr}")


def _score_threshold(calibration: NDArray[np.float64], target_fpr: float) -> dict[str, Any]:
    check_target(target_fpr)
    images = len(calibration)
    # In rational numbers of the decimal that was written: 0.05 x 20 is 1, never 1 + 2^-52.
    allowed = math.floor(Fraction(str(target_fpr)) * (images + 1))
    place = images + 1 - max(allowed, 1)
    return {
        "threshold": float(calibration[place - 1]),
        "target_fpr": float(target_fpr),
        "expected_fpr": (images + 1 - place) / (images + 1),
        "target_reached": allowed >= 1,
        "images": images,
        "calibration": calibration.tolist(),
    }


def p_value(score: float, thresholds: Mapping[str, Any]) -> float:
    """Conformal p-value of a score: ``(1 + calibration scores >= score) / (n + 1)``.

    Small where few normal images scored as high. For a normal image it is at most ``a`` with a
    chance of at most ``a``, for every ``a``.

    Args:
        score: anomaly score of one image, finite.
        thresholds: what :func:`choose` returned.

    Raises:
        InputError: a score that is not finite.
    """
    if not math.isfinite(score):
        raise InputError(f"score must be finite, got {score}")
    return conformal_p(score, thresholds["score"]["calibration"])


def conformal_p(score: float, calibration: Sequence[float]) -> float:
    """The same from rising calibration scores."""
    at_least = len(calibration) - bisect_left(calibration, score)
    return (1 + at_least) / (len(calibration) + 1)


def _map_scale(pixels: NDArray[Any]) -> dict[str, Any]:
    count = len(pixels)
    shares = {"low": MAP_LOW, "threshold": MAP_THRESHOLD, "high": MAP_HIGH}
    places = {name: max(math.ceil(share * count), 1) - 1 for name, share in shares.items()}
    ordered = np.partition(pixels, sorted(set(places.values())))
    scale: dict[str, Any] = {name: float(ordered[place]) for name, place in places.items()}
    # A scale without length cannot be drawn.
    scale["high"] = max(scale["high"], scale["low"] + max(1e-3 * abs(scale["low"]), 1e-6))
    return {**scale, "pixels": count}


def _finite(name: str, values: Values) -> NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    elif not isinstance(values, np.ndarray):
        values = np.asarray(list(values), dtype=np.float64)
    flat = values.ravel()
    if not len(flat):
        raise InputError(f"{name} is empty: at least one normal validation image is needed")
    if not np.isfinite(flat).all():
        wrong = int((~np.isfinite(flat)).sum())
        raise InputError(f"{name} has {wrong} values of {len(flat)} that are not finite")
    return flat
