"""Which files of a folder are images."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from medad_fast.data.formats.nifti import NIFTI_SUFFIXES
from medad_fast.data.formats.picture import PICTURE_SUFFIXES
from medad_fast.errors import InputError

__all__ = [
    "DICOM_SUFFIXES",
    "image_files",
    "is_dicom",
    "is_image_file",
    "stem",
    "without_repeats",
]

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")

_SUFFIXES = (*NIFTI_SUFFIXES, *PICTURE_SUFFIXES, *DICOM_SUFFIXES)


def image_files(folder: Path) -> list[Path]:
    """All images below ``folder``, sorted by path, each file once.

    Links to folders are not followed, links to files are; pipes, devices, hidden files and folders
    of finished predictions (their maps are no images of patients) are passed over. A file that is
    found under two names is listed under the first.

    Raises:
        InputError: a folder cannot be listed.
    """
    return without_repeats(sorted(_walk(folder)))


def without_repeats(paths: list[Path]) -> list[Path]:
    """The paths in order, without those that lead to a file already listed."""
    seen: set[tuple[int, int]] = set()
    kept = []
    for path in paths:
        status = path.stat()
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            kept.append(path)
    return kept


def is_image_file(path: Path) -> bool:
    """A regular file with an image's suffix, or a DICOM file without a suffix."""
    try:
        if path.name.startswith(".") or not stat.S_ISREG(path.stat().st_mode):
            return False
    except (OSError, ValueError):  # a dangling link, or one that leads to itself
        return False
    if path.name.lower().endswith(_SUFFIXES):
        return True
    # Scanners write names such as IM0001 or 1.2.840.113619.2.1: only the content tells.
    return path.name.upper() != "DICOMDIR" and is_dicom(path)


def is_dicom(path: Path) -> bool:
    """Whether the file starts as DICOM files do."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def stem(name: str) -> str:
    """A file name without the suffix of an image."""
    for suffix in sorted(_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    for here, folders, names in os.walk(folder, onerror=refuse, followlinks=False):
        folders[:] = [
            name
            for name in folders
            if not _is_hidden(name) and not Path(here, name, "predict.json").is_file()
        ]
        yield from (Path(here, name) for name in names if is_image_file(Path(here, name)))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
