"""Simulated patches of the fundus, normal and abnormal in pairs, with exact masks.

**Patches are cut from one real photograph, and the lesions are painted.** One healthy eye stands
behind all of them. Results on this data show that a method works and compare methods; they say
nothing about diagnostic accuracy. Source: the retina of ``skimage.data.retina()`` (CC0), which
lies inside the package scikit-image: 1,411 x 1,411 pixels of about 10.5 micrometres, the optic
disc taken as 1.8 mm high.

What is written below was fixed before any method was fitted.

**A subject** is one patch, drawn from a random stream of its own. Training, validation and
unlabeled patches come from the half above the fovea, test patches from the half below, so that no
test tissue is ever seen in training; none shows the optic disc.

- place: anywhere in its half, turned by any angle, mirrored by lot, a side of 2.1 to 2.9 mm;
- shape: a smooth warp of sd 40 micrometres (smoothed over 0.4 mm);
- camera: each colour by 0.88 to 1.14, gamma of 0.85 to 1.2, light that falls by up to 20 % towards
  one side, blur of up to 0.7 pixels, noise of 0.5 to 1.5 % of the whole range, 8 bits a colour.

**Lesions** are painted before the camera (1 is the tissue's own brightness):

============ ============================================== ====================================
kind         shape                                          colour
============ ============================================== ====================================
blots        2 to 6 uneven dots of 90-380 micrometres       red 0.55-0.75, green 0.30-0.50,
                                                            blue 0.45-0.65 of the tissue
flames       1 to 3 streaks of 500-1000 by 90-200, frayed,  the same
             in parallel
exudates     8 to 25 sharp spots of 50-140 within 450-900   80-95 % of the way to yellow
cotton wool  1 or 2 fuzzy patches of 350-700                40-70 % of the way to pale yellow
============ ============================================== ====================================

A pixel belongs to the mask where more than half of it is lesion. Kinds take turns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medad_fast.simulate.pairs import (
    Progress,
    SimulatedPair,
    Split,
    check_size,
    kind_of,
    smooth_field,
    streams,
    write_pairs,
)

__all__ = ["draw_fundus", "simulate_fundus"]

_Picture = NDArray[np.float32]

UM_PER_PIXEL = 10.5
_CENTRE = np.array([698.0, 703.0])  # rows and columns, of the photograph's round frame
_RADIUS = 670.0
_DISC, _DISC_RADIUS = np.array([645.0, 220.0]), 130.0
_FOVEA_ROW = 702.0
_FINER = 2
"""Lesions are painted on a grid this much finer than the patch."""
_YELLOW = np.array([0.98, 0.88, 0.52], dtype=np.float32)
_PALE = np.array([0.97, 0.86, 0.66], dtype=np.float32)
_ABOUT = (
    "Simulated fundus patches: cut from one photograph of a healthy eye (skimage.data.retina, "
    "CC0), with painted lesions. Kinds, sizes and contrasts are described in the docstring of "
    "medad_fast.simulate.fundus. No diagnostic accuracy."
)


def simulate_fundus(
    out: str | Path,
    *,
    seed: int = 0,
    train: int = 200,
    validation: int = 40,
    test: int = 100,
    unlabeled: int = 150,
    unlabeled_abnormal: float = 0.6,
    size: int = 96,
    progress: Progress | None = None,
) -> Path:
    """Write a set of colour patches in the folder layout that every verb reads.

    Arguments, files and errors are those of :func:`medad_fast.simulate.chest.simulate_chest`.
    """
    check_size(size)

    def draw(split: Split, number: int, abnormal: bool) -> list[SimulatedPair]:
        return [draw_fundus(seed, split, number, abnormal=abnormal, size=size)]

    return write_pairs(
        out,
        draw,
        about=_ABOUT,
        seed=seed,
        counts={"train": train, "validation": validation, "test": test, "unlabeled": unlabeled},
        unlabeled_abnormal=unlabeled_abnormal,
        facts={"size": size},
        progress=progress,
    )


def draw_fundus(
    seed: int, split: Split, number: int, *, abnormal: bool, size: int = 96
) -> SimulatedPair:
    """Draw one patch, without writing anything."""
    subject, disease = streams(seed, split, number)
    side_um = subject.uniform(2100, 2900)
    tissue = _cut(subject, split, side_um, size)
    camera = _Camera(subject, size)
    name = f"sub-fundus-{split}-{number:03d}"
    normal = camera(tissue)
    mask = np.zeros((size, size), dtype=np.bool_)
    if not abnormal:
        return SimulatedPair(name, normal, normal, mask)
    kind = kind_of(tuple(KINDS), number)
    while not mask.any():
        share, painted, detail = KINDS[kind](disease, _Canvas(side_um, size), tissue)
        mask = share > 0.5
    return SimulatedPair(name, normal, camera(painted), mask, kind, detail)


@lru_cache(maxsize=1)
def _photograph() -> _Picture:
    """The retina in [0, 1], ``(3, H, W)``, blurred so that it can be sampled every second pixel."""
    from scipy.ndimage import gaussian_filter
    from skimage import data

    colours = data.retina().astype(np.float32).transpose(2, 0, 1) / 255
    smooth: _Picture = gaussian_filter(colours, (0, 0.9, 0.9))
    return smooth


def _cut(rng: np.random.Generator, split: Split, side_um: float, size: int) -> _Picture:
    """Tissue without camera, ``(3, size, size)``."""
    from scipy.ndimage import map_coordinates

    side = side_um / UM_PER_PIXEL
    middle = _draw_middle(rng, upper=split != "test", reach=0.5 * np.sqrt(2) * side + 12)
    step = side / size
    line = step * (np.arange(size) - 0.5 * (size - 1))
    down, across = np.meshgrid(line, line, indexing="ij")
    turn, mirrored = rng.uniform(0, 2 * np.pi), rng.choice((-1.0, 1.0))
    places = np.stack(
        [
            middle[0] + np.cos(turn) * down - np.sin(turn) * mirrored * across,
            middle[1] + np.sin(turn) * down + np.cos(turn) * mirrored * across,
        ]
    )
    for axis in range(2):
        bend = smooth_field(rng, (size, size), 400 / UM_PER_PIXEL / step)
        places[axis] += 40 / UM_PER_PIXEL * bend.clip(-2.5, 2.5)
    photograph = _photograph()
    tissue: _Picture = np.stack(
        [map_coordinates(colour, places, order=1, mode="nearest") for colour in photograph]
    )
    return tissue


def _draw_middle(rng: np.random.Generator, *, upper: bool, reach: float) -> NDArray[np.float64]:
    """A place whose surroundings lie in one half, within the photograph and beside the disc."""
    while True:
        middle = _CENTRE + rng.uniform(-_RADIUS, _RADIUS, 2)
        from_fovea = _FOVEA_ROW - middle[0] if upper else middle[0] - _FOVEA_ROW
        if (
            from_fovea >= reach
            and np.hypot(*(middle - _CENTRE)) + reach <= _RADIUS
            and np.hypot(*(middle - _DISC)) >= _DISC_RADIUS + reach
        ):
            return middle


class _Camera:
    """What was drawn for one patch but the tissue: the same for both pictures of a pair."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        line = np.linspace(-0.5, 0.5, size, dtype=np.float32)
        turn, falls = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.2)
        slope = np.cos(turn) * line[:, None] + np.sin(turn) * line
        gains = rng.uniform(0.88, 1.14, 3).astype(np.float32)
        self._light = gains[:, None, None] * (1 - np.float32(falls) * (0.5 + slope))
        self._gamma = np.float32(rng.uniform(0.85, 1.2))
        self._blur = rng.uniform(0, 0.7)
        noise = rng.standard_normal((3, size, size), dtype=np.float32)
        self._noise = noise * np.float32(rng.uniform(0.005, 0.015))

    def __call__(self, tissue: _Picture) -> NDArray[np.uint8]:
        """The photograph, ``(H, W, 3)``."""
        from scipy.ndimage import gaussian_filter

        seen = gaussian_filter(
            (tissue * self._light).clip(0, 1) ** self._gamma, (0, *2 * [self._blur])
        )
        grey = (seen + self._noise).clip(0, 1)
        return np.ascontiguousarray(np.rint(255 * grey).astype(np.uint8).transpose(1, 2, 0))


