"""Lesions painted on patches of the fundus. Kinds, sizes and contrasts: see ``simulate.fundus``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.quality.sets.pairs import smooth_field

_Picture = NDArray[np.floating[Any]]

_FINER = 2
"""Lesions are painted on a grid this much finer than the patch."""
_YELLOW = np.array([0.98, 0.88, 0.52], dtype=np.float32)
_PALE = np.array([0.97, 0.86, 0.66], dtype=np.float32)


class Canvas:
    """Places of a patch in micrometres, on the finer grid that lesions are painted on."""

    def __init__(self, side_um: float, size: int) -> None:
        fine = _FINER * size
        line = (np.arange(fine, dtype=np.float32) + 0.5) * np.float32(side_um / fine)
        self.down, self.across = line[:, None], line[None, :]
        self.side_um, self._size, self._pixel_um = side_um, size, side_um / fine

    def empty(self) -> _Picture:
        return np.zeros((_FINER * self._size, _FINER * self._size), dtype=np.float32)

    def place(self, rng: np.random.Generator, margin: float = 0.15) -> NDArray[np.float64]:
        """Anywhere but at the border."""
        return self.side_um * rng.uniform(margin, 1 - margin, 2)

    def uneven(self, rng: np.random.Generator, sigma_um: float) -> _Picture:
        shape = (_FINER * self._size, _FINER * self._size)
        return smooth_field(rng, shape, sigma_um / self._pixel_um)

    def ellipse(
        self, middle: NDArray[np.float64], half_um: tuple[float, float], turn: float = 0.0
    ) -> _Picture:
        """Distance from the middle in half sizes; 1 on the edge."""
        down = self.down - np.float32(middle[0])
        across = self.across - np.float32(middle[1])
        along = np.cos(turn) * across + np.sin(turn) * down
        beside = np.cos(turn) * down - np.sin(turn) * across
        distance: _Picture = np.hypot(along / half_um[0], beside / half_um[1]).astype(np.float32)
        return distance

    def inside(self, distance: _Picture, half_um: float, soft_um: float) -> _Picture:
        """1 inside, 0 outside, with an edge of ``soft_um``."""
        depth = (1 - distance) * np.float32(half_um / soft_um)
        weight: _Picture = 0.5 + 0.5 * np.tanh(depth)
        return weight

    def pooled(self, fine: _Picture) -> _Picture:
        """On the patch's own pixels."""
        blocks = fine.reshape(self._size, _FINER, self._size, _FINER)
        mean: _Picture = blocks.mean(axis=(1, 3))
        return mean


Painted = tuple[_Picture, _Picture, dict[str, float]]
"""Share of each pixel that is lesion, the tissue with it, and what was drawn."""


def _blood(rng: np.random.Generator) -> _Picture:
    """Which share of each colour blood leaves, ``(3, 1, 1)``."""
    share = [rng.uniform(0.65, 0.85), rng.uniform(0.45, 0.70), rng.uniform(0.55, 0.75)]
    return np.array(share, dtype=np.float32)[:, None, None]


def _blots(rng: np.random.Generator, canvas: Canvas, tissue: _Picture) -> Painted:
    count = int(rng.integers(2, 7))
    total, uneven = canvas.empty(), 0.18 * canvas.uneven(rng, 60).clip(-2, 2)
    for _ in range(count):
        half = rng.uniform(45, 150)
        sizes = (half * rng.uniform(0.85, 1.15), half * rng.uniform(0.85, 1.15))
        distance = canvas.ellipse(canvas.place(rng), sizes, rng.uniform(0, np.pi))
        total = np.maximum(total, canvas.inside(distance * (1 + uneven), half, 18))
    share = canvas.pooled(total)
    return share, tissue * (1 - share * (1 - _blood(rng))), {"count": count}


def _flames(rng: np.random.Generator, canvas: Canvas, tissue: _Picture) -> Painted:
    count, turn = int(rng.integers(1, 4)), rng.uniform(0, np.pi)
    total, frayed = canvas.empty(), 0.25 * canvas.uneven(rng, 35).clip(-2, 2)
    for _ in range(count):
        sizes = (rng.uniform(200, 400), rng.uniform(40, 80))
        middle = canvas.place(rng, 0.25)
        distance = canvas.ellipse(middle, sizes, turn + rng.normal(0, 0.12))
        total = np.maximum(total, canvas.inside(distance * (1 + frayed), sizes[1], 25))
    share = canvas.pooled(total)
    return share, tissue * (1 - share * (1 - _blood(rng))), {"count": count}


def _exudates(rng: np.random.Generator, canvas: Canvas, tissue: _Picture) -> Painted:
    count, spread = int(rng.integers(6, 21)), rng.uniform(200, 400)
    middle, total = canvas.place(rng, 0.25), canvas.empty()
    uneven = 0.15 * canvas.uneven(rng, 30).clip(-2, 2)
    for _ in range(count):
        turn, away = rng.uniform(0, 2 * np.pi), spread * np.sqrt(rng.uniform(0, 1))
        half = rng.uniform(25, 60)
        place = middle + away * np.array([np.cos(turn), np.sin(turn)])
        distance = canvas.ellipse(place, (half, half * rng.uniform(0.7, 1.0)), turn)
        total = np.maximum(total, canvas.inside(distance * (1 + uneven), half, 8))
    return *_blend(canvas, total, tissue, _YELLOW, rng.uniform(0.45, 0.75)), {"count": count}


def _cotton_wool(rng: np.random.Generator, canvas: Canvas, tissue: _Picture) -> Painted:
    count = int(rng.integers(1, 3))
    total, uneven = canvas.empty(), 0.15 * canvas.uneven(rng, 90).clip(-2, 2)
    for _ in range(count):
        half = rng.uniform(150, 300)
        sizes = (half, half * rng.uniform(0.6, 0.9))
        distance = canvas.ellipse(canvas.place(rng, 0.2), sizes, rng.uniform(0, np.pi))
        total = np.maximum(total, canvas.inside(distance * (1 + uneven), half, 60))
    return *_blend(canvas, total, tissue, _PALE, rng.uniform(0.25, 0.5)), {"count": count}


def _blend(
    canvas: Canvas, total: _Picture, tissue: _Picture, colour: _Picture, opacity: float
) -> tuple[_Picture, _Picture]:
    share = canvas.pooled(total)
    return share, tissue + np.float32(opacity) * share * (colour[:, None, None] - tissue)


KINDS: dict[str, Callable[[np.random.Generator, Canvas, _Picture], Painted]] = {
    "blots": _blots,
    "flames": _flames,
    "exudates": _exudates,
    "cotton wool": _cotton_wool,
}
