"""Opening a DICOM file without trusting any length in it."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medad_fast.data.formats import quiet
from medad_fast.data.limits import (
    MAX_DECODED_BYTES,
    MAX_SEQUENCE_DEPTH,
    naming,
    regular_file_size,
)
from medad_fast.errors import InputError, LimitError

MAX_INFLATED_BYTES = 2**26
"""Most bytes that a deflated file may inflate to: a small one can claim gigabytes."""

HEADER_TAGS = [
    "SOPClassUID",
    "Modality",
    "PatientID",
    "SeriesInstanceUID",
    "InstanceNumber",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PhotometricInterpretation",
    "EchoTime",
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
]
"""What is needed to group files into series and patients."""

_DEFLATED = "1.2.840.10008.1.2.1.99"
_EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
_META_GROUP_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"
_UNDEFINED = 0xFFFFFFFF


class _Clamped(io.BufferedReader):
    """A file that never reads more than is left, however long an element claims to be."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(io.FileIO(path))
        self._size = size

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self._size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


def open_dataset(path: Path, *, tags: Sequence[str] | None = None) -> Any:
    """Parse a DICOM file into a pydicom dataset.

    Pydicom's warnings and log lines are dropped, and so are the texts of its exceptions: they quote
    values of the file.

    Args:
        path: the file.
        tags: stop before the pixels and keep only these keywords, e.g. ``HEADER_TAGS``.

    Raises:
        InputError: not DICOM, or damaged.
        LimitError: larger or deeper than the stated limits.
    """
    size = regular_file_size(path)
    if size > 2 * MAX_DECODED_BYTES:
        raise LimitError(f"{path}: has {size} bytes, at most {2 * MAX_DECODED_BYTES} are read")
    with naming(path, "a DICOM file", tell=False), quiet():
        with _Clamped(path, size) as file:
            start = file.read(144)
            if start[128:132] != b"DICM":
                raise InputError(f"{path}: is not a DICOM file (no DICM at byte 128)")
            file.seek(0)
            dataset = _parse(path, file, start, tags)
        _check_lengths(path, dataset)
    return dataset


def _parse(path: Path, file: _Clamped, start: bytes, tags: Sequence[str] | None) -> Any:
    import pydicom
    from pydicom.filereader import read_file_meta_info

    syntax = str(read_file_meta_info(path).get("TransferSyntaxUID", ""))
    if syntax == "":
        raise InputError(f"{path}: lacks the tag TransferSyntaxUID")
    options: dict[str, Any] = {}
    if tags is not None:
        options = {"stop_before_pixels": True, "specific_tags": list(tags)}
    if syntax != _DEFLATED:
        return pydicom.dcmread(file, **options)

    # Pydicom would inflate all of it before looking at anything.
    if start[132:140] != _META_GROUP_LENGTH:
        raise InputError(f"{path}: lacks the tag FileMetaInformationGroupLength")
    file.seek(144 + int.from_bytes(start[140:144], "little"))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = inflater.decompress(file.read(), MAX_INFLATED_BYTES + 1)
    if len(plain) > MAX_INFLATED_BYTES:
        raise LimitError(f"{path}: inflates to more than {MAX_INFLATED_BYTES} bytes")
    if not inflater.eof:
        raise InputError(f"{path}: is cut off")
    # Re-wrapped as the plain syntax that the inflated bytes are in: one element of meta header.
    uid = _EXPLICIT_LITTLE.encode() + b"\0"
    meta = b"\x02\x00\x10\x00UI" + len(uid).to_bytes(2, "little") + uid
    length = _META_GROUP_LENGTH + len(meta).to_bytes(4, "little")
    return pydicom.dcmread(io.BytesIO(start[:132] + length + meta + plain), **options)


def _check_lengths(path: Path, dataset: Any, depth: int = 0) -> None:
    """Refuse elements shorter than they claim, and sequences within sequences without end."""
    if depth > MAX_SEQUENCE_DEPTH:
        raise LimitError(f"{path}: nests sequences deeper than {MAX_SEQUENCE_DEPTH}")
    for tag in dataset.keys():  # noqa: SIM118 - iterating a dataset would convert every value
        element = dataset.get_item(tag)
        claimed = getattr(element, "length", _UNDEFINED)
        if isinstance(element.value, bytes) and claimed not in (_UNDEFINED, len(element.value)):
            raise InputError(
                f"{path}: is cut off: element {tag} claims {claimed} bytes, "
                f"{len(element.value)} are left"
            )
        if element.VR == "SQ" and not isinstance(element.value, (bytes, type(None))):
            for item in element.value:
                _check_lengths(path, item, depth + 1)
