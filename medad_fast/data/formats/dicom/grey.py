"""From stored DICOM values to grey levels: brighter is always larger.

Padding mask, modality LUT or rescale, optional VOI window, MONOCHROME1: in this order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.data.formats.dicom.frames import LookupTable
from medad_fast.errors import InputError


def grey_values(
    path: Path, header: dict[str, Any], stored: NDArray[Any], voi_window: bool
) -> tuple[NDArray[Any], tuple[float, float] | None]:
    """One frame ``(rows, columns)`` in the units of its modality LUT, and the window applied.

    Args:
        path: for messages.
        header: of the frame, see :func:`medad_fast.data.formats.dicom.frames.frame_headers`.
        stored: decoded values.
        voi_window: clip to the first recommended window.

    Raises:
        InputError: the rescale slope or intercept gives no usable numbers.
    """
    if stored.dtype.kind == "f":
        return _float_values(path, header, stored, voi_window)
    bits, signed = int(header["BitsStored"]), bool(header["PixelRepresentation"])
    least, most = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    stored = _used_bits(stored, bits, signed)
    padding = _padding(header, stored, signed)

    # What the smallest and largest storable value become decides the inversion and the padding,
    # never the picture's own extremes: the same tissue must get the same value in every picture.
    ends = np.array([[least, most]]).astype(np.int64)
    values, ends = (_rescaled(path, header, each) for each in (stored, ends))
    window = _voi_window(header) if voi_window else None
    if window is not None:
        values, ends = np.clip(values, *window), np.clip(ends, *window)
    low, high = ends.min().item(), ends.max().item()
    if header["PhotometricInterpretation"] == "MONOCHROME1":
        whole = values.dtype.kind in "iu"
        values = low + high - values.astype(np.int64 if whole else np.float64)
    if padding is not None:
        values = np.where(padding, low, values)
    return _compact(values, low, high), window


def _float_values(
    path: Path, header: dict[str, Any], stored: NDArray[Any], voi_window: bool
) -> tuple[NDArray[Any], tuple[float, float] | None]:
    """For parametric maps: no smallest storable value, so padding becomes the smallest other."""
    values = _rescaled(path, header, stored)
    window = _voi_window(header) if voi_window else None
    if window is not None:
        values = np.clip(values, *window)
    for tag in ("FloatPixelPaddingValue", "DoubleFloatPixelPaddingValue"):
        padding = stored == header.get(tag, np.nan)
        if padding.any() and not padding.all():
            values = np.where(padding, values[~padding].min(), values)
    return values.astype(np.float32), window


def is_rescaled(header: dict[str, Any]) -> bool:
    """Whether a modality LUT, or a slope and intercept other than 1 and 0, is to be applied."""
    return "ModalityLUT" in header or _slope_and_intercept(header) != (1.0, 0.0)


def _used_bits(stored: NDArray[Any], bits: int, signed: bool) -> NDArray[Any]:
    """Values without the unused high bits, where other software left overlays."""
    if bits == 8 * stored.dtype.itemsize:
        return stored
    unused = 64 - bits
    widened = stored.astype(np.int64) << unused if signed else stored & ((1 << bits) - 1)
    return (widened >> unused).astype(stored.dtype) if signed else widened.astype(stored.dtype)


def _padding(
    header: dict[str, Any], stored: NDArray[Any], signed: bool
) -> NDArray[np.bool_] | None:
    if header.get("PixelPaddingValue") is None:
        return None
    span = sorted(
        int(header.get(tag, header["PixelPaddingValue"]))
        for tag in ("PixelPaddingValue", "PixelPaddingRangeLimit")
    )
    if signed:
        # Some writers store a negative padding value with an unsigned VR.
        span = sorted(end - 2**16 if end >= 2**15 else end for end in span)
    padding: NDArray[np.bool_] = (stored >= span[0]) & (stored <= span[1])
    return padding if padding.any() else None


def _slope_and_intercept(header: dict[str, Any]) -> tuple[float, float]:
    return float(header.get("RescaleSlope", 1.0)), float(header.get("RescaleIntercept", 0.0))


def _rescaled(path: Path, header: dict[str, Any], stored: NDArray[Any]) -> NDArray[Any]:
    table: LookupTable | None = header.get("ModalityLUT")
    if table is not None:
        place = (stored.astype(np.int64) - table.first).clip(0, len(table.entries) - 1)
        looked_up: NDArray[np.uint16] = table.entries[place]
        return looked_up
    slope, intercept = _slope_and_intercept(header)
    if (slope, intercept) == (1.0, 0.0):
        return stored
    # In double precision until the end: rounded twice, 32-bit values would lose their last digit.
    with np.errstate(over="ignore", invalid="ignore"):
        values: NDArray[np.float64] = stored * np.float64(slope) + intercept
        fits = np.isfinite(values.astype(np.float32)).all()
    if slope == 0 or not fits:
        raise InputError(f"{path}: its rescale slope {slope:g} or intercept cannot be used")
    return values


def _voi_window(header: dict[str, Any]) -> tuple[float, float] | None:
    """Edges of the first recommended window (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3).

    A sigmoid window is taken as the linear one of its centre and width.
    """
    from pydicom.multival import MultiValue

    centre, width = header.get("WindowCenter"), header.get("WindowWidth")
    if centre is None or width is None:
        return None
    centre, width = (
        float(each[0] if isinstance(each, MultiValue) else each) for each in (centre, width)
    )
    if str(header.get("VOILUTFunction") or "LINEAR") == "LINEAR":
        centre, width = centre - 0.5, width - 1
        return None if width < 0 else (centre - width / 2, centre + width / 2)
    return None if width <= 0 else (centre - width / 2, centre + width / 2)


def _compact(values: NDArray[Any], low: float, high: float) -> NDArray[Any]:
    """Whole numbers in the smallest type that holds the storable range, others in float32."""
    if values.dtype.kind not in "iu":
        return values.astype(np.float32)
    kinds: tuple[type[np.integer[Any]], ...] = (np.uint8, np.uint16, np.int16, np.int32)
    for kind in kinds:
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return values.astype(kind)
    return values.astype(np.int64)
