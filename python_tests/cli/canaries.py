"""Strings that name a patient, planted in files of every kind, and a search in any coding."""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from medad_fast.data.formats import quiet
from python_tests.dicom_out.sources import grey, write_source

DEMANDED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "StudyID",
    "StudyDate",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""Of the planted tags those that a DICOM result must carry."""
_TEXTS = (
    *(tag for tag in DEMANDED if not tag.endswith("Date")),
    "OtherPatientIDs",
    "PatientBirthName",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "PatientComments",
    "AdditionalPatientHistory",
    "Occupation",
    "EthnicGroup",
    "InstitutionName",
    "InstitutionAddress",
    "PerformingPhysicianName",
    "OperatorsName",
    "PhysiciansOfRecord",
    "StudyDescription",
    "SeriesDescription",
    "ProtocolName",
    "StationName",
    "ImageComments",
    "RequestedProcedureDescription",
    "PositionReferenceIndicator",
)
_ELSEWHERE = (
    "private LO",
    "private OB",
    "private UT",
    "nested reason",
    "nested patient",
    "nifti descrip",
    "nifti aux_file",
    "nifti db_name",
    "nifti intent_name",
    "nifti extension",
    "png tEXt",
    "png zTXt",
    "png eXIf",
    "jpeg comment",
    "jpeg EXIF",
    "manifest patient",
    "manifest column",
    "folder above the data",
)


def _word(number: int) -> str:
    """Ten letters and figures that nothing else would hold."""
    letters = np.random.default_rng(number).choice(list("BCDFGHJKLMNPQRSTVWXZ"), 6)
    return f"Qy{''.join(letters).title()}{number:02d}"


CANARIES = {name: _word(n) for n, name in enumerate((*_TEXTS, *_ELSEWHERE))} | {
    "PatientBirthDate": "18830713",
    "StudyDate": "18971129",
}


def canary_dicom(path: Path, number: int, **tags: Any) -> Path:
    """A slice of pixels of its own, with every identity tag planted."""
    planted: dict[str, Any] = {tag: CANARIES[tag] for tag in _TEXTS}
    planted["PatientID"] = f"{CANARIES['PatientID']}{number}"  # each file is a patient
    planted |= {tag: CANARIES[tag] for tag in ("PatientBirthDate", "StudyDate")}
    reason, other = Dataset(), Dataset()
    reason.ReasonForTheRequestedProcedure = CANARIES["nested reason"]
    other.PatientID = CANARIES["nested patient"]
    planted |= {"RequestAttributesSequence": [reason], "OtherPatientIDsSequence": [other]}
    pixels = np.roll(grey(48, 40, seed=number), number % 3, axis=0)
    with quiet():
        write_source(
            path,
            pixels,
            f"1.2.826.9.{number}",
            **planted
            | {"Modality": "MR", "SeriesInstanceUID": f"1.2.826.8.{number}", "BitsStored": 12}
            | {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}
            | tags,
        )
        import pydicom

        dataset = pydicom.dcmread(path)
        block = dataset.private_block(0x0009, "MEDAD TEST", create=True)
        block.add_new(1, "LO", CANARIES["private LO"])
        block.add_new(2, "OB", CANARIES["private OB"].encode() + b"\0" * 2)
        block.add_new(3, "UT", CANARIES["private UT"])
        dataset.save_as(path)
    return path


def swapped(path: Path, old: bytes, name: str) -> Path:
    """The file with ``old`` in place of a canary of the same length."""
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, CANARIES[name][: len(old)].encode().ljust(len(old)), 1))
    return path


def canary_nifti(path: Path, number: int) -> Path:
    import nibabel

    volume = np.repeat(grey(40, 48, seed=number)[..., None], 2, axis=2).astype(np.int16)
    image = nibabel.Nifti1Image(volume, np.diag([1.0, 1.0, 3.0, 1.0]))
    for name in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[name] = CANARIES[f"nifti {name}"].encode()
    extension = nibabel.nifti1.Nifti1Extension("comment", CANARIES["nifti extension"].encode())
    image.header.extensions.append(extension)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def _exif(name: str) -> Any:
    from PIL import Image

    entries = Image.Exif()
    entries[0x013B] = CANARIES[name]  # Artist
    entries[0x0112] = 1
    return entries


def canary_png(path: Path, number: int) -> Path:
    from PIL import Image, PngImagePlugin

    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", CANARIES["png tEXt"])
    texts.add_text("Comment", CANARIES["png zTXt"], zip=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((grey(48, 40, seed=number) >> 4).astype(np.uint8)).save(
        path, pnginfo=texts, exif=_exif("png eXIf")
    )
    return path


def canary_jpeg(path: Path, number: int) -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((grey(48, 40, seed=number) >> 4).astype(np.uint8)).save(
        path, comment=CANARIES["jpeg comment"], exif=_exif("jpeg EXIF"), quality=95
    )
    return path


def forms(word: str) -> tuple[set[bytes], set[bytes]]:
    """A word in every coding: as it must be found whatever its case, and to the letter."""
    plain = word.encode()
    spelled = [word, "".join(f"%{byte:02x}" for byte in plain), binascii.hexlify(plain).decode()]
    loose = {one.lower().encode(code) for one in spelled for code in ("utf-8", "utf-16-le")}
    loose |= {word.lower().encode("utf-16-be")}
    exact = set()
    for shift in range(3):
        # What does not depend on the bytes before and after.
        code = base64.b64encode(b"\0" * shift + plain)
        start = (8 * shift + 5) // 6
        exact.add(code[start : (8 * (shift + len(plain))) // 6])
    return loose, exact


def _opened(name: str, data: bytes) -> Iterator[bytes]:
    """The bytes, and what is packed in them."""
    yield name.encode("utf-8", "surrogateescape")
    yield data
    if data.startswith(b"\x1f\x8b"):
        yield gzip.decompress(data)
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for each in archive.namelist():
                yield from _opened(each, archive.read(each))
    if data.startswith(b"\x89PNG"):
        yield from _chunks(data)
    for packed in re.findall(rb"data:[a-z+/-]+;base64,([A-Za-z0-9+/=]+)", data):
        yield from _opened("", base64.b64decode(packed))


def _chunks(data: bytes) -> Iterator[bytes]:
    at = 8
    while at + 8 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        content = data[at + 8 : at + 8 + length]
        if data[at + 4 : at + 8] in (b"zTXt", b"iTXt", b"iCCP"):
            for start in range(len(content)):
                try:
                    yield zlib.decompress(content[start:])
                except zlib.error:
                    continue
        at += 12 + length


def found_in(name: str, data: bytes) -> set[str]:
    """Which canaries a file or a text holds, its own name included."""
    hits = set()
    for part in _opened(name, data):
        lowered = part.lower()
        for canary, word in CANARIES.items():
            loose, exact = forms(word)
            if any(one in lowered for one in loose) or any(one in part for one in exact):
                hits.add(canary)
    return hits
