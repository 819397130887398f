"""One door for all files: what kind a file is, is told by its content."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medad_fast.data.formats.dicom.reader import read_dicom, read_dicom_series
from medad_fast.data.formats.nifti import NIFTI_SUFFIXES, read_nifti_image
from medad_fast.data.formats.picture import read_picture
from medad_fast.data.image import Geometry, Image
from medad_fast.data.limits import regular_file_size
from medad_fast.data.quiet import hushed_logs
from medad_fast.errors import InputError

__all__ = ["read", "read_mask"]

_NIFTI_STARTS = tuple(size.to_bytes(4, order) for size in (348, 540) for order in ("little", "big"))


def read(
    source: Path | str | Sequence[Path], *, voi_window: bool = False, volume: int | None = None
) -> Image:
    """Read one image: a file, or all files of one DICOM series.

    Args:
        source: a DICOM, NIfTI (``.nii``, ``.nii.gz``), PNG or JPEG file, or the files of a series.
        voi_window: clip DICOM values to the window that the file recommends.
        volume: which volume of a NIfTI file that holds several, from 0.

    Raises:
        InputError: not an image of these kinds, damaged, or not readable.
        LimitError: larger than the stated limits.
    """
    with hushed_logs():
        if not isinstance(source, (str, Path)):
            if len(source) != 1:
                return read_dicom_series(source, voi_window=voi_window)
            source = source[0]
        path = Path(source)
        kind = _kind(path)
        if kind == "dicom":
            return read_dicom(path, voi_window=voi_window)
        if kind == "nifti":
            return read_nifti_image(path, volume=volume)
        return read_picture(path)


def read_mask(path: Path, image: Image) -> NDArray[np.bool_]:
    """Read a lesion mask that lies on the grid of ``image``.

    Returns:
        ``(S, H, W)``, true where the file is not zero, slices as those of ``image``.

    Raises:
        InputError: the mask cannot be read, or lies on another grid.
    """
    mask = read(path)
    pixels: NDArray[np.bool_] = np.nan_to_num(mask.pixels) != 0
    if pixels.ndim == 4:
        pixels = pixels[..., 0] | pixels[..., 1] | pixels[..., 2]
    if mask.geometry is None and image.geometry is not None and _is_one_dicom_slice(image):
        # A picture is as the file stores its rows, which the image need not be shown by.
        pixels = image.geometry.to_slices(pixels.transpose(2, 1, 0))
    if mask.geometry is not None and image.geometry is not None:
        differ = abs(
            _corners(mask.geometry, pixels.shape) - _corners(image.geometry, image.pixels.shape)
        ).max()
        allowed = 0.1 * min(image.spacing_mm or (1.0,))
        if pixels.shape == image.pixels.shape[:3] and differ > allowed:
            raise InputError(
                f"{path}: lies {differ:.2f} mm away from {image.provenance.source}, whose mask it "
                "should be"
            )
    if pixels.shape != image.pixels.shape[:3]:
        got, wanted = (" x ".join(map(str, s)) for s in (pixels.shape, image.pixels.shape[:3]))
        raise InputError(
            f"{path}: has {got} pixels, but {image.provenance.source}, whose mask it should be, "
            f"has {wanted}"
        )
    return pixels


def _is_one_dicom_slice(image: Image) -> bool:
    return image.provenance.reader == "dicom" and len(image.pixels) == 1


def _kind(path: Path) -> str:
    regular_file_size(path)
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror}") from error
    if start[128:] == b"DICM":
        return "dicom"
    if start.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return "picture"
    if start.startswith(_NIFTI_STARTS) or path.name.lower().endswith(NIFTI_SUFFIXES):
        return "nifti"
    if start.startswith(b"\x1f\x8b") and _inflates_to_nifti(path):
        return "nifti"
    if not start:
        raise InputError(f"{path}: is empty")
    raise InputError(f"{path}: is not a DICOM, NIfTI, PNG or JPEG file")


def _inflates_to_nifti(path: Path) -> bool:
    try:
        with gzip.open(path) as file:
            return file.read(4) in _NIFTI_STARTS
    except (OSError, EOFError, zlib.error):
        return False


def _corners(geometry: Geometry, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Places of the first and the last pixel as shown, ``(2, 3)``."""
    places = []
    for last in (False, True):
        index = np.array([0.0, 0.0, 0.0, 1.0])
        for axis, flip, count in zip(geometry.axes, geometry.flips, shape[:3], strict=True):
            index[axis] = count - 1 if last != flip else 0
        places.append((geometry.affine @ index)[:3])
    return np.array(places)
