"""What a DICOM header says of each frame: by itself, for all frames, or for the whole file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SPACINGS", "LookupTable", "frame_headers", "grouping_tags", "plane_spacing_mm"]

_BIG_ENDIAN = "1.2.840.10008.1.2.2"

_MACROS = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
}
"""Functional groups of enhanced files, and what they hold (DICOM PS3.3 C.7.6.16.2)."""

_TAGS = (
    "Rows",
    "Columns",
    "BitsStored",
    "PixelRepresentation",
    "PhotometricInterpretation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "FloatPixelPaddingValue",
    "DoubleFloatPixelPaddingValue",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    *(tag for tags in _MACROS.values() for tag in tags),
)


@dataclass(frozen=True, eq=False)
class LookupTable:
    """A modality LUT (DICOM PS3.3 C.11.1.1)."""

    first: int
    """The stored value of the first entry; smaller ones take it too."""
    entries: NDArray[np.uint16]
    """Values from there on; stored values beyond the last take the last."""


SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
"""Where the distance of rows and columns may stand, the best first."""


def grouping_tags() -> tuple[str, ...]:
    """The keywords that :func:`frame_headers` reads, but for tables of grey levels."""
    groups = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
    return (*_TAGS, *groups, "GridFrameOffsetVector")


def frame_headers(dataset: Any, count: int) -> list[dict[str, Any]]:
    """The attributes of each frame by keyword; those that the file lacks are left out.

    Values of a frame's own functional groups win over the shared ones, and these over the file's.
    Several frames without functional groups have no place, except where GridFrameOffsetVector (dose
    grids) tells it: a position of the file is that of its first frame only.
    """
    whole = {tag: value for tag in _TAGS if (value := dataset.get(tag)) is not None}
    table = dataset.get("ModalityLUTSequence")
    if table:
        whole["ModalityLUT"] = _lookup_table(dataset, table[0])
    shared = dataset.get("SharedFunctionalGroupsSequence") or [None]
    whole |= _grouped(shared[0])
    own = dataset.get("PerFrameFunctionalGroupsSequence")
    if own is not None and len(own) == count:
        return [whole | _grouped(group) for group in own]
    if count == 1:
        return [whole]
    position = whole.pop("ImagePositionPatient", None)
    offsets = [float(value) for value in dataset.get("GridFrameOffsetVector") or ()]
    if position is None or len(offsets) != count or offsets[0] != 0:
        return [whole] * count
    cosines = np.array([float(value) for value in whole.get("ImageOrientationPatient") or ()])
    if cosines.shape != (6,):
        return [whole] * count
    normal = np.cross(cosines[:3], cosines[3:])
    start = np.array([float(value) for value in position])
    return [whole | {"ImagePositionPatient": (start + far * normal).tolist()} for far in offsets]


def _lookup_table(dataset: Any, item: Any) -> LookupTable:
    count, first, _ = (int(value) for value in item.LUTDescriptor)
    count = count or 2**16  # which does not fit into the 16 bits of the tag
    if int(dataset.PixelRepresentation) and first >= 2**15:
        first -= 2**16  # a signed value with an unsigned VR
    data = item.LUTData
    if isinstance(data, bytes):
        big = str(dataset.file_meta.TransferSyntaxUID) == _BIG_ENDIAN
        packed = len(data) < 2 * count  # 8-bit entries, two to a word
        data = np.frombuffer(data, np.uint8 if packed else ">u2" if big else "<u2")
    entries = np.asarray(data).reshape(-1).astype(np.uint16)[:count]
    if len(entries) < count:
        raise ValueError("a modality LUT shorter than it claims")
    return LookupTable(first, entries)


def _grouped(group: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for macro, tags in _MACROS.items():
        for item in (group.get(macro) if group is not None else None) or ():
            found |= {tag: value for tag in tags if (value := item.get(tag)) is not None}
    return found


def plane_spacing_mm(header: dict[str, Any]) -> tuple[float, float, float] | None:
    """Slice thickness (1 where unknown) and distance between rows and columns.

    Radiographs tell the spacing on the detector or on the film instead of in the patient.
    """
    spacing = next((header[tag] for tag in SPACINGS if header.get(tag)), None)
    if spacing is None or isinstance(spacing, str) or len(spacing) != 2:
        return None
    thickness = float(header.get("SliceThickness") or 1.0)
    values = np.array([thickness, float(spacing[0]), float(spacing[1])])
    if not np.isfinite(values).all() or (values <= 0).any():
        return None
    return thickness, float(spacing[0]), float(spacing[1])
