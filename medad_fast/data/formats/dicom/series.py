"""Which DICOM files belong together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medad_fast.data.formats import FileGroup, quiet
from medad_fast.data.formats.dicom.file import HEADER_TAGS, open_dataset
from medad_fast.data.formats.dicom.frames import place_of, stacked_geometry
from medad_fast.data.formats.dicom.pixels import GREY
from medad_fast.data.limits import MAX_FRAMES
from medad_fast.errors import InputError, MedadError

_Member = tuple[Path, Any]
"""A file and its header, ``None`` where that cannot be read."""


def group_series(paths: Sequence[Path]) -> list[FileGroup]:
    """Put the files of each series that is one volume together, in slice order.

    A series that is not one evenly spaced volume is divided by size, direction and spacing (a scout
    beside a stack), then by echo, acquisition and time point. Files that still form no volume stay
    single, and so do files whose header cannot be read: reading their pixels says what is wrong.
    """
    series: dict[object, list[_Member]] = {}
    with quiet():  # pydicom converts values, and warns of them, when they are asked for
        for path in paths:
            header = _header(path)
            uid = "" if header is None else str(header.get("SeriesInstanceUID", "") or "")
            series.setdefault(uid or path, []).append((path, header))
        return [
            group
            for members in series.values()
            for group in _stacks(members, _PARTINGS, min(path for path, _ in members))
        ]


def _stacks(
    members: list[_Member], partings: Sequence[Callable[[Any], object]], first: Path
) -> Iterator[FileGroup]:
    ordered = _volume_order(members)
    if ordered is not None:
        yield FileGroup(tuple(ordered), _patient_id(members[0][1]), first)
    elif partings and len(members) > 1:
        parts: dict[object, list[_Member]] = {}
        for path, header in members:
            parts.setdefault(partings[0](header), []).append((path, header))
        for part in parts.values():
            yield from _stacks(part, partings[1:], first)
    else:
        yield from (FileGroup((path,), _patient_id(header), first) for path, header in members)


def _plane(header: Any) -> object:
    """Size, direction and spacing, as far as the header gives them."""
    try:
        place = place_of(Path(), header)
    except (AttributeError, TypeError, ValueError):
        place = None
    if place is None:
        return None
    directions = np.concatenate([place.along_row, place.down_column]).round(2) + 0.0
    return place.shape, tuple(directions.tolist()), place.spacing_mm


def _moment(header: Any) -> object:
    return tuple(
        str(header.get(tag, "")) if header is not None else ""
        for tag in ("EchoTime", "AcquisitionNumber", "TemporalPositionIdentifier")
    )


_PARTINGS = (_plane, _moment)


def _header(path: Path) -> Any:
    try:
        return open_dataset(path, tags=HEADER_TAGS)
    except MedadError:
        return None


def _patient_id(header: Any) -> str:
    return "" if header is None else str(header.get("PatientID", "") or "").strip()


def _is_slice(header: Any) -> bool:
    """Whether a file holds one grey frame; colours have no place in the patient."""
    photometric = str(header.get("PhotometricInterpretation", ""))
    return int(header.get("NumberOfFrames") or 1) == 1 and photometric in GREY


def _volume_order(members: list[_Member]) -> list[Path] | None:
    if not 1 < len(members) <= MAX_FRAMES:
        return None
    try:
        if not all(_is_slice(header) for _, header in members):
            return None
        places = [place_of(path, header) for path, header in members]
        whole = [place for place in places if place is not None]
        if len(whole) < len(places):
            return None
        return [whole[i].source for i in stacked_geometry(whole)[1]]
    except (InputError, AttributeError, TypeError, ValueError):
        # Odd values in a header (a size that is a text): reading the pixels names them.
        return None