class _Canvas:
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


_Painted = tuple[_Picture, _Picture, dict[str, float]]


def _blood(rng: np.random.Generator) -> _Picture:
    """Which share of each colour blood leaves, ``(3, 1, 1)``."""
    share = [rng.uniform(0.55, 0.75), rng.uniform(0.30, 0.50), rng.uniform(0.45, 0.65)]
    return np.array(share, dtype=np.float32)[:, None, None]


def _blots(rng: np.random.Generator, canvas: _Canvas, tissue: _Picture) -> _Painted:
    count = int(rng.integers(2, 7))
    total, uneven = canvas.empty(), 0.18 * canvas.uneven(rng, 60).clip(-2, 2)
    for _ in range(count):
        half = rng.uniform(45, 190)
        sizes = (half * rng.uniform(0.85, 1.15), half * rng.uniform(0.85, 1.15))
        distance = canvas.ellipse(canvas.place(rng), sizes, rng.uniform(0, np.pi))
        total = np.maximum(total, canvas.inside(distance * (1 + uneven), half, 18))
    share = canvas.pooled(total)
    return share, tissue * (1 - share * (1 - _blood(rng))), {"count": count}


def _flames(rng: np.random.Generator, canvas: _Canvas, tissue: _Picture) -> _Painted:
    count, turn = int(rng.integers(1, 4)), rng.uniform(0, np.pi)
    total, frayed = canvas.empty(), 0.25 * canvas.uneven(rng, 35).clip(-2, 2)
    for _ in range(count):
        sizes = (rng.uniform(250, 500), rng.uniform(45, 100))
        middle = canvas.place(rng, 0.25)
        distance = canvas.ellipse(middle, sizes, turn + rng.normal(0, 0.12))
        total = np.maximum(total, canvas.inside(distance * (1 + frayed), sizes[1], 25))
    share = canvas.pooled(total)
    return share, tissue * (1 - share * (1 - _blood(rng))), {"count": count}


