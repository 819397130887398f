"""Anomaly maps and masks on the grid of the file that they belong to.

A NIfTI volume in the axis order and with the affine of the source where it has a place in the
patient, else a NumPy array ``(H, W)``, ``(S, H, W)`` of several slices.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.data import Image, Provenance, read
from medad_fast.data.formats.nifti import write_nifti
from medad_fast.errors import InputError
from medad_fast.files import atomic_write


def write_on_grid(path: Path, values: NDArray[Any], image: Image) -> Path:
    """Write a map or a mask on the grid of the file that ``image`` was read from.

    Args:
        path: where to; ``.nii.gz`` is added for volumes and ``.npy`` for pictures where missing.
        values: ``(S, H, W)``, slices as those of ``image``; the dtype is kept.
        image: the image that they belong to.

    Returns:
        The file that was written.

    Raises:
        InputError: ``values`` has another shape than the image.
        DeviceError: the disk is full or not writable.
    """
    if values.shape != image.pixels.shape[:3]:
        raise InputError(f"values must have the shape {image.pixels.shape[:3]}, got {values.shape}")
    suffix = ".npy" if image.geometry is None else ".nii.gz"
    if not path.name.endswith(suffix):
        path = path.with_name(path.name + suffix)
    if image.geometry is not None:
        write_nifti(path, image.geometry.to_source(values), image.geometry.affine)
        return path
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, values[0] if len(values) == 1 else values, allow_pickle=False)
    return path


def read_on_grid(path: Path, dtype: type[np.generic] = np.floating) -> Image:
    """Read what :func:`write_on_grid` wrote, slices as those of the image it belongs to.

    Args:
        path: the file.
        dtype: kind of numbers that an array must hold; a volume is always read as float32.

    Raises:
        InputError: it is missing, damaged, or of another kind.
    """
    if path.suffix != ".npy":
        return read(path)
    try:
        found: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as an array: {error}") from error
    if found.ndim not in (2, 3) or not np.issubdtype(found.dtype, dtype):
        kind = "floating point" if dtype is np.floating else dtype.__name__
        raise InputError(f"{path}: {kind} (H, W) expected, got {found.dtype} {found.shape}")
    return Image(
        pixels=found[None] if found.ndim == 2 else found,
        modality="OT",
        spacing_mm=None,
        geometry=None,
        provenance=Provenance(path, "map", 8 * found.dtype.itemsize),
    )
