"""Abnormalities put into the CT before projecting. Kinds, sizes, contrasts: ``simulate.chest``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.quality.sets.thorax import HEART, LOBES, Thorax
from medad_fast.errors import InputError

_Field = NDArray[np.floating[Any]]

SOFT_TISSUE = 1.03
"""Attenuation of water's: consolidated lung, a solid nodule."""


class Change(NamedTuple):
    """What an abnormality adds to the attenuation, within a part of the grid."""

    part: tuple[slice, ...]
    added: _Field
    detail: dict[str, float]


def draw_change(kind: str, thorax: Thorax, rng: np.random.Generator) -> Change:
    """Draw place, size and density of an abnormality of one of :data:`KINDS`."""
    return KINDS[kind](thorax, rng)


def _soft_step(depth_mm: _Field, soft_mm: float) -> _Field:
    """0 outside, 1 inside, one half at depth 0."""
    weight: _Field = 0.5 + 0.5 * np.tanh(depth_mm / np.float32(soft_mm))
    return weight


def _nodule(thorax: Thorax, rng: np.random.Generator) -> Change:
    radius_mm = rng.uniform(4.0, 15.0)
    centre_mm = _place(thorax, thorax.lung_depth_mm > max(3.0, 0.6 * radius_mm), rng)
    part = thorax.part_around(centre_mm, 1.4 * radius_mm + 4.0)
    inside = _soft_step(radius_mm - _distance_mm(thorax, part, centre_mm, rng), 1.2)
    air = (SOFT_TISSUE - thorax.attenuation[part]).clip(0)
    return Change(part, inside * air, {"diameter_mm": 2 * radius_mm})


def _consolidation(thorax: Thorax, rng: np.random.Generator) -> Change:
    from scipy.ndimage import gaussian_filter

    lobe = thorax.labels == LOBES[str(rng.choice(list(LOBES)))]
    radius_mm = rng.uniform(25.0, 45.0)
    filled = rng.uniform(0.4, 0.8)
    centre_mm = _place(thorax, lobe & (thorax.lung_depth_mm > 8.0), rng)
    part = thorax.part_around(centre_mm, 1.4 * radius_mm + 15.0)
    distance = _distance_mm(thorax, part, centre_mm, rng)
    patchy = gaussian_filter(
        rng.standard_normal(distance.shape, dtype=np.float32),
        [8.0 / step for step in thorax.spacing_mm],
    )
    patchy /= max(float(patchy.std()), 1e-6)
    inside = _soft_step(radius_mm - distance + 6.0 * patchy, 6.0) * lobe[part]
    air = (SOFT_TISSUE - thorax.attenuation[part]).clip(0)
    return Change(
        part, filled * inside * air, {"diameter_mm": 2 * radius_mm, "filled": float(filled)}
    )


def _effusion(thorax: Thorax, rng: np.random.Generator) -> Change:
    part, side = _one_lung(thorax, rng)
    level_mm = rng.uniform(30.0, 85.0)
    meniscus_mm = rng.uniform(10.0, 35.0)
    up_mm = thorax.spacing_mm[1] * np.arange(side.shape[1], dtype=np.float32)[::-1, None]
    surface = level_mm + meniscus_mm * np.exp(-thorax.wall_distance_mm[part] / np.float32(12.0))
    inside = _soft_step(surface - up_mm, 2.0) * side
    air = (np.float32(1.01) - thorax.attenuation[part]).clip(0)
    return Change(part, inside * air, {"level_mm": level_mm, "meniscus_mm": meniscus_mm})


def _pneumothorax(thorax: Thorax, rng: np.random.Generator) -> Change:
    part, side = _one_lung(thorax, rng)
    width_mm = rng.uniform(18.0, 40.0)
    denser = np.float32(rng.uniform(0.2, 0.5))
    down = np.linspace(0, 1, side.shape[1], dtype=np.float32)[:, None]
    depth = np.float32(width_mm) * (1 - 0.9 * down) - thorax.wall_distance_mm[part]
    escaped = _soft_step(depth, 1.5)
    pleura = 0.5 * np.exp(-((depth / np.float32(1.5)) ** 2))
    lung = thorax.attenuation[part]
    added = (1 - escaped) * denser * lung.clip(0, 0.4) - escaped * lung + pleura
    return Change(part, added * side, {"width_mm": width_mm, "denser": float(denser)})


def _cardiomegaly(thorax: Thorax, rng: np.random.Generator) -> Change:
    wider_mm = rng.uniform(14.0, 30.0)
    part = _frame(thorax.lungs)
    top = np.flatnonzero((thorax.labels == HEART).any(axis=(0, 2)))[:1]
    below_mm = thorax.spacing_mm[1] * (np.arange(thorax.labels.shape[1])[part[1]] - top)
    distance = thorax.heart_distance_mm[part] - below_mm.clip(max=0).astype(np.float32)[:, None]
    inside = _soft_step(wider_mm - distance, 1.5) * thorax.lungs[part]
    blood = (np.float32(1.05) - thorax.attenuation[part]).clip(0)
    return Change(part, inside * blood, {"wider_mm": wider_mm})


KINDS: dict[str, Callable[[Thorax, np.random.Generator], Change]] = {
    "nodule": _nodule,
    "consolidation": _consolidation,
    "effusion": _effusion,
    "pneumothorax": _pneumothorax,
    "cardiomegaly": _cardiomegaly,
}


def _place(
    thorax: Thorax, allowed: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.float64]:
    """A voxel's place in mm, drawn from those allowed."""
    places = np.flatnonzero(allowed)
    if not len(places):
        raise InputError("the chest CT has no place for an abnormality: its lungs are too small")
    index = np.unravel_index(int(rng.choice(places)), allowed.shape)
    place: NDArray[np.float64] = np.array(index) * np.array(thorax.spacing_mm)
    return place


def _distance_mm(
    thorax: Thorax,
    part: tuple[slice, ...],
    centre_mm: NDArray[np.float64],
    rng: np.random.Generator,
) -> _Field:
    """From the centre, each axis stretched by up to 15 %."""
    stretch = rng.uniform(0.85, 1.15, 3)
    squared = sum(
        ((axis - np.float32(place)) * np.float32(each)) ** 2
        for axis, place, each in zip(thorax.grid_mm(part), centre_mm, stretch, strict=True)
    )
    distance: _Field = np.sqrt(squared)
    return distance


def _one_lung(
    thorax: Thorax, rng: np.random.Generator
) -> tuple[tuple[slice, ...], NDArray[np.bool_]]:
    """One lung, by lot: its frame, and where it is there."""
    lung = thorax.right if rng.random() < 0.5 else thorax.lungs & ~thorax.right
    part = _frame(lung)
    return part, lung[part]


def _frame(inside: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest part of the grid that holds all of it."""
    places = (np.flatnonzero(inside.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    return tuple(slice(int(each[0]), int(each[-1]) + 1) for each in places)
