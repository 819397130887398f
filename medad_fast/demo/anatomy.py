"""The brain that simulated subjects are made of: the ICBM152 average in nilearn's wheel."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.data.formats.nifti import read_nifti
from medad_fast.errors import InputError

_WHITE_T1, _GREY_T1, _FLUID_T1 = 224.0, 168.0, 70.0
"""Mean template value of voxels that are purely one tissue, by least squares over the brain."""

_BLUR_MM = 0.7
"""Keeps 1 mm detail from aliasing when it is sampled about every 2 mm."""

_FIELD_STEP_MM = 4.0
_FIELD_LOW_MM = np.array([-124.0, -140.0, -60.0])
_FIELD_HIGH_MM = np.array([124.0, 108.0, 108.0])


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Tissue maps on a 1 mm grid, and the places where lesions may sit.

    Coordinates are millimetres of the template's space, RAS+.
    """

    grey: NDArray[np.float32]
    """Share of grey matter, 0 to 1, ``(X, Y, Z)``."""
    white: NDArray[np.float32]
    """Share of white matter, 0 to 1."""
    texture: NDArray[np.float32]
    """T1 minus what the tissue shares explain, in units of white matter; 0 outside the brain."""
    brain: NDArray[np.float32]
    """1 inside the skull-stripped template, 0 outside, slightly blurred."""
    origin_mm: NDArray[np.float64]
    """Coordinates of voxel (0, 0, 0)."""
    deep_white_mm: NDArray[np.float64]
    """Places at least 5 mm inside white matter, ``(N, 3)``."""
    surface_mm: NDArray[np.float64]
    """Places on the cerebrum's convexity, ``(M, 3)``."""
    inward: NDArray[np.float64]
    """Unit vectors into the brain at ``surface_mm``, ``(M, 3)``."""

    def sample(
        self, maps: NDArray[np.float32], points_mm: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Linear interpolation of a map at points ``(..., 3)``; 0 outside the grid."""
        from scipy.ndimage import map_coordinates

        places = np.moveaxis(points_mm - self.origin_mm, -1, 0)
        sampled: NDArray[np.float32] = map_coordinates(maps, places, order=1, output=np.float32)
        return sampled


class SmoothField:
    """Gaussian noise smoothed over ``sigma_mm``, with zero mean and unit standard deviation."""

    def __init__(self, rng: np.random.Generator, sigma_mm: float) -> None:
        from scipy.ndimage import gaussian_filter

        shape = ((_FIELD_HIGH_MM - _FIELD_LOW_MM) / _FIELD_STEP_MM).astype(int) + 1
        noise = rng.standard_normal(tuple(shape)).astype(np.float32)
        smooth = gaussian_filter(noise, sigma_mm / _FIELD_STEP_MM, mode="reflect", truncate=3.0)
        self._values = (smooth - smooth.mean()) / smooth.std()

    def sample(self, points_mm: NDArray[np.float64]) -> NDArray[np.float32]:
        """Values at points ``(..., 3)``."""
        from scipy.ndimage import map_coordinates

        places = np.moveaxis((points_mm - _FIELD_LOW_MM) / _FIELD_STEP_MM, -1, 0)
        sampled: NDArray[np.float32] = map_coordinates(
            self._values, places, order=1, mode="nearest", output=np.float32
        )
        return sampled


def _template_folder() -> Path:
    package = importlib.util.find_spec("nilearn")
    if package is not None and package.origin is not None:
        folder = Path(package.origin).parent / "datasets" / "data"
        if (folder / _template_file("t1")).is_file():
            return folder
    raise InputError(
        "the simulated subjects are made from the ICBM152 brain inside the package nilearn, "
        'which was not found: pip install "medad-fast[demo]"'
    )


def _template_file(tissue: str) -> str:
    return f"mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz"


@lru_cache(maxsize=1)
def load_anatomy() -> Anatomy:
    """Read the T1, grey and white matter maps from nilearn's folder, without importing it.

    Raises:
        InputError: nilearn is not installed.
    """
    from scipy.ndimage import gaussian_filter

    folder = _template_folder()
    t1, affine = read_nifti(folder / _template_file("t1"))
    grey = read_nifti(folder / _template_file("gm"))[0] / np.float32(255)
    white = read_nifti(folder / _template_file("wm"))[0] / np.float32(255)
    origin_mm: NDArray[np.float64] = affine[:3, 3]

    brain = t1 > 0
    explained = _FLUID_T1 + (_GREY_T1 - _FLUID_T1) * grey + (_WHITE_T1 - _FLUID_T1) * white
    texture = np.where(brain, (t1 - explained) / _WHITE_T1, 0).clip(-0.15, 0.15)

    def blurred(shares: NDArray[Any]) -> NDArray[np.float32]:
        smooth: NDArray[np.float32] = gaussian_filter(
            shares.astype(np.float32), _BLUR_MM, truncate=3.0
        )
        return smooth

    # Halved grids are enough to choose places on, and eight times faster.
    deep_white_mm = origin_mm + 2.0 * _deep(white[::2, ::2, ::2])
    surface, inward = _convexity(brain[::2, ::2, ::2], origin_mm)
    return Anatomy(
        grey=blurred(grey),
        white=blurred(white),
        texture=blurred(texture),
        brain=blurred(brain),
        origin_mm=origin_mm,
        deep_white_mm=deep_white_mm,
        surface_mm=origin_mm + 2.0 * surface,
        inward=inward,
    )


def _deep(white: NDArray[np.float32]) -> NDArray[np.float64]:
    from scipy.ndimage import distance_transform_edt

    depth_mm = 2.0 * distance_transform_edt(white > 0.5)
    return np.argwhere(depth_mm >= 5.0).astype(np.float64)


def _convexity(
    brain: NDArray[np.bool_], origin_mm: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Outer surface of the cerebrum with its inward normals, away from midline and skull base."""
    from scipy.ndimage import binary_erosion, gaussian_filter

    slope = np.stack(np.gradient(gaussian_filter(brain.astype(np.float32), 4.0)), axis=-1)
    places = np.argwhere(brain & ~binary_erosion(brain)).astype(np.float64)
    normals = slope[tuple(places.astype(int).T)].astype(np.float64)
    steepness = np.linalg.norm(normals, axis=1)
    x, _, z = (origin_mm + 2.0 * places).T
    # A steep edge of the blurred brain is the convexity: the fissure's walls cancel out.
    outer = (steepness > 0.08) & (abs(x) > 15) & (z > -6)
    return places[outer], normals[outer] / steepness[outer, None]
