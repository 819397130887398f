"""Read an image or a mask from a file of any format; its content decides which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medad_fast.data.formats import ReadOptions, format_of, formats, hushed_logs
from medad_fast.data.image import Geometry, Image
from medad_fast.data.limits import naming
from medad_fast.errors import InputError


def read(
    source: Path | str | Sequence[Path], *, voi_window: bool = False, volume: int | None = None
) -> Image:
    """Read one image: a file, or all files of one DICOM series.

    Args:
        source: a file of one of the kinds in ``docs/reading.md``, or the files of a series.
        voi_window: clip DICOM values to the window that the file recommends.
        volume: which volume of a NIfTI file that holds several, from 0.

    Raises:
        InputError: not an image of these kinds, damaged, or not readable.
        LimitError: larger than the stated limits.
    """
    files = [Path(source)] if isinstance(source, (str, Path)) else list(source)
    if not files:
        raise InputError("source must be a file or the files of a series, got no file")
    options = ReadOptions(voi_window=voi_window, volume=volume)
    kind = format_of(files[0])
    if len(files) > 1 and kind.series is None:
        raise InputError(f"{files[0]}: is an image by itself, not one of {len(files)} slices")
    with hushed_logs(), naming(files[0], f"a {kind.kinds[0]} file"):
        if len(files) > 1 and kind.series is not None:
            return kind.series.read(files, options)
        return kind.read(files[0], options)


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
    if mask.geometry is None and image.geometry is not None and _is_slice_stored_by_rows(image):
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


def _is_slice_stored_by_rows(image: Image) -> bool:
    kind = formats().get(image.provenance.reader)
    return len(image.pixels) == 1 and kind is not None and kind.stored_by_rows


def _corners(geometry: Geometry, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Places of the first and the last pixel as shown, ``(2, 3)``."""
    places = []
    for last in (False, True):
        index = np.array([0.0, 0.0, 0.0, 1.0])
        for axis, flip, count in zip(geometry.axes, geometry.flips, shape[:3], strict=True):
            index[axis] = count - 1 if last != flip else 0
        places.append((geometry.affine @ index)[:3])
    return np.array(places)
