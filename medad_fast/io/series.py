"""Which files belong together, and whose they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medad_fast.errors import InputError, MedadError
from medad_fast.io.dicom_file import open_dataset
from medad_fast.io.dicom_geometry import place_of, stacked_geometry
from medad_fast.io.limits import MAX_FRAMES
from medad_fast.io.walk import is_dicom

__all__ = ["FileGroup", "group_files", "patient_of"]

_SUBJECT = re.compile(r"(?:^|[/_])(sub-[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*)(?=[/_.]|$)")
"""The subject part of a BIDS path, also with hyphens in the label."""


@dataclass(frozen=True)
class FileGroup:
    """The files of one image or volume, in slice order."""

    files: tuple[Path, ...]
    patient_id: str
    """DICOM's PatientID; empty where there is none."""


def group_files(paths: Sequence[Path]) -> list[FileGroup]:
    """Put the files of each DICOM series together; every other file is a group of its own.

    Files of one series that do not form an evenly spaced volume (several views, echoes or time
    points) stay apart. A file whose header cannot be read stays alone too: reading its pixels will
    say what is wrong with it.
    """
    series: dict[object, list[tuple[Path, Any]]] = {}
    for path in paths:
        header = _header(path)
        uid = "" if header is None else str(header.get("SeriesInstanceUID", "") or "")
        series.setdefault(uid or path, []).append((path, header))
    groups: list[FileGroup] = []
    for members in series.values():
        ordered = _volume_order(members)
        if ordered is None:
            groups += [FileGroup((path,), _patient_id(header)) for path, header in members]
        else:
            groups.append(FileGroup(tuple(ordered), _patient_id(members[0][1])))
    return sorted(groups, key=lambda group: group.files[0])


def patient_of(name: str, patient_id: str) -> str:
    """Whose image it is: its PatientID, else the ``sub-X`` part of its name, else itself."""
    subject = _SUBJECT.search(name)
    return patient_id or (subject.group(1) if subject else name)


def _header(path: Path) -> Any:
    if not is_dicom(path):
        return None
    try:
        return open_dataset(path, header_only=True)
    except MedadError:
        return None


def _patient_id(header: Any) -> str:
    return "" if header is None else str(header.get("PatientID", "") or "").strip()


def _volume_order(members: list[tuple[Path, Any]]) -> list[Path] | None:
    if not 1 < len(members) <= MAX_FRAMES:
        return None
    try:
        if any(int(header.get("NumberOfFrames") or 1) > 1 for _, header in members):
            return None
        places = [place_of(path, header) for path, header in members]
        whole = [place for place in places if place is not None]
        if len(whole) < len(places):
            return None
        return [whole[i].source for i in stacked_geometry(whole)[1]]
    except (InputError, AttributeError, TypeError, ValueError):
        # Odd values in a header (a size that is a text): the pixels' reader names them.
        return None
