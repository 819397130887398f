"""Anomaly maps as colours, on one scale for a whole dataset.

A map that is stretched to its own extremes makes every normal image glow. Here ``low`` and ``high``
come from the dataset (its thresholds or its metrics), so what is normal looks normal.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.errors import InputError

# Colours in OKLab (lightness, hue in degrees, chroma): lightness rises evenly from black to pale
# yellow, so equal steps of the map are equal steps to the eye, and it still reads in grey print.
_ANCHORS = np.array(
    [
        [0.00, -70.0, 0.00],
        [0.22, -62.0, 0.11],
        [0.42, -30.0, 0.17],
        [0.60, 22.0, 0.20],
        [0.76, 55.0, 0.16],
        [0.90, 88.0, 0.14],
        [0.98, 104.0, 0.06],
    ]
)
_OKLAB_TO_LMS = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
_OPAQUE = 0.8
"""Cover of the largest map values: the anatomy stays visible beneath."""


@cache
def colour_map() -> NDArray[np.uint8]:
    """The colours of map values from ``low`` to ``high``: ``(256, 3)`` uint8 sRGB."""
    place = np.linspace(_ANCHORS[0, 0], _ANCHORS[-1, 0], 256)
    hue = np.radians(np.interp(place, _ANCHORS[:, 0], _ANCHORS[:, 1]))
    chroma = np.interp(place, _ANCHORS[:, 0], _ANCHORS[:, 2])
    oklab = np.stack([place, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    linear = np.clip(((oklab @ _OKLAB_TO_LMS.T) ** 3) @ _LMS_TO_RGB.T, 0.0, 1.0)
    encoded = np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055
    )
    colours: NDArray[np.uint8] = np.round(255 * encoded).astype(np.uint8)
    return colours


def grey_levels(
    pixels: NDArray[Any], *, darkest: float | None = None, brightest: float | None = None
) -> NDArray[np.uint8]:
    """Pixels as 8-bit greys for looking at; colour pictures keep their colours.

    Args:
        pixels: ``(H, W)`` or ``(H, W, 3)`` in any units.
        darkest: value shown black; the 0.5th percentile of the pixels where not given.
        brightest: value shown white; the 99.5th percentile of the pixels where not given.

    Returns:
        uint8 of the same shape.
    """
    values = np.asarray(pixels, dtype=np.float64)
    low = float(np.percentile(values, 0.5)) if darkest is None else darkest
    high = float(np.percentile(values, 99.5)) if brightest is None else brightest
    unit = np.clip((values - low) / max(high - low, np.finfo(np.float64).tiny), 0.0, 1.0)
    return np.round(255 * unit).astype(np.uint8)


def colourise(anomaly_map: NDArray[Any], *, low: float, high: float) -> NDArray[np.uint8]:
    """Places in the colour map, ``(H, W)`` uint8: 0 up to ``low``, 255 from ``high`` on.

    Raises:
        InputError: ``high`` is not larger than ``low``, or one of them is not finite.
    """
    if not (np.isfinite(low) and np.isfinite(high) and high > low):
        raise InputError(
            f"low, high: two finite numbers with low < high expected, got {low}, {high}"
        )
    unit = (np.asarray(anomaly_map, dtype=np.float64) - low) / (high - low)
    return np.round(255 * np.clip(unit, 0.0, 1.0)).astype(np.uint8)


def overlay(
    pixels: NDArray[Any],
    map: NDArray[Any],
    *,
    low: float,
    high: float,
    darkest: float | None = None,
    brightest: float | None = None,
) -> NDArray[np.uint8]:
    """The image in grey with its anomaly map over it, the more opaque the larger the value.

    Args:
        pixels: ``(H, W)`` or ``(H, W, 3)``, in any units.
        map: ``(H, W)`` anomaly map on the same grid.
        low: map value, of the whole dataset, at and below which nothing is drawn.
        high: map value, of the whole dataset, at and above which the colour is the last one.
        darkest: pixel value shown black; the 0.5th percentile of the pixels where not given.
        brightest: pixel value shown white; the 99.5th percentile of the pixels where not given.

    Returns:
        ``(H, W, 3)`` uint8 sRGB.

    Raises:
        InputError: the shapes differ, or ``low`` is not below ``high``.
    """
    if pixels.shape[:2] != map.shape or map.ndim != 2:
        raise InputError(
            f"map: a map on the grid of the pixels {pixels.shape[:2]} expected, got {map.shape}"
        )
    place = colourise(map, low=low, high=high)
    grey = grey_levels(pixels, darkest=darkest, brightest=brightest).astype(np.float64)
    base = grey if grey.ndim == 3 else np.repeat(grey[:, :, None], 3, axis=2)
    cover = _OPAQUE * (place[:, :, None] / 255.0)
    return np.round(base * (1.0 - cover) + colour_map()[place] * cover).astype(np.uint8)
