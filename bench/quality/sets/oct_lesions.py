"""Abnormalities of a simulated retina. Kinds, sizes and contrasts: see ``simulate.oct``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.quality.sets.retina_layers import (
    INNERMOST,
    LAYERS,
    OUTER,
    WIDTH_UM,
    Retina,
    swollen,
)

_Picture = NDArray[np.floating[Any]]

LEAST_LOSS_UM = 35.0
"""Thinning that takes less at every place is drawn again."""


def soft_step(inside_um: _Picture, soft_um: float) -> _Picture:
    """0 outside, 1 inside, one half on the edge."""
    weight: _Picture = 0.5 + 0.5 * np.tanh(inside_um / np.float32(soft_um))
    return weight


@dataclass(frozen=True)
class Oval:
    """A cyst: middle and half sizes, in micrometres."""

    across: float
    depth: float
    half_width: float
    half_height: float

    def weight(self, depths: _Picture, across: _Picture) -> _Picture:
        """1 inside, 0 outside, with an edge of a few micrometres."""
        distance = np.hypot(
            (across - self.across) / self.half_width, (depths - self.depth) / self.half_height
        )
        return soft_step((1 - distance) * np.float32(self.half_height), 6.0)


Change = tuple[Retina, dict[str, float], tuple[Oval, ...]]
"""The layers, what was drawn, and cysts to be painted dark."""


def _fluid(retina: Retina, rng: np.random.Generator) -> Change:
    wide, high = rng.uniform(700, 1800), rng.uniform(40, 110)
    dome = _dome(retina.columns, rng.uniform(0.25, 0.75) * WIDTH_UM, wide, high, 1.5)
    detail = {"width_um": wide, "height_um": high}
    return swollen(retina, "fluid", dome), detail, ()


def _cysts(retina: Retina, rng: np.random.Generator) -> Change:
    count = int(rng.integers(1, 5))
    middle = rng.uniform(0.25, 0.75) * WIDTH_UM
    places: list[tuple[str, float, float, float]] = []
    bulges: dict[str, _Picture] = {}
    for _ in range(count):
        layer = "inner nuclear" if rng.random() < 0.5 else "outer nuclear"
        across = float(np.clip(middle + rng.normal(0, 500), 300, WIDTH_UM - 300))
        half_width, half_height = rng.uniform(60, 160), rng.uniform(20, 45)
        bulge = _dome(retina.columns, across, 8 * half_width, 1.6 * half_height, 1.5)
        bulges[layer] = np.maximum(bulge, bulges.get(layer, 0))
        places.append((layer, across, half_width, half_height))
    sick = retina
    for layer, bulge in bulges.items():
        sick = swollen(sick, layer, bulge)
    ovals = []
    for layer, across, half_width, half_height in places:
        column = int(across / WIDTH_UM * len(retina.columns))
        ovals.append(Oval(across, sick.middle(layer, column), half_width, half_height))
    return sick, {"cysts": count}, tuple(ovals)


def _drusen(retina: Retina, rng: np.random.Generator) -> Change:
    count = int(rng.integers(2, 6))
    middle = rng.uniform(0.25, 0.75) * WIDTH_UM
    material = np.zeros_like(retina.columns)
    for _ in range(count):
        across = middle + rng.normal(0, 700)
        bump = _dome(retina.columns, across, rng.uniform(250, 600), rng.uniform(40, 100), 1.0)
        material = np.maximum(material, bump)
    taken = np.minimum(0.5 * material, 0.8 * retina.thickness[LAYERS.index("outer nuclear")])
    sick = swollen(swollen(retina, "drusen", material), "outer nuclear", -taken)
    return sick, {"drusen": count, "height_um": float(material.max())}, ()


def _thinning(retina: Retina, rng: np.random.Generator) -> Change:
    outer = rng.random() < 0.5
    while True:
        wide, lost = rng.uniform(1200, 2500), rng.uniform(0.45, 0.75)
        place = _dome(retina.columns, rng.uniform(0.25, 0.75) * WIDTH_UM, wide, 1.0, 0.8)
        layers = [LAYERS.index(layer) for layer in (OUTER if outer else INNERMOST)]
        # The fovea has next to no innermost layers to lose.
        if (lost * place * retina.thickness[layers].sum(axis=0)).max() >= LEAST_LOSS_UM:
            break
    sick = retina
    for layer in layers:
        sick = swollen(sick, LAYERS[layer], -lost * place * retina.thickness[layer])
    if outer:
        sick = sick.with_transmission(1 + 1.2 * place)
    return sick, {"width_um": wide, "lost": lost, "outer": float(outer)}, ()


def _dome(columns: _Picture, middle: float, width: float, height: float, power: float) -> _Picture:
    """``height`` in the middle, 0 from half of ``width`` away on."""
    distance = abs(columns - np.float32(middle)) / np.float32(0.5 * width)
    shape: _Picture = height * (1 - distance**2).clip(0) ** np.float32(power)
    return shape


CHANGES: dict[str, Callable[[Retina, np.random.Generator], Change]] = {
    "fluid": _fluid,
    "cysts": _cysts,
    "drusen": _drusen,
    "thinning": _thinning,
}
