"""Lesions put into simulated brains. Kinds, sizes and contrasts: see ``simulate.brain``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medad_fast.demo.anatomy import Anatomy, SmoothField

_Points = NDArray[np.float64]
_Weight = NDArray[np.float32]


@dataclass(frozen=True)
class Contrast:
    """Grey levels of a subject's pure tissues, in units of its white matter."""

    fluid: float
    grey: float
    white: float = 1.0


@dataclass(frozen=True)
class _Layer:
    """One material of a lesion: where it is (0 to 1) and which grey level it has there."""

    weight: Callable[[_Points, _Weight], _Weight]
    """Points ``(..., 3)`` in mm and the share of white matter there to weights ``(...)``."""
    level: float
    texture: float = 0.5
    """Share of the underlying texture that shows through."""


@dataclass(frozen=True)
class Lesion:
    """A lesion placed in the template's space."""

    kind: str
    within_tissue_range: bool
    diameter_mm: float
    layers: tuple[_Layer, ...]
    """Painted in this order, later ones over earlier ones."""
    push: Callable[[_Points], _Points] | None = None
    """Mass effect: where the tissue that is now at a point was before."""

    def displaced(self, points_mm: _Points) -> _Points:
        """Where the tissue now at ``points_mm`` was before the lesion grew."""
        return points_mm if self.push is None else self.push(points_mm)

    def paint(
        self, image: _Weight, texture: _Weight, points_mm: _Points, white: _Weight
    ) -> tuple[_Weight, _Weight]:
        """Blend the lesion into ``image``.

        Returns:
            The image with the lesion, and how much of each point is lesion, 0 to 1.
        """
        untouched = np.ones_like(image)
        for layer in self.layers:
            weight = layer.weight(points_mm, white)
            image = (1 - weight) * image + weight * (layer.level + layer.texture * texture)
            untouched = untouched * (1 - weight)
        return image, 1 - untouched


def draw_lesion(
    kind: str,
    within_tissue_range: bool,
    anatomy: Anatomy,
    contrast: Contrast,
    rng: np.random.Generator,
) -> Lesion:
    """Draw place, size, shape and grey levels of a lesion of one of ``KINDS``."""
    return KINDS[kind](within_tissue_range, anatomy, contrast, rng)


def _choose(
    places_mm: _Points, rng: np.random.Generator, low_mm: float = -2.0, high_mm: float = 52.0
) -> int:
    """A place near a height drawn evenly, so that no slice level is favoured."""
    height = rng.uniform(low_mm, high_mm)
    near = np.flatnonzero(abs(places_mm[:, 2] - height) <= 3.0)
    return int(rng.choice(near))


def _ball(
    centre_mm: _Points, radius_mm: float, rng: np.random.Generator, *, soft_mm: float = 1.0
) -> Callable[[_Points, float], _Weight]:
    """An uneven ellipsoid with soft edges, as a function of points and of an inset in mm."""
    stretch = rng.uniform(0.85, 1.15, 3)
    uneven = SmoothField(rng, sigma_mm=9.0)

    def weight(points_mm: _Points, inset_mm: float) -> _Weight:
        distance = np.linalg.norm((points_mm - centre_mm) * stretch, axis=-1)
        distance = distance * (1 + 0.12 * uneven.sample(points_mm))
        return _soft_step(radius_mm - inset_mm - distance, soft_mm)

    return weight


def _soft_step(depth_mm: _Points, soft_mm: float) -> _Weight:
    """0 outside, 1 inside, one half at depth 0."""
    weight: _Weight = (0.5 + 0.5 * np.tanh(depth_mm / soft_mm)).astype(np.float32)
    return weight


def _glioma(within: bool, anatomy: Anatomy, contrast: Contrast, rng: np.random.Generator) -> Lesion:
    centre = anatomy.deep_white_mm[_choose(anatomy.deep_white_mm, rng)]
    radius = rng.uniform(10.0, 15.0)
    rim_mm = rng.uniform(3.0, 4.5)
    oedema_mm = rng.uniform(4.0, 8.0)
    rim = rng.uniform(0.94, 1.0) if within else rng.uniform(1.3, 1.5)
    core = contrast.fluid + rng.uniform(0.1, 0.4) * (contrast.grey - contrast.fluid)
    swollen = rng.uniform(0.9, 1.05) * contrast.grey
    ball = _ball(centre, radius, rng)
    return Lesion(
        "glioma",
        within,
        2 * radius,
        (
            _Layer(lambda p, white: ball(p, -oedema_mm) * white, swollen),
            _Layer(lambda p, _: ball(p, 0.0), rim),
            _Layer(lambda p, _: ball(p, rim_mm), core, texture=0.2),
        ),
        push=_push_apart(centre, radius, strength=0.25),
    )


def _meningioma(
    within: bool, anatomy: Anatomy, contrast: Contrast, rng: np.random.Generator
) -> Lesion:
    place = _choose(anatomy.surface_mm, rng)
    radius = rng.uniform(10.0, 17.0)
    inward = anatomy.inward[place]
    centre = anatomy.surface_mm[place] + rng.uniform(0.35, 0.6) * radius * inward
    level = rng.uniform(0.94, 1.02) if within else rng.uniform(1.25, 1.5)
    ball = _ball(centre, radius, rng)
    return Lesion(
        "meningioma",
        within,
        2 * radius,
        (_Layer(lambda p, _: ball(p, 0.0), level, texture=0.3),),
        push=_push_inward(centre, radius, inward),
    )


