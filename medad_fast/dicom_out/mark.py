"""A warning burned into a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEGIBLE = 9.0
"""Letters below this height in pixels cannot be read; small print is left out then."""
_YELLOW, _BLACK = (255, 255, 0), (0, 0, 0)


def burn_in(pixels: NDArray[np.uint8], warning: str, small_print: str) -> NDArray[np.uint8]:
    """A picture with a warning across its top and, where it can be read, small print below that.

    The warning is as large as a tenth of the height allows; in a narrow picture its last
    word stands below the others, however small that makes them.

    Args:
        pixels: ``(H, W, 3)`` RGB.
        warning: what must be said.
        small_print: what is left out where it would not be legible.

    Returns:
        A new array of the same shape.
    """
    from PIL import Image, ImageDraw

    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    height, width = pixels.shape[:2]
    lines, size = [warning], _fitting([warning], width, height / 10)
    if size < _LEGIBLE:
        lines = warning.rsplit(maxsplit=1)
        size = _fitting(lines, width, max(height / 5, 4.0))
    top = 1.0
    for line in lines:
        top += _write(draw, line, top, size)
    small = min(_fitting([small_print], width, height / 24), size)
    if small >= _LEGIBLE:
        _write(draw, small_print, top, small)
    return np.asarray(picture)


def _fitting(lines: Sequence[str], width: int, largest: float) -> float:
    """The size at which the longest line fills at most 96 % of the width."""
    length = max(float(_font(100.0).getlength(line)) for line in lines) / 100
    return max(min(largest, 0.96 * width / max(length, 1.0)), 1.0)


def _write(draw: Any, text: str, top: float, size: float) -> float:
    font = _font(size)
    draw.fontmode = "L" if size >= 2 * _LEGIBLE else "1"  # greys would wash small letters away
    draw.text(
        (2, top),
        text,
        font=font,
        fill=_YELLOW,
        stroke_width=1 if size >= _LEGIBLE else 0,
        stroke_fill=_BLACK,
    )
    return 1.3 * size


def _font(size: float) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)
