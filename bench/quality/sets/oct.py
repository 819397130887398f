"""Simulated retinal OCT, normal and abnormal B-scans in pairs, with exact masks.

**A phantom: layers, speckle and abnormalities are all computed; no eye stands behind it.** It has
the layers, proportions and speckle of a scan of the macula, and nothing else of one. Results on
this data show that a method works and compare methods; they say nothing about diagnostic accuracy.

What is written below was fixed before any of the methods was fitted; what could be seen by then
were the trivial baselines and patch-knn with random filters. Once, positions and speckle were made
to vary more and abnormalities to be smaller, since pca16 alone nearly solved the first draft. Sizes
are micrometres.

**A subject** is drawn from a random stream of its own, the same for every split:

- a scan of 6 mm by 1 mm, up to 1.2 mm beside the fovea and up to 0.7 mm off its middle; nine layers
  between vitreous and choroid of normal thickness (retina 250 to 330), each of them 20 % (sd 8)
  thicker or thinner as a whole, and 8 % along the scan (smoothed over 0.8 mm);
- position: Bruch's membrane 500 to 740 deep, sloping by up to 180 over the scan, bent by up to
  110, waves of sd 6 (over 0.8 mm);
- reflectivity of each layer by up to 15 % (sd 6), a choroid with dark vessels that fades over 150
  to 220, one to four shadows of vessels 60 to 160 wide that leave 35 to 65 % of the light, light
  that falls by up to 25 % towards one side;
- speckle: gamma of shape 1.5 to 8, noise floor of 0.5 to 3 % of the brightest layer, shown as the
  power 0.35 to 0.45 of the intensity, on the normal picture's 1st to 99.8th percentile, 8 bits.

**An abnormality** is put into the layers, before light and speckle. Speckle and noise of both
pictures are the same:

=========== ======================================================================================
kind        what changes
=========== ======================================================================================
fluid       a dome of dark fluid 700-1800 wide and 40-110 high between photoreceptors and pigment
            epithelium; the retina above is lifted
cysts       1 to 4 dark ovals, 120-320 wide and 40-90 high, in the inner or outer nuclear layer,
            which swells around them
drusen      2 to 5 bumps 250-600 wide and 40-100 high of grey material under the pigment epithelium;
            the layers above are lifted, the outer nuclear layer takes up half
thinning    over 1200-2500 either the two innermost layers or the outer nuclear layer with the
            photoreceptors lose 45-75 % of their thickness, at least 35 somewhere; below lost
            photoreceptors the pigment epithelium thins too and more light reaches the choroid
=========== ======================================================================================

The mask is the fluid, the cysts or the material itself; for thinning, the place of the retina
before it, in those columns where more than half of the greatest loss is reached. Kinds take turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.quality.sets.oct_lesions import CHANGES, Oval, soft_step
from bench.quality.sets.pairs import (
    Progress,
    SetPlan,
    SimulatedPair,
    kind_of,
    smooth_field,
    write_pairs,
)
from bench.quality.sets.retina_layers import WIDTH_UM, Retina, draw_retina
from medad_fast.demo.streams import Part, streams

DEPTH_UM = 1000.0
KINDS = tuple(CHANGES)
PLAN = SetPlan()
_ABOUT = (
    "Simulated OCT scans of the retina: a computed phantom with computed abnormalities. Kinds, "
    "sizes and contrasts are described in the docstring of bench.quality.sets.oct. No diagnostic "
    "accuracy."
)

_Picture = NDArray[np.floating[Any]]


def simulate_oct(
    out: str | Path, plan: SetPlan = PLAN, *, progress: Progress | None = None
) -> Path:
    """Write a set of B-scans in the folder layout that every verb reads.

    See :func:`bench.quality.sets.pairs.write_pairs` for the files and errors. Each subject has one
    picture, each test subject a normal and an abnormal one.
    """

    def draw(split: Part, number: int, abnormal: bool) -> list[SimulatedPair]:
        return [draw_oct(plan.seed, split, number, abnormal=abnormal, size=plan.size)]

    return write_pairs(out, draw, plan, about=_ABOUT, progress=progress)


def draw_oct(
    seed: int, split: Part, number: int, *, abnormal: bool, size: int = 128
) -> SimulatedPair:
    """Draw one subject, without writing anything."""
    subject, disease = streams(seed, split, number)
    retina = draw_retina(subject, size)
    scanner = _draw_scanner(subject, retina, size)
    clean = scanner.light(retina)
    window = np.percentile(scanner.shown(clean), (1, 99.8))
    name = f"sub-oct-{split}-{number:03d}"
    normal = scanner.stored(clean, window)
    mask = np.zeros((size, size), dtype=np.bool_)
    if not abnormal:
        return SimulatedPair(name, normal, normal, mask)
    kind = kind_of(KINDS, number)
    while not mask.any():
        sick, detail, dark = CHANGES[kind](retina, disease)
        mask = _mask(kind, retina, sick, scanner, dark)
    light = scanner.light(sick, dark)
    return SimulatedPair(name, normal, scanner.stored(light, window), mask, kind, detail)


@dataclass(frozen=True, eq=False)
class _Scanner:
    """What was drawn for one scan but the layers themselves."""

    depths: _Picture
    """Depth of each row in micrometres, ``(H, 1)``."""
    columns: _Picture
    """Place of each column, ``(W)``."""
    choroid: _Picture
    """Its texture, ``(H, W)``."""
    choroid_um: float
    shadows: _Picture
    """Light that is left of each column, ``(W)``."""
    speckle: _Picture
    floor: _Picture
    power: float

    def light(self, retina: Retina, dark: tuple[Oval, ...] = ()) -> _Picture:
        """Light that comes back from each place, without speckle."""
        tops, bottom = retina.tops(), retina.bruch
        total = np.full((len(self.depths), len(self.columns)), 0.015, dtype=np.float32)
        for layer, reflects in enumerate(retina.reflectivity):
            below = tops[layer + 1] if layer + 1 < len(tops) else bottom
            total += reflects * (self._beneath(tops[layer]) - self._beneath(below))
        under = (self.depths - bottom).clip(0)
        total += (
            self._beneath(bottom)
            * self.choroid
            * retina.transmitted
            * np.exp(-under / np.float32(self.choroid_um))
        )
        for oval in dark:
            total += (0.02 - total) * oval.weight(self.depths, self.columns)
        # Vessels lie in the innermost layer and darken what is beneath them.
        shade = 1 - (1 - self.shadows) * self._beneath(tops[1])
        result: _Picture = total * shade
        return result

    def _beneath(self, boundary: _Picture) -> _Picture:
        """0 above, 1 beneath, one half on it."""
        return soft_step(self.depths - boundary, 5.0)

    def shown(self, light: _Picture) -> _Picture:
        """With speckle and noise, on the display's scale."""
        picture: _Picture = (light * self.speckle + self.floor) ** np.float32(self.power)
        return picture

    def stored(self, light: _Picture, window: _Picture) -> NDArray[np.uint8]:
        """What the file holds."""
        low, high = (float(each) for each in window)
        grey = ((self.shown(light) - low) / (high - low)).clip(0, 1)
        pixels: NDArray[np.uint8] = np.rint(255 * grey).astype(np.uint8)
        return pixels