def _infarct(
    within: bool, anatomy: Anatomy, contrast: Contrast, rng: np.random.Generator
) -> Lesion:
    place = _choose(anatomy.surface_mm, rng)
    length = rng.uniform(30.0, 42.0)
    opening = np.tan(np.radians(rng.uniform(18.0, 27.0)))
    inward = anatomy.inward[place]
    apex = anatomy.surface_mm[place] + length * inward
    uneven = SmoothField(rng, sigma_mm=9.0)
    old = contrast.fluid + rng.uniform(0.25, 0.55) * (contrast.grey - contrast.fluid)
    level = old if within else rng.uniform(1.25, 1.45)

    def wedge(points_mm: _Points, _: _Weight) -> _Weight:
        along = (apex - points_mm) @ inward
        across = np.linalg.norm(points_mm - apex + along[..., None] * inward, axis=-1)
        edge = opening * along * (1 + 0.25 * uneven.sample(points_mm))
        return _soft_step(np.minimum(edge - across, along - 4.0), 1.2)

    return Lesion(
        "infarct", within, 2 * length * float(opening), (_Layer(wedge, level, texture=0.6),)
    )


def _cavity(within: bool, anatomy: Anatomy, contrast: Contrast, rng: np.random.Generator) -> Lesion:
    place = _choose(anatomy.surface_mm, rng)
    radius = rng.uniform(8.0, 15.0)
    centre = anatomy.surface_mm[place] + rng.uniform(0.9, 1.5) * radius * anatomy.inward[place]
    level = contrast.fluid * rng.uniform(1.0, 1.15) if within else rng.uniform(0.02, 0.08)
    ball = _ball(centre, radius, rng, soft_mm=0.7)
    layers = [_Layer(lambda p, _: ball(p, 0.0), level, texture=0.1)]
    if not within:
        blood = rng.uniform(1.2, 1.4)
        layers.insert(0, _Layer(lambda p, _: ball(p, -2.0), blood, texture=0.2))
    return Lesion("cavity", within, 2 * radius, tuple(layers))


def _spots(within: bool, anatomy: Anatomy, contrast: Contrast, rng: np.random.Generator) -> Lesion:
    places = anatomy.deep_white_mm
    first = places[_choose(places, rng)]
    nearby = places[np.linalg.norm(places - first, axis=1) < 25.0]
    centres = _spread(nearby[rng.permutation(len(nearby))], int(rng.integers(7, 13)), gap_mm=10.0)
    balls = [_ball(each, rng.uniform(3.0, 5.5), rng, soft_mm=0.7) for each in centres]
    level = rng.uniform(0.85, 1.0) * contrast.grey if within else rng.uniform(1.3, 1.5)

    def any_spot(points_mm: _Points, _: _Weight) -> _Weight:
        weight = balls[0](points_mm, 0.0)
        for ball in balls[1:]:
            weight = np.maximum(weight, ball(points_mm, 0.0))
        return weight

    return Lesion("spots", within, 50.0, (_Layer(any_spot, level, texture=0.3),))


def _spread(places_mm: _Points, count: int, gap_mm: float) -> _Points:
    """The first ``count`` places that keep ``gap_mm`` from one another; fewer if there are none."""
    kept = places_mm[:1]
    for place in places_mm[1:]:
        if len(kept) == count:
            break
        if np.linalg.norm(kept - place, axis=1).min() >= gap_mm:
            kept = np.vstack([kept, place])
    return kept


def _push_apart(
    centre_mm: _Points, radius_mm: float, strength: float
) -> Callable[[_Points], _Points]:
    """Tissue around ``centre_mm`` moved away from it; one-to-one for strengths below 1."""

    def push(points_mm: _Points) -> _Points:
        offset = points_mm - centre_mm
        squared = (offset**2).sum(-1, keepdims=True) / (1.8 * radius_mm) ** 2
        before: _Points = points_mm - strength * np.exp(-squared) * offset
        return before

    return push


def _push_inward(
    centre_mm: _Points, radius_mm: float, inward: _Points
) -> Callable[[_Points], _Points]:
    """The brain's surface pressed in along ``inward``; the skull does not give way."""

    def push(points_mm: _Points) -> _Points:
        squared = ((points_mm - centre_mm) ** 2).sum(-1, keepdims=True) / (1.6 * radius_mm) ** 2
        before: _Points = points_mm - 0.55 * radius_mm * np.exp(-squared) * inward
        return before

    return push


KINDS: dict[str, Callable[[bool, Anatomy, Contrast, np.random.Generator], Lesion]] = {
    "glioma": _glioma,
    "meningioma": _meningioma,
    "infarct": _infarct,
    "cavity": _cavity,
    "spots": _spots,
}


def balanced_kinds(count: int) -> Iterator[tuple[str, bool]]:
    """``count`` pairs of kind and within-tissue-range, balanced in both.

    Every second one stays within the range, and each run of ten has every pair once.
    """
    kinds = list(KINDS)
    for i in range(count):
        yield kinds[(i // 2) % len(kinds)], i % 2 == 0
