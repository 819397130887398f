"""DICOM images: single-frame files, and series of them as volumes.

The order of work is fixed: decode, padding mask, modality LUT or rescale, optional VOI window,
MONOCHROME1 last. See ``docs/data.md``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.errors import InputError
from medad_fast.io.dicom_file import open_dataset
from medad_fast.io.dicom_geometry import SlicePlace, place_of, stacked_geometry
from medad_fast.io.image import Image, Provenance
from medad_fast.io.limits import check_size, naming
from medad_fast.io.orientation import slice_spacing_mm

__all__ = ["read_dicom", "read_dicom_series"]

_REQUIRED = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "PhotometricInterpretation",
    "PixelData",
)
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
_RLE = "1.2.840.10008.1.2.5"
_RLE_MOST = 64
"""Bytes that one byte of run-length code can stand for, at most."""


@dataclass(frozen=True, eq=False)
class _Frame:
    """One decoded file, rows and columns as stored."""

    pixels: NDArray[Any]
    modality: str
    place: SlicePlace | None
    provenance: Provenance
    attributes: dict[str, str]


def read_dicom(path: Path, *, voi_window: bool = False) -> Image:
    """Read a single-frame DICOM file.

    Pixels are in the units of the modality LUT (Hounsfield units for CT). A file that tells its
    place in the patient is turned so that rows and columns run as for volumes.

    Args:
        path: the file.
        voi_window: clip to the first window that the file recommends, if it has one.

    Raises:
        InputError: damaged, multi-frame, without pixels, or compressed in a way that no installed
            decoder reads.
        LimitError: larger than the stated limits.
    """
    return _assembled([_read_frame(path, voi_window)])


def read_dicom_series(paths: Sequence[Path], *, voi_window: bool = False) -> Image:
    """Read the single-frame files of one series as a volume of axial slices.

    Args:
        paths: the files, in any order.
        voi_window: as :func:`read_dicom`.

    Raises:
        InputError: as :func:`read_dicom`, or the files do not form one evenly spaced volume.
        LimitError: larger than the stated limits.
    """
    frames = []
    for path in paths:
        frames.append(_read_frame(path, voi_window))
        rows, columns = frames[0].pixels.shape[:2]
        check_size(paths[0], len(paths), rows, columns, frames[0].pixels.itemsize)
    return _assembled(frames)


def _assembled(frames: list[_Frame]) -> Image:
    first = frames[0]
    if first.place is None:
        if len(frames) > 1:
            raise InputError(f"{first.provenance.source}: does not tell its place in the series")
        return Image(
            pixels=first.pixels[None],
            modality=first.modality,
            spacing_mm=None,
            geometry=None,
            provenance=first.provenance,
            attributes=first.attributes,
        )
    places = [frame.place for frame in frames if frame.place is not None]
    geometry, order = stacked_geometry(places)
    # The source array is (columns, rows, slices): the order in which the affine counts.
    source = np.stack([frames[i].pixels.T for i in order], axis=-1)
    return Image(
        pixels=geometry.to_slices(source),
        modality=first.modality,
        spacing_mm=slice_spacing_mm(geometry),
        geometry=geometry,
        provenance=frames[order[0]].provenance,
        attributes=first.attributes,
    )


def _read_frame(path: Path, voi_window: bool) -> _Frame:
    dataset = open_dataset(path)
    # The texts of pydicom's warnings and errors quote values of the file.
    with naming(path, "a DICOM image", tell=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _check_header(path, dataset)
        stored = _decoded(path, dataset)
        photometric = str(dataset.PhotometricInterpretation)
        window = None
        if photometric in _GREY:
            pixels, window = _grey(path, dataset, stored, voi_window)
        elif photometric == "PALETTE COLOR":
            from pydicom.pixels.processing import apply_color_lut

            pixels = apply_color_lut(stored, dataset)[..., :3]
        else:
            pixels = stored
        grey = photometric in _GREY
        return _Frame(
            pixels=pixels,
            modality=str(dataset.get("Modality", "") or "OT"),
            place=place_of(path, dataset) if grey else None,
            provenance=Provenance(
                source=path,
                reader="dicom",
                bits_stored=int(dataset.BitsStored),
                rescaled=grey and _is_rescaled(dataset),
                inverted=photometric == "MONOCHROME1",
                window=window,
            ),
            attributes={
                key: str(dataset.get(key, "") or "") for key in ("PatientID", "SeriesInstanceUID")
            },
        )


def _check_header(path: Path, dataset: Any) -> None:
    for tag in _REQUIRED:
        if dataset.get(tag) is None:
            raise InputError(f"{path}: lacks the tag {tag}")
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    samples = int(dataset.SamplesPerPixel)
    check_size(
        path, frames, int(dataset.Rows), int(dataset.Columns), samples * max(allocated // 8, 1)
    )
    if frames != 1:
        raise InputError(f"{path}: holds {frames} frames; single-frame files are read")
    if allocated not in (1, 8, 16, 32) or not 1 <= stored <= allocated:
        raise InputError(f"{path}: claims {stored} bits stored in {allocated} allocated")
    if int(dataset.get("HighBit", stored - 1)) != stored - 1:
        raise InputError(f"{path}: its HighBit must be BitsStored - 1")
    photometric = str(dataset.PhotometricInterpretation)
    one_sample = photometric in (*_GREY, "PALETTE COLOR")
    if photometric not in (*_GREY, *_COLOUR) or samples != (1 if one_sample else 3):
        known = ", ".join((*_GREY, *_COLOUR))
        raise InputError(
            f"{path}: has a photometric interpretation and samples per pixel that are not read; "
            f"read are {known}"
        )


def _decoded(path: Path, dataset: Any) -> NDArray[Any]:
    """``(rows, columns)`` or ``(rows, columns, 3)`` RGB, in the stored values."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import pixel_array

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise InputError(f"{path}: the transfer syntax {syntax.name} is not read") from error
    if not decoder.is_available:
        raise InputError(
            f"{path}: no decoder for the transfer syntax {syntax.name} is installed: "
            'pip install "medad-fast[dicom]"'
        )
    pixel_bytes = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel)
    pixel_bytes *= max(int(dataset.BitsAllocated) // 8, 1)
    if syntax == _RLE and pixel_bytes > _RLE_MOST * len(dataset.PixelData):
        raise InputError(
            f"{path}: {len(dataset.PixelData)} bytes of run-length code cannot hold "
            f"{pixel_bytes} bytes"
        )
    try:
        return pixel_array(dataset)
    except RuntimeError as error:
        if not decoder.missing_dependencies:
            raise
        raise InputError(
            f"{path}: is damaged, or of a kind of {syntax.name} that only another decoder reads: "
            'pip install "medad-fast[dicom]"'
        ) from error


def _grey(
    path: Path, dataset: Any, stored: NDArray[Any], voi_window: bool
) -> tuple[NDArray[Any], tuple[float, float] | None]:
    """Padding mask, modality LUT, window, MONOCHROME1: in this order."""
    bits, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    least, most = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    stored = _used_bits(stored, bits, signed)
    padding = _padding(dataset, stored, signed)

    # What the smallest and largest storable value become decides the inversion and the padding,
    # never the picture's own extremes: the same tissue must get the same value in every picture.
    ends = np.array([[least, most]]).astype(np.int64)
    values, ends = (_rescaled(path, dataset, each) for each in (stored, ends))
    window = _voi_window(dataset) if voi_window else None
    if window is not None:
        values, ends = np.clip(values, *window), np.clip(ends, *window)
    low, high = ends.min().item(), ends.max().item()
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        whole = values.dtype.kind in "iu"
        values = low + high - values.astype(np.int64 if whole else np.float64)
    if padding is not None:
        values = np.where(padding, low, values)
    return _compact(values, low, high), window


def _used_bits(stored: NDArray[Any], bits: int, signed: bool) -> NDArray[Any]:
    """Values without what other software left in the unused high bits (old overlays)."""
    if bits == 8 * stored.dtype.itemsize:
        return stored
    unused = 64 - bits
    widened = stored.astype(np.int64) << unused if signed else stored & ((1 << bits) - 1)
    return (widened >> unused).astype(stored.dtype) if signed else widened.astype(stored.dtype)


def _padding(dataset: Any, stored: NDArray[Any], signed: bool) -> NDArray[np.bool_] | None:
    if dataset.get("PixelPaddingValue") is None:
        return None
    span = sorted(
        int(dataset.get(tag, dataset.PixelPaddingValue))
        for tag in ("PixelPaddingValue", "PixelPaddingRangeLimit")
    )
    if signed:
        # Some writers store a negative padding value with an unsigned VR.
        span = sorted(end - 2**16 if end >= 2**15 else end for end in span)
    padding: NDArray[np.bool_] = (stored >= span[0]) & (stored <= span[1])
    return padding if padding.any() else None


def _is_rescaled(dataset: Any) -> bool:
    has_lut = bool(dataset.get("ModalityLUTSequence"))
    return has_lut or _slope_and_intercept(dataset) != (1.0, 0.0)


def _slope_and_intercept(dataset: Any) -> tuple[float, float]:
    slope = dataset.get("RescaleSlope")
    intercept = dataset.get("RescaleIntercept")
    return (1.0 if slope is None else float(slope)), (
        0.0 if intercept is None else float(intercept)
    )


def _rescaled(path: Path, dataset: Any, stored: NDArray[Any]) -> NDArray[Any]:
    if dataset.get("ModalityLUTSequence"):
        from pydicom.pixels.processing import apply_modality_lut

        looked_up: NDArray[Any] = apply_modality_lut(stored, dataset)
        return looked_up
    slope, intercept = _slope_and_intercept(dataset)
    if (slope, intercept) == (1.0, 0.0):
        return stored
    with np.errstate(over="ignore", invalid="ignore"):
        values = (stored * np.float64(slope) + intercept).astype(np.float32)
    if slope == 0 or not np.isfinite(values).all():
        raise InputError(f"{path}: its rescale slope {slope:g} or intercept cannot be used")
    return values


def _voi_window(dataset: Any) -> tuple[float, float] | None:
    """Edges of the first recommended window (DICOM PS3.3 C.11.2.1.2.1)."""
    from pydicom.multival import MultiValue

    centre, width = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if centre is None or width is None:
        return None
    centre, width = (
        float(each[0] if isinstance(each, MultiValue) else each) for each in (centre, width)
    )
    if width < 1:
        return None
    return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2


def _compact(values: NDArray[Any], low: float, high: float) -> NDArray[Any]:
    """Whole numbers in the smallest type that holds the storable range, others in float32."""
    if values.dtype.kind not in "iu":
        return values.astype(np.float32)
    kinds: tuple[type[np.integer[Any]], ...] = (np.uint8, np.uint16, np.int16, np.int32)
    for kind in kinds:
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return values.astype(kind)
    return values.astype(np.int64)
