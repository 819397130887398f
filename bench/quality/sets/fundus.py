"""Simulated patches of the fundus, normal and abnormal in pairs, with exact masks.

**Patches are cut from one real photograph, and the lesions are painted.** One healthy eye stands
behind all of them. Results on this data show that a method works and compare methods; they say
nothing about diagnostic accuracy. Source: the retina of ``skimage.data.retina()`` (CC0), which
lies inside the package scikit-image: 1,411 x 1,411 pixels of about 10.5 micrometres, the optic
disc taken as 1.8 mm high.

What is written below was fixed before any of the methods was fitted; what could be seen by then
were the trivial baselines and patch-knn with random filters. Once, blur and noise were made to vary
more and lesions to be smaller and nearer to the tissue's colours, since pca16 alone nearly solved
the first draft.

**A subject** is one patch, drawn from a random stream of its own. Training, validation and
unlabeled patches come from the half above the fovea, test patches from the half below, so that no
test tissue is ever seen in training; none shows the optic disc.

- place: anywhere in its half, turned by any angle, mirrored by lot, a side of 2.1 to 2.9 mm;
- shape: a smooth warp of sd 40 micrometres (smoothed over 0.4 mm);
- camera: each colour by 0.88 to 1.14, gamma of 0.85 to 1.2, light that falls by up to 20 % towards
  one side, blur of up to 0.9 pixels, noise of 0.5 to 3 % of the whole range, 8 bits a colour.

**Lesions** are painted before the camera (1 is the tissue's own brightness):

============ ============================================== ====================================
kind         shape                                          colour
============ ============================================== ====================================
blots        2 to 6 uneven dots of 90-300 micrometres       red 0.65-0.85, green 0.45-0.70,
                                                            blue 0.55-0.75 of the tissue
flames       1 to 3 streaks of 400-800 by 80-160, frayed,   the same
             in parallel
exudates     6 to 20 sharp spots of 50-120 within 400-800   45-75 % of the way to yellow
cotton wool  1 or 2 fuzzy patches of 300-600                25-50 % of the way to pale yellow
============ ============================================== ====================================

A pixel belongs to the mask where more than half of it is lesion. Kinds take turns.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.quality.sets.fundus_lesions import KINDS, Canvas
from bench.quality.sets.pairs import (
    Progress,
    SetPlan,
    SimulatedPair,
    kind_of,
    smooth_field,
    write_pairs,
)
from medad_fast.demo.streams import Part, streams

_Picture = NDArray[np.floating[Any]]

UM_PER_PIXEL = 10.5
_CENTRE = np.array([698.0, 703.0])  # rows and columns, of the photograph's round frame
_RADIUS = 670.0
_DISC, _DISC_RADIUS = np.array([645.0, 220.0]), 130.0
_FOVEA_ROW = 702.0
PLAN = SetPlan(size=96)
_ABOUT = (
    "Simulated fundus patches: cut from one photograph of a healthy eye (skimage.data.retina, "
    "CC0), with painted lesions. Kinds, sizes and contrasts are described in the docstring of "
    "bench.quality.sets.fundus. No diagnostic accuracy."
)


def simulate_fundus(
    out: str | Path, plan: SetPlan = PLAN, *, progress: Progress | None = None
) -> Path:
    """Write a set of colour patches in the folder layout that every verb reads.

    See :func:`bench.quality.sets.pairs.write_pairs` for the files and errors. Each subject has one
    picture, each test subject a normal and an abnormal one.
    """

    def draw(split: Part, number: int, abnormal: bool) -> list[SimulatedPair]:
        return [draw_fundus(plan.seed, split, number, abnormal=abnormal, size=plan.size)]

    return write_pairs(out, draw, plan, about=_ABOUT, progress=progress)


def draw_fundus(
    seed: int, split: Part, number: int, *, abnormal: bool, size: int = 96
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
        share, painted, detail = KINDS[kind](disease, Canvas(side_um, size), tissue)
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


def _cut(rng: np.random.Generator, split: Part, side_um: float, size: int) -> _Picture:
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
        self._blur = rng.uniform(0, 0.9)
        noise = rng.standard_normal((3, size, size), dtype=np.float32)
        self._noise = noise * np.float32(rng.uniform(0.005, 0.03))

    def __call__(self, tissue: _Picture) -> NDArray[np.uint8]:
        """The photograph, ``(H, W, 3)``."""
        from scipy.ndimage import gaussian_filter

        seen = gaussian_filter(
            (tissue * self._light).clip(0, 1) ** self._gamma, (0, *2 * [self._blur])
        )
        grey = (seen + self._noise).clip(0, 1)
        return np.ascontiguousarray(np.rint(255 * grey).astype(np.uint8).transpose(1, 2, 0))
