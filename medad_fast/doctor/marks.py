"""Whether letters or markers are burned into an image: flat, sharp and away from the middle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LEVELS = (0.25, 0.5, 0.9)
"""Shares of the range of grey levels above which something may be a mark."""
_FLAT = 0.01
"""Largest standard deviation of a mark, as a share of the range: what is drawn has one grey. Half
of it must be the same of 256 levels, too: tissue can be as flat, but not as even."""
_SHARP = 0.2
"""A mark is brighter than what is around it by at least this share of the range."""
_LEAST_PIXELS = 8
_LARGEST = 0.02
"""Share of the picture; larger flat parts are collimation or a detector's edge."""
_MIDDLE = (0.25, 0.75)
"""Rows and columns that marks keep away from."""
_MOST_PARTS = 2000
"""More bright parts than this are noise."""


def has_mark(grey: NDArray[np.float32]) -> bool:
    """Look for a mark in a picture ``(rows, columns)`` of finite grey levels.

    A rule of thumb: a real edge that is as flat and sharp is taken for a mark, and grey text over
    anatomy is not found.
    """
    from scipy import ndimage

    low, high = float(grey.min()), float(grey.max())
    if high <= low or min(grey.shape) < 16:
        return False
    unit = (grey - low) / (high - low)
    for level in _LEVELS:
        parts, count = ndimage.label(unit > level, structure=np.ones((3, 3)))
        if count > _MOST_PARTS:
            continue
        for part, box in enumerate(ndimage.find_objects(parts), start=1):
            if box is not None and _outside_middle(box, grey.shape):
                near = tuple(slice(max(side.start - 4, 0), side.stop + 4) for side in box)
                if _is_mark(unit[near], parts[near] == part, _LARGEST * unit.size):
                    return True
    return False


def _outside_middle(box: tuple[slice, slice], shape: tuple[int, ...]) -> bool:
    return any(
        side.stop <= _MIDDLE[0] * length or side.start >= _MIDDLE[1] * length
        for side, length in zip(box, shape, strict=True)
    )


def _is_mark(unit: NDArray[np.float32], inside: NDArray[np.bool_], most: float) -> bool:
    """Whether a part of a picture, cut out with what is around it, is flat and sharp."""
    from scipy import ndimage

    if not _LEAST_PIXELS <= inside.sum() <= most:
        return False
    values = unit[inside]
    commonest = np.bincount((255 * values).round().astype(int)).max()
    if values.std() > _FLAT or 2 * commonest < len(values):
        return False
    # One pixel away is left out: letters are often smoothed.
    near = ndimage.binary_dilation(inside, np.ones((3, 3)))
    around = ndimage.binary_dilation(near, np.ones((3, 3)), iterations=2) & ~near
    return bool(around.any() and values.mean() - unit[around].mean() >= _SHARP)
