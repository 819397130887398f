"""What a DICOM header says of each frame, and where the frames lie in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.data.geometry import Axis, geometry_of, nearest_axis
from medad_fast.data.image import Geometry
from medad_fast.errors import InputError

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
FRAME_TAGS = (
    *_TAGS,
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "GridFrameOffsetVector",
)
"""The keywords that :func:`frame_headers` reads, without the tables of grey levels."""
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
"""Tags that may give the distance of rows and columns, the best first."""

_SAME_DIRECTION = 1e-3
"""Difference of direction cosines that rounding in the file explains."""
_EVEN_GAP = 0.05
"""Largest deviation of a slice's position, as a share of the gap between slices."""

_TO_RAS = np.array([-1.0, -1.0, 1.0])
"""DICOM counts towards the patient's left and posterior, NIfTI towards right and anterior."""


@dataclass(frozen=True, eq=False)
class LookupTable:
    """A modality LUT (DICOM PS3.3 C.11.1.1)."""

    first: int
    """The stored value of the first entry; smaller ones take it too."""
    entries: NDArray[np.uint16]
    """Values from there on; stored values beyond the last take the last."""


def frame_headers(dataset: Any, count: int) -> list[dict[str, Any]]:
    """The attributes of each frame by keyword, as far as the file has them.

    Values come from the frame's own functional groups, else from the shared ones, else from the
    file. The position of a file is that of its first frame only. So several frames without
    functional groups have no position, except by GridFrameOffsetVector (dose grids).
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

    Radiographs give the spacing on the detector or on the film instead of in the patient.
    """
    spacing = next((header[tag] for tag in SPACINGS if header.get(tag)), None)
    if spacing is None or isinstance(spacing, str) or len(spacing) != 2:
        return None
    thickness = float(header.get("SliceThickness") or 1.0)
    values = np.array([thickness, float(spacing[0]), float(spacing[1])])
    if not np.isfinite(values).all() or (values <= 0).any():
        return None
    return thickness, float(spacing[0]), float(spacing[1])


@dataclass(frozen=True, eq=False)
class SlicePlace:
    """Position and directions of one file's pixels in the patient, RAS+ millimetres."""

    source: Path
    shape: tuple[int, int]
    """Rows and columns."""
    position_mm: NDArray[np.float64]
    along_row: NDArray[np.float64]
    """Direction in which the column index grows, unit length."""
    down_column: NDArray[np.float64]
    """Direction in which the row index grows, unit length."""
    spacing_mm: tuple[float, float]
    """Between rows, between columns."""
    thickness_mm: float

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.along_row, self.down_column)


def place_of(path: Path, header: Any) -> SlicePlace | None:
    """The place that a header gives, or ``None`` if it is not complete.

    Args:
        path: for messages.
        header: anything with ``get(keyword)``: a dataset, or a frame's own attributes.
    """
    told: list[Any] = [
        header.get(tag)
        for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    ]
    if not all(told):
        return None
    position, cosines, spacing = (np.array([float(x) for x in each]) for each in told)
    if position.shape != (3,) or cosines.shape != (6,) or spacing.shape != (2,):
        return None
    along, down = cosines[:3] * _TO_RAS, cosines[3:] * _TO_RAS
    numbers = np.concatenate([position, cosines, spacing])
    upright = abs(np.linalg.norm(along) - 1) + abs(np.linalg.norm(down) - 1) + abs(along @ down)
    if not np.isfinite(numbers).all() or upright > 0.05 or spacing.min() <= 0:
        return None
    thickness = float(header.get("SliceThickness") or 1.0)
    return SlicePlace(
        source=path,
        shape=(int(header.get("Rows")), int(header.get("Columns"))),
        position_mm=position * _TO_RAS,
        along_row=along / np.linalg.norm(along),
        down_column=down / np.linalg.norm(down),
        spacing_mm=(float(spacing[0]), float(spacing[1])),
        thickness_mm=thickness if np.isfinite(thickness) and thickness > 0 else 1.0,
    )


def stacked_geometry(places: Sequence[SlicePlace]) -> tuple[Geometry, list[int]]:
    """Geometry of the array ``(columns, rows, slices)``, and the files in slice order.

    A single slice is shown in its own plane, a stack as axial slices.

    Raises:
        InputError: the slices differ in size, direction or spacing, share a position, or are not
            evenly spaced.
    """
    first = places[0]
    for place in places[1:]:
        turned = max(
            abs(place.along_row - first.along_row).max(),
            abs(place.down_column - first.down_column).max(),
        )
        if (
            place.shape != first.shape
            or turned > _SAME_DIRECTION
            or not np.allclose(place.spacing_mm, first.spacing_mm, rtol=1e-3)
        ):
            raise InputError(
                f"{place.source}: has another size, direction or spacing than {first.source}, "
                "which belongs to the same series"
            )
    heights = np.array([place.position_mm @ first.normal for place in places])
    order = [int(i) for i in np.argsort(heights, kind="stable")]
    start = places[order[0]].position_mm
    step = first.normal * first.thickness_mm
    if len(places) > 1:
        gaps = np.diff(heights[order])
        gap = float(np.median(gaps))
        if gap <= 0 or abs(gaps - gap).max() > _EVEN_GAP * gap:
            raise InputError(
                f"{first.source}: the {len(places)} slices of its series are not evenly spaced"
            )
        step = (places[order[-1]].position_mm - start) / (len(places) - 1)
    affine = np.eye(4)
    affine[:3, 0] = first.along_row * first.spacing_mm[1]
    affine[:3, 1] = first.down_column * first.spacing_mm[0]
    affine[:3, 2] = step
    affine[:3, 3] = start
    axis: Axis = "axial" if len(places) > 1 else nearest_axis(first.normal)
    return geometry_of(affine, axis), order