def _exudates(rng: np.random.Generator, canvas: _Canvas, tissue: _Picture) -> _Painted:
    count, spread = int(rng.integers(8, 26)), rng.uniform(225, 450)
    middle, total = canvas.place(rng, 0.25), canvas.empty()
    uneven = 0.15 * canvas.uneven(rng, 30).clip(-2, 2)
    for _ in range(count):
        turn, away = rng.uniform(0, 2 * np.pi), spread * np.sqrt(rng.uniform(0, 1))
        half = rng.uniform(25, 70)
        place = middle + away * np.array([np.cos(turn), np.sin(turn)])
        distance = canvas.ellipse(place, (half, half * rng.uniform(0.7, 1.0)), turn)
        total = np.maximum(total, canvas.inside(distance * (1 + uneven), half, 8))
    return *_blend(canvas, total, tissue, _YELLOW, rng.uniform(0.8, 0.95)), {"count": count}


def _cotton_wool(rng: np.random.Generator, canvas: _Canvas, tissue: _Picture) -> _Painted:
    count = int(rng.integers(1, 3))
    total, uneven = canvas.empty(), 0.15 * canvas.uneven(rng, 90).clip(-2, 2)
    for _ in range(count):
        half = rng.uniform(175, 350)
        sizes = (half, half * rng.uniform(0.6, 0.9))
        distance = canvas.ellipse(canvas.place(rng, 0.2), sizes, rng.uniform(0, np.pi))
        total = np.maximum(total, canvas.inside(distance * (1 + uneven), half, 60))
    return *_blend(canvas, total, tissue, _PALE, rng.uniform(0.4, 0.7)), {"count": count}


def _blend(
    canvas: _Canvas, total: _Picture, tissue: _Picture, colour: _Picture, opacity: float
) -> tuple[_Picture, _Picture]:
    share = canvas.pooled(total)
    return share, tissue + np.float32(opacity) * share * (colour[:, None, None] - tissue)


KINDS: dict[str, Callable[[np.random.Generator, _Canvas, _Picture], _Painted]] = {
    "blots": _blots,
    "flames": _flames,
    "exudates": _exudates,
    "cotton wool": _cotton_wool,
}
