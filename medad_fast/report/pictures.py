"""Pixels as compact pictures inside the page, and outlines of masks as vector paths.

Of each slice there are two pictures: the image, and its map as a layer with transparency. The layer
over black shows the colours of the map's scale, over the image the overlay, so that one slider
fades from one to the other and nothing is stored twice.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.artifacts.overlay import colour_map, colourise, grey_levels
from medad_fast.artifacts.scores import ScoreRow
from medad_fast.report.shown import Scale, ShownSlice

SIDES = (512, 384, 256, 192, 128)
"""Longest sides to try, until a picture fits into its share of the page. None is enlarged."""
STEPS = 64
"""Steps of the map's scale that a layer tells apart: less than an eye does, and far smaller."""


@dataclass(frozen=True)
class Picture:
    """One slice, ready for the template."""

    row: ScoreRow
    height: int
    width: int
    ratio: float
    """Width over height as shown."""
    image: str
    """As a ``data:`` address, like the layer."""
    layer: str
    outline: str
    """Of the lesion mask, an SVG path in pixels; empty without one."""

    @property
    def size(self) -> int:
        """Bytes of the page that it takes."""
        return len(self.image) + len(self.layer) + len(self.outline)


def draw(shown: ShownSlice, scale: Scale, room: float) -> Picture:
    """The pictures of one slice, its map on the common scale, as large as ``room`` bytes allow."""
    for side in SIDES:
        picture = _draw(shown, scale, side)
        if picture.size <= room:
            break
    return picture


def colour_bar() -> str:
    """The colours from low to high as a picture 256 pixels wide."""
    return _data_uri(colour_map()[None])


def _draw(shown: ShownSlice, scale: Scale, side: int) -> Picture:
    shape = shown.anomaly_map.shape
    share = min(1.0, side / max(shape))
    height, width = (max(1, round(share * each)) for each in shape)
    size = (width, height)
    grey = grey_levels(shown.pixels, darkest=shown.darkest, brightest=shown.brightest)
    place = colourise(_resized(shown.anomaly_map, size), low=scale.low, high=scale.high)
    steps = np.round(place / 255.0 * (STEPS - 1)).astype(np.intp)
    outline = ""
    if shown.mask is not None and shown.mask.any():
        cover = _resized(shown.mask.astype(np.float32), size)
        # What is smaller than a pixel of the picture must not vanish.
        outline = _outline(cover >= 0.5 if (cover >= 0.5).any() else cover > 0)
    return Picture(
        row=shown.row,
        height=height,
        width=width,
        ratio=shape[1] / (shape[0] * shown.aspect),
        image=_data_uri(_resized(grey, size), quality=80),
        layer=_data_uri(_layer_colours()[steps]),
        outline=outline,
    )


@cache
def _layer_colours() -> NDArray[np.uint8]:
    """``(STEPS, 4)`` RGBA: over black exactly the colours of the map, as transparent as can be."""
    colours = colour_map()[np.linspace(0, 255, STEPS).round().astype(np.intp)].astype(np.float64)
    opacity = colours.max(axis=1, keepdims=True)
    straight = 255.0 * colours / np.maximum(opacity, 1.0)
    rounded: NDArray[np.uint8] = np.concatenate([straight, opacity], axis=1).round().astype("u1")
    return rounded


def _resized(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Means over the areas that become one pixel each: uint8 stays, all else becomes float32."""
    from PIL import Image

    if pixels.shape[1::-1] == size:
        return pixels
    values = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX))


def _data_uri(pixels: NDArray[np.uint8], *, quality: int | None = None) -> str:
    """As WebP: exact, or of a ``quality`` up to 100."""
    from PIL import Image

    stream = io.BytesIO()
    options = {"lossless": True} if quality is None else {"quality": quality}
    Image.fromarray(pixels).save(stream, format="WEBP", method=4, **options)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _outline(mask: NDArray[np.bool_]) -> str:
    """The pixel edges between inside and outside, as an SVG path in pixel units."""
    padded = np.pad(mask, 1)
    above = padded[1:, 1:-1] != padded[:-1, 1:-1]
    beside = padded[1:-1, 1:] != padded[1:-1, :-1]
    horizontal = [f"M{x} {y}h{n}" for y, x, n in _runs(above)]
    vertical = [f"M{x} {y}v{n}" for x, y, n in _runs(beside.T)]
    return "".join(horizontal + vertical)


def _runs(edges: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """Line, start and length of each run of true values along the lines."""
    change = np.diff(np.pad(edges, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    lines, starts = np.nonzero(change == 1)
    ends = np.nonzero(change == -1)[1]
    return list(zip(lines.tolist(), starts.tolist(), (ends - starts).tolist(), strict=True))
