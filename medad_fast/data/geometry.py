"""Which axis of a volume is which direction of the patient, and how slices are shown.

Directions are those of NIfTI: millimetres that grow towards the patient's right, anterior and
superior (RAS+).
"""

from __future__ import annotations

from itertools import permutations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medad_fast.data.image import Geometry, Image
from medad_fast.errors import InputError

Axis = Literal["axial", "coronal", "sagittal"]

_SHOWN: dict[Axis, str] = {"axial": "SPL", "coronal": "AIL", "sagittal": "RIP"}
"""Directions in which slices, rows and columns run on the screen."""

_CODES = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}
"""World axis and sign of each direction."""


def geometry_of(affine: NDArray[np.float64], axis: Axis = "axial") -> Geometry:
    """How to show a volume with this voxel-to-millimetre matrix, whatever order it is stored in.

    Axial slices run from inferior to superior, rows anterior to posterior, columns from the
    patient's right to left; coronal ones posterior to anterior, rows superior to inferior, columns
    right to left; sagittal ones left to right, rows superior to inferior, columns anterior to
    posterior. An oblique volume is shown along the nearest stored axes.

    Raises:
        InputError: the matrix is not finite or has no volume.
    """
    directions = affine[:3, :3]
    lengths = np.linalg.norm(directions, axis=0)
    if not np.isfinite(affine).all() or not (lengths > 0).all():
        raise InputError("the affine must be finite with no empty column")
    cosines = directions / lengths
    if abs(np.linalg.det(cosines)) < 1e-3:
        raise InputError("the affine must not be singular")
    world_of = max(
        permutations(range(3)), key=lambda p: sum(abs(cosines[p[i], i]) for i in range(3))
    )
    signs = [1 if cosines[world_of[i], i] > 0 else -1 for i in range(3)]
    return _shown_by(world_of, signs, affine, axis)


def geometry_of_codes(codes: str, axis: Axis = "axial") -> Geometry:
    """The geometry of a volume whose axes run in these directions, e.g. ``"RAS"``, at 1 mm."""
    world_of = tuple(_CODES[code][0] for code in codes)
    signs = [_CODES[code][1] for code in codes]
    affine = np.eye(4)
    affine[:3, :3] = 0
    for i, world in enumerate(world_of):
        affine[world, i] = signs[i]
    return _shown_by(world_of, signs, affine, axis)


def _shown_by(
    world_of: tuple[int, ...], signs: list[int], affine: NDArray[np.float64], axis: Axis
) -> Geometry:
    wanted = [_CODES[code] for code in _SHOWN[axis]]
    axes = [world_of.index(world) for world, _ in wanted]
    flips = [signs[i] != sign for i, (_, sign) in zip(axes, wanted, strict=True)]
    return Geometry((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]), affine)


def plane_of(image: Image, axis: Axis) -> Geometry | None:
    """How to slice a volume in this plane, or ``None`` where the image's own slices are meant.

    Single slices stay as they are, and so do axial ones: readers slice volumes like this.
    """
    if image.geometry is None or len(image.pixels) == 1 or axis == "axial":
        return None
    return geometry_of(image.geometry.affine, axis)


def in_plane(stack: NDArray[Any], image: Image, axis: Axis) -> NDArray[Any]:
    """``(S, H, W)`` as the slices of ``image`` to slices in this plane; a view."""
    plane = plane_of(image, axis)
    if plane is None or image.geometry is None:
        return stack
    return plane.to_slices(image.geometry.to_source(stack))


def slice_spacing_mm(geometry: Geometry) -> tuple[float, float, float]:
    """Distance between slices, rows and columns."""
    lengths = np.linalg.norm(geometry.affine[:3, :3], axis=0)
    between, down, along = (float(lengths[i]) for i in geometry.axes)
    return between, down, along


def affine_as_stored(
    geometry: Geometry,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    first_mm: tuple[float, float, float],
    axis: Axis = "axial",
) -> NDArray[np.float64]:
    """Voxel-to-millimetre matrix of the stored array, from where its slices are shown.

    Args:
        geometry: how slices lie in the stored array; its own affine is not used.
        shape: slices, rows and columns.
        spacing_mm: between slices, rows and columns.
        first_mm: place of the first pixel of the first slice as shown.
        axis: the plane the slices are shown in.
    """
    affine = np.eye(4)
    affine[:3, :3] = 0
    affine[:3, 3] = first_mm
    for code, source, flip, step_mm, count in zip(
        _SHOWN[axis], geometry.axes, geometry.flips, spacing_mm, shape, strict=True
    ):
        world, sign = _CODES[code]
        step = sign * step_mm
        affine[world, source] = -step if flip else step
        if flip:
            affine[world, 3] += step * (count - 1)
    return affine


def nearest_axis(normal: NDArray[np.float64]) -> Axis:
    """The plane whose normal is nearest to this direction."""
    planes: tuple[Axis, ...] = ("sagittal", "coronal", "axial")
    return planes[int(np.argmax(abs(normal)))]
