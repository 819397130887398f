"""Which files belong together, and whose they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medad_fast.data.formats.dicom.file import HEADER_TAGS, open_dataset
from medad_fast.data.formats.dicom.geometry import place_of, stacked_geometry
from medad_fast.data.formats.dicom.pixels import GREY
from medad_fast.data.limits import MAX_FRAMES
from medad_fast.data.quiet import quiet
from medad_fast.data.walk import is_dicom
from medad_fast.errors import InputError, MedadError

__all__ = ["FileGroup", "group_files", "patient_of"]

_Member = tuple[Path, Any]
"""A file and its header, ``None`` where that cannot be read."""

_SUBJECT = re.compile(r"(?:^|[/_])(sub-[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*)(?=[/_.]|$)")
"""The subject part of a BIDS path, also with hyphens in the label."""


@dataclass(frozen=True)
class FileGroup:
    """The files of one image or volume, in slice order."""

    files: tuple[Path, ...]
    patient_id: str
    """DICOM's PatientID; empty where there is none."""
    series: Path
    """The first file of the DICOM series that they are of, as sorted; their own first otherwise."""


def group_files(paths: Sequence[Path]) -> list[FileGroup]:
    """Put the files of each DICOM series together; every other file is a group of its own.

    A series that is no evenly spaced volume is parted by size, direction and spacing (a scout
    beside a stack), and what is none then by echo, acquisition and time point. What is left stays
    single files. A file whose header cannot be read stays alone too: reading its pixels will say
    what is wrong with it.
    """
    series: dict[object, list[_Member]] = {}
    with quiet():  # values are converted, and complained of, as they are asked for
        for path in paths:
            header = _header(path)
            uid = "" if header is None else str(header.get("SeriesInstanceUID", "") or "")
            series.setdefault(uid or path, []).append((path, header))
        groups = [group for members in series.values() for group in _of_series(members)]
    return sorted(groups, key=lambda group: group.files[0])


def _of_series(members: list[_Member]) -> Iterator[FileGroup]:
    yield from _stacks(members, _PARTINGS, min(path for path, _ in members))


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
    """Size, direction and spacing, as far as the header tells them."""
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


def patient_of(name: str, patient_id: str, series: str) -> str:
    """Whose image it is: its PatientID, else the ``sub-X`` part of its name, else its series."""
    subject = _SUBJECT.search(name)
    return patient_id or (subject.group(1) if subject else series)


def _header(path: Path) -> Any:
    if not is_dicom(path):
        return None
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
        # Odd values in a header (a size that is a text): the pixels' reader names them.
        return None
