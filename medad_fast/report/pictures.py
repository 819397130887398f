"""Pixels as compact pictures inside the page, and outlines of masks as vector paths."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.overlay import colour_map, colourise, grey_levels, overlay
from medad_fast.report.results import Scale, ShownSlice

__all__ = ["LARGEST_SIDE", "Picture", "colour_bar", "draw"]

LARGEST_SIDE = 256
"""Larger pictures are reduced: the report shows them at about this size."""


class Picture:
    """One row of a gallery: image, map and overlay of one slice, ready for the template."""

    def __init__(self, shown: ShownSlice, scale: Scale) -> None:
        step = max(1, -(-max(shown.anomaly_map.shape) // LARGEST_SIDE))
        pixels = _reduced(shown.pixels, step)
        anomaly_map = _reduced(shown.anomaly_map, step)
        grey = {"darkest": shown.darkest, "brightest": shown.brightest}
        self.row = shown.row
        self.height, self.width = anomaly_map.shape
        self.ratio = self.width / (self.height * shown.aspect)
        """Width over height as shown."""
        self.image = _data_uri(grey_levels(pixels, **grey))
        self.map = _data_uri(
            colourise(anomaly_map, low=scale.low, high=scale.high), palette=colour_map()
        )
        self.overlay = _data_uri(
            overlay(pixels, anomaly_map, low=scale.low, high=scale.high, **grey)
        )
        self.outline = ""
        if shown.mask is not None and shown.mask.any():
            self.outline = _outline(_reduced(shown.mask.astype(np.float64), step) >= 0.5)


def draw(shown: ShownSlice, scale: Scale) -> Picture:
    """The pictures of one slice, its map on the common scale."""
    return Picture(shown, scale)


def colour_bar() -> str:
    """The colours from low to high as a picture 256 pixels wide."""
    return _data_uri(np.arange(256, dtype=np.uint8)[None], palette=colour_map())


def _reduced(pixels: NDArray[Any], step: int) -> NDArray[Any]:
    """Means over blocks of ``step`` pixels; what does not fill a block is left out."""
    if step == 1:
        return pixels
    rows, columns = (side // step for side in pixels.shape[:2])
    cut = pixels[: rows * step, : columns * step].astype(np.float64)
    blocks = cut.reshape(rows, step, columns, step, *pixels.shape[2:])
    reduced: NDArray[Any] = blocks.mean(axis=(1, 3))
    return reduced


def _data_uri(pixels: NDArray[np.uint8], palette: NDArray[np.uint8] | None = None) -> str:
    from PIL import Image

    picture = Image.fromarray(pixels)
    if palette is not None:
        picture.putpalette(palette.tobytes())
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


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
