"""What DICOM results must say about the images that they were made from.

Only what the standard demands of an object in the same study is carried over: who the patient is
and which study, series and image it was, where the pixels lie, and whether they were compressed
with a loss. Everything else in the source stays there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.data.formats import quiet
from medad_fast.data.formats.dicom.file import open_dataset
from medad_fast.data.formats.dicom.frames import (
    FRAME_TAGS,
    SPACINGS,
    frame_headers,
    place_of,
    plane_spacing_mm,
    stacked_geometry,
)
from medad_fast.data.formats.dicom.pixels import known_modality
from medad_fast.data.image import Image
from medad_fast.data.limits import naming
from medad_fast.errors import InputError

IDENTITY_TAGS = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""Type 1 and 2 attributes of the Patient and General Study modules (DICOM PS3.3 C.7.1.1, C.7.2.1):
the only ones with a person's or a study's identity that results carry."""

_MUST = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
_CARRIED = {
    "FrameOfReferenceUID": r"[0-9.]{1,64}",
    "LossyImageCompression": r"00|01",
    "LossyImageCompressionRatio": r"[0-9.]{1,16}",
    "LossyImageCompressionMethod": r"(ISO_[0-9]{4,5}(_[0-9]{1,2})?)",
    "PatientOrientation": r"(?=.{1,16}$)[ALRPFHDV]{1,3}",
    "Laterality": r"[LR]",
    "BurnedInAnnotation": r"YES|NO",
}
"""Other attributes that are carried over, and what each value must look like."""
_TAGS = ("SpecificCharacterSet", "NumberOfFrames", *IDENTITY_TAGS, *_MUST, *_CARRIED, "Modality")


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """One frame of the source, which one frame of a result was made from."""

    sop_class: str
    sop_instance: str
    number: int | None
    """Of the frame in its file, from 1; ``None`` if such files hold one frame only."""
    header: dict[str, Any]
    """Position, orientation and spacing as the file gives them, by keyword."""

    def pixel_spacing(self) -> list[Any] | None:
        """Between rows and columns as the file gives it; for radiographs, on the detector."""
        if plane_spacing_mm(self.header) is None:
            return None
        return next(list(self.header[tag]) for tag in SPACINGS if self.header.get(tag))


@dataclass(frozen=True, eq=False)
class DicomSource:
    """The frames of one image, in the order of :meth:`as_stored`."""

    frames: tuple[SourceFrame, ...]
    series: str
    """SeriesInstanceUID."""
    shared: dict[str, Any]
    """What results carry over, by keyword; texts are decoded."""
    placed: bool
    """Whether the frames lie in a frame of reference: position, orientation, spacing and its UID
    are known."""
    image: Image

    @property
    def plane(self) -> tuple[int, int]:
        """Rows and columns of each frame."""
        if self.image.geometry is None:
            return self.image.pixels.shape[1], self.image.pixels.shape[2]
        columns, rows, _ = self.image.geometry.to_source(self.image.pixels).shape
        return rows, columns

    def as_stored(self, slices: NDArray[Any]) -> NDArray[Any]:
        """``(S, H, W, ...)`` as those of the image to ``(frames, rows, columns, ...)`` as stored:
        a pixel of the result is the pixel of the source in the same row and column."""
        if self.image.geometry is None:
            return slices
        stored = self.image.geometry.to_source(slices)  # columns, rows, slices
        return np.ascontiguousarray(np.transpose(stored, (2, 1, 0)))


def dicom_source(image: Image, files: Sequence[Path]) -> DicomSource:
    """Read what results must refer to from the files of a DICOM image. No pixels are read.

    Args:
        image: what :func:`medad_fast.data.read` made of the files.
        files: of the image.

    Raises:
        InputError: a file lacks an identifier that nothing could refer to it without.
    """
    headers: list[Any] = []
    frames: list[SourceFrame] = []
    paths: list[Path] = []  # of each frame
    for path in files:
        with naming(path, "a DICOM image", tell=False), quiet():
            dataset = open_dataset(path, tags=(*_TAGS, *FRAME_TAGS))
            for tag in _MUST:
                if not dataset.get(tag):
                    raise InputError(f"{path}: lacks the tag {tag}, which DICOM results refer to")
            headers.append(dataset)
            frames += _frames(dataset)
            paths += [path] * (len(frames) - len(paths))
    with naming(files[0], "a DICOM image", tell=False), quiet():
        if image.geometry is not None and len(frames) > 1:
            places = [place_of(path, each.header) for path, each in zip(paths, frames, strict=True)]
            order = stacked_geometry([place for place in places if place is not None])[1]
            frames = [frames[i] for i in order]
        shared = _shared(headers[0])
        return DicomSource(
            frames=tuple(frames),
            series=str(headers[0].SeriesInstanceUID),
            shared=shared,
            placed=image.geometry is not None and bool(shared.get("FrameOfReferenceUID")),
            image=image,
        )


def _frames(dataset: Any) -> list[SourceFrame]:
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    # Single-frame files may have NumberOfFrames too.
    several = count > 1 or dataset.get("SharedFunctionalGroupsSequence") is not None
    identity = str(dataset.SOPClassUID), str(dataset.SOPInstanceUID)
    return [
        SourceFrame(*identity, number=number if several else None, header=header)
        for number, header in enumerate(frame_headers(dataset, count), start=1)
    ]


def _shared(dataset: Any) -> dict[str, Any]:
    """Values that results carry; an impossible value is left empty."""
    from pydicom.multival import MultiValue

    found: dict[str, Any] = {tag: _text(dataset.get(tag)) for tag in IDENTITY_TAGS}
    if found["PatientSex"] not in ("M", "F", "O"):
        found["PatientSex"] = ""
    for tag, kind in (("PatientBirthDate", "DA"), ("StudyDate", "DA"), ("StudyTime", "TM")):
        found[tag] = _moment(found[tag], kind)
    for tag, form in _CARRIED.items():
        value = dataset.get(tag)
        each = list(value) if isinstance(value, MultiValue) else [value]
        if all(re.fullmatch(form, str(one)) for one in each):
            found[tag] = value
    found["Modality"] = known_modality(dataset)
    return found


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _moment(text: str, kind: str) -> str:
    """A date or time in today's form (``20261121``), also from ``2026.11.21``; else empty."""
    from pydicom.valuerep import DA, TM

    digits = text.replace(".", "") if kind == "DA" else text.replace(":", "")
    form = r"\d{8}" if kind == "DA" else r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?"
    if not re.fullmatch(form, digits):
        return ""
    try:
        DA(digits) if kind == "DA" else TM(digits)
    except ValueError:
        return ""
    return digits
