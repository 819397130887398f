"""The layers of a simulated macula, as thicknesses along a scan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Line = NDArray[np.floating[Any]]

WIDTH_UM = 6000.0
"""Of the scan."""

LAYERS = (
    "nerve fibres",
    "ganglion cells",
    "inner nuclear",
    "outer plexiform",
    "outer nuclear",
    "inner segments",
    "ellipsoid zone",
    "outer segments",
    "fluid",
    "pigment epithelium",
    "drusen",
)
"""From the vitreous to Bruch's membrane; fluid and drusen have no thickness in normal eyes."""
INNERMOST = ("nerve fibres", "ganglion cells")
OUTER = (
    "outer nuclear",
    "inner segments",
    "ellipsoid zone",
    "outer segments",
    "pigment epithelium",
)

REFLECTIVITY = (0.75, 0.36, 0.17, 0.34, 0.11, 0.16, 0.80, 0.36, 0.02, 0.90, 0.45)

FOVEA_UM = (5.0, 8.0, 6.0, 14.0, 105.0, 24.0, 14.0, 28.0, 0.0, 22.0, 0.0)
"""Thickness in the middle of the fovea."""
RIM_UM = (32.0, 88.0, 40.0, 28.0, 70.0, 20.0, 13.0, 18.0, 0.0, 20.0, 0.0)
"""Thickness 1 mm beside it."""
FAR_UM = (42.0, 58.0, 32.0, 24.0, 58.0, 20.0, 13.0, 16.0, 0.0, 20.0, 0.0)
"""Thickness 3 mm beside it."""


@dataclass(frozen=True, eq=False)
class Retina:
    """Layers along a scan; depths count downwards from the scan's upper edge, in micrometres."""

    columns: _Line
    """Place of each column along the scan, ``(W)``."""
    bruch: _Line
    """Depth of Bruch's membrane, ``(W)``."""
    thickness: NDArray[np.float32]
    """``(11, W)``, in the order of :data:`LAYERS`."""
    reflectivity: NDArray[np.float32]
    """``(11)``."""
    transmitted: _Line
    """Light that reaches the choroid, 1 in normal eyes, ``(W)``."""

    def tops(self) -> NDArray[np.float32]:
        """Depth of each layer's upper edge, ``(11, W)``."""
        above: NDArray[np.float32] = self.bruch - np.cumsum(self.thickness[::-1], axis=0)[::-1]
        return above

    def edges(self, layer: str) -> tuple[_Line, _Line]:
        """Upper and lower edge of a layer."""
        place, tops = LAYERS.index(layer), self.tops()
        return tops[place], tops[place + 1] if place + 1 < len(LAYERS) else self.bruch

    def middle(self, layer: str, column: int) -> float:
        """Depth of a layer's middle in one column."""
        top, below = self.edges(layer)
        return float(0.5 * (top[column] + below[column]))

    def with_transmission(self, transmitted: _Line) -> Retina:
        """The same with more or less light in the choroid."""
        return replace(self, transmitted=transmitted)


def swollen(retina: Retina, layer: str, by_um: _Line) -> Retina:
    """The same with one layer thicker, or thinner where ``by_um`` is negative."""
    thickness = retina.thickness.copy()
    place = LAYERS.index(layer)
    thickness[place] = (thickness[place] + by_um).clip(0)
    return replace(retina, thickness=thickness)


def draw_retina(rng: np.random.Generator, size: int) -> Retina:
    """Draw the layers of a normal eye along a scan of ``size`` columns."""
    columns = ((np.arange(size) + 0.5) * (WIDTH_UM / size)).astype(np.float32)
    beside_um = columns - 0.5 * WIDTH_UM - rng.uniform(-700, 700)
    away_mm = np.hypot(beside_um, rng.uniform(0, 1200)) / 1000
    pit = np.exp(-((away_mm / 0.55) ** 2))
    far = 1 / (1 + np.exp(-(away_mm - 2.0) / 0.4))
    rows = []
    for fovea, rim, distant in zip(FOVEA_UM, RIM_UM, FAR_UM, strict=True):
        line = pit * fovea + (1 - pit) * (rim + far * (distant - rim))
        whole = 1 + float(np.clip(rng.normal(0, 0.08), -0.2, 0.2))
        along = 1 + 0.03 * _line(rng, size, 800 / WIDTH_UM * size).clip(-2.6, 2.6)
        rows.append(line * whole * along)
    reflectivity = np.array(REFLECTIVITY) * (1 + rng.normal(0, 0.06, len(LAYERS)).clip(-0.15, 0.15))
    offset = (columns / WIDTH_UM - 0.5).astype(np.float64)
    bruch = (
        rng.uniform(500, 740)
        + rng.uniform(-180, 180) * offset
        - rng.uniform(-20, 110) * (1 - 4 * offset**2)
        + 6 * _line(rng, size, 800 / WIDTH_UM * size)
    )
    return Retina(
        columns=columns,
        bruch=bruch.astype(np.float32),
        thickness=np.stack(rows).astype(np.float32),
        reflectivity=reflectivity.astype(np.float32),
        transmitted=np.ones(size, dtype=np.float32),
    )


def _line(rng: np.random.Generator, size: int, sigma: float) -> NDArray[np.float64]:
    from scipy.ndimage import gaussian_filter1d

    noise = gaussian_filter1d(rng.standard_normal(3 * size), sigma, mode="reflect")
    line: NDArray[np.float64] = noise[size : 2 * size] / noise.std()
    return line