def _draw_scanner(rng: np.random.Generator, retina: Retina, size: int) -> _Scanner:
    from scipy.ndimage import gaussian_filter

    columns = retina.columns
    vessels = smooth_field(rng, (size, size), 0.018 * size)
    shadows = np.ones(size, dtype=np.float32)
    for _ in range(int(rng.integers(1, 5))):
        half = rng.uniform(30, 80)
        distance = abs(columns - rng.uniform(0.05, 0.95) * WIDTH_UM)
        left = np.float32(rng.uniform(0.35, 0.65))
        shadows *= 1 - (1 - left) * soft_step(half - distance, 24.0)
    shadows *= (1 - rng.uniform(0, 0.25) * np.abs(rng.integers(2) - columns / WIDTH_UM)).astype(
        np.float32
    )
    shape = rng.uniform(1.5, 8)
    speckle = rng.gamma(shape, 1 / shape, (size, size)).astype(np.float32)
    # A point of light is a little wider than a pixel, along the scan more than in depth.
    speckle = gaussian_filter(speckle, (0.4, 0.6), mode="nearest")
    floor = rng.exponential(rng.uniform(0.005, 0.03), (size, size)).astype(np.float32)
    depths = ((np.arange(size, dtype=np.float32) + 0.5) * np.float32(DEPTH_UM / size))[:, None]
    return _Scanner(
        depths=depths,
        columns=columns,
        choroid=(0.5 * (1 - 0.55 / (1 + np.exp(-4 * (vessels - 0.3))))).astype(np.float32),
        choroid_um=rng.uniform(150, 220),
        shadows=shadows,
        speckle=speckle,
        floor=floor,
        power=rng.uniform(0.35, 0.45),
    )


def _mask(
    kind: str, retina: Retina, sick: Retina, scanner: _Scanner, dark: tuple[Oval, ...]
) -> NDArray[np.bool_]:
    depths = scanner.depths
    if kind == "cysts":
        weights = [oval.weight(depths, scanner.columns) for oval in dark]
        found: NDArray[np.bool_] = np.max(weights, axis=0) > 0.5
        return found
    if kind == "thinning":
        lost = retina.thickness.sum(0) - sick.thickness.sum(0)
        inside: NDArray[np.bool_] = (depths > retina.tops()[0]) & (depths < retina.bruch)
        hit: NDArray[np.bool_] = inside & (lost > 0.5 * lost.max())
        return hit
    top, below = sick.edges("fluid" if kind == "fluid" else "drusen")
    between: NDArray[np.bool_] = (depths > top) & (depths < below)
    return between
