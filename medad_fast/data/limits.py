"""How large an input may be, and one place that turns every reader's exceptions into ours."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medad_fast.errors import InputError, LimitError, MedadError

MAX_PICTURE_PIXELS = 100_000_000
"""Rows times columns of one 2D image."""
MAX_VOXELS = 2**29
"""Voxels of one volume."""
MAX_DECODED_BYTES = 2**30
"""Bytes of one image or volume as its file stores them, decompressed."""
MAX_FRAMES = 4096
"""Frames of one DICOM file, and files of one DICOM series."""
MAX_HEADER_BYTES = 2**24
"""Bytes before the pixels of a NIfTI file."""
MAX_SEQUENCE_DEPTH = 64
"""DICOM sequences within sequences."""


def check_size(path: Path, slices: int, rows: int, columns: int, bytes_per_pixel: int) -> None:
    """Refuse an image by its claimed size, before anything is allocated for it.

    Args:
        path: for the message.
        slices: slices or frames; 1 for a picture.
        rows: rows of a slice.
        columns: columns of a slice.
        bytes_per_pixel: samples per pixel times bytes per sample.

    Raises:
        InputError: a size is not positive.
        LimitError: the image is larger than the stated limits.
    """
    if min(slices, rows, columns, bytes_per_pixel) < 1:
        raise InputError(f"{path}: has no pixels (it claims {slices} x {rows} x {columns})")
    claims = (
        (rows * columns, MAX_PICTURE_PIXELS, "pixels per slice"),
        (slices * rows * columns, MAX_VOXELS, "voxels"),
        (slices * rows * columns * bytes_per_pixel, MAX_DECODED_BYTES, "bytes"),
    )
    for claimed, limit, unit in claims:
        if claimed > limit:
            raise LimitError(f"{path}: claims {claimed} {unit}, at most {limit} are read")


def regular_file_size(path: Path) -> int:
    """Bytes of a regular file.

    Raises:
        InputError: the file is missing or is a folder, pipe or device.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}: cannot be opened: {reason}") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: is not a regular file")
    return status.st_size


@contextmanager
def naming(path: Path, kind: str, *, tell: bool = True) -> Iterator[None]:
    """Turn whatever a decoder raises into an error that names the file.

    Decoders raise exceptions of any type on damaged files, so there is no list of types.

    Args:
        path: the file being read.
        kind: what it was read as, e.g. ``"a PNG picture"``.
        tell: quote the decoder's message; not for DICOM, whose messages quote patient data: there
            the decoder's exception does not stay in the chain either, which tracebacks show.
    """
    try:
        yield
    except MedadError as error:
        if not tell:
            error.__cause__ = error.__context__ = None
        raise
    except MemoryError as error:
        raise LimitError(f"{path}: does not fit into memory as {kind}") from error
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        reason = f"{type(error).__name__}: {text}" if tell and text else type(error).__name__
        raise InputError(f"{path}: cannot be read as {kind} ({reason})") from (
            error if tell else None
        )
