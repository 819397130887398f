"""The file formats that are read: each module or package of this folder declares one.

A format is its declaration, :class:`Format`, in the name ``FORMAT`` of its module. Which files of a
folder are images, what kind a file is, which files belong together and what to say of a missing
decoder is asked of the declarations, so a new format is one new module here. The libraries that
decode are imported when a file is read, not before.
"""

from __future__ import annotations

import functools
import importlib
import logging
import pkgutil
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medad_fast.data.image import Image
from medad_fast.data.limits import regular_file_size
from medad_fast.errors import InputError

__all__ = [
    "FileGroup",
    "Format",
    "ReadOptions",
    "Series",
    "all_suffixes",
    "format_of",
    "formats",
    "group_files",
    "hushed_logs",
    "is_image_file",
    "is_index",
    "quiet",
    "stem",
]

START_BYTES = 512
"""Of a file, by which :attr:`Format.sniff` tells what it is."""


@dataclass(frozen=True)
class ReadOptions:
    """What the settings of a run ask of a reader; each format heeds what it has a use for."""

    voi_window: bool = False
    """Clip to the window that the file recommends."""
    volume: int | None = None
    """Which volume of a file that holds several, from 0."""


@dataclass(frozen=True)
class FileGroup:
    """The files of one image or volume, in slice order."""

    files: tuple[Path, ...]
    patient_id: str = ""
    """The patient that the files name; empty where they name none."""
    series: Path = Path()
    """The first file, as sorted, of the series that the files are of."""


@dataclass(frozen=True)
class Series:
    """How a format finds and reads volumes whose slices are files of their own."""

    group: Callable[[Sequence[Path]], list[FileGroup]]
    """Puts files of the format into groups, each to be read as one image."""
    read: Callable[[Sequence[Path], ReadOptions], Image]
    """Reads the files of one group, two or more, in any order."""


@dataclass(frozen=True)
class Format:
    """One file format: how its files are found and read, and what is particular about them."""

    name: str
    """What ``Provenance.reader`` says of its images."""
    kinds: tuple[str, ...]
    """What people call its files, e.g. ``("PNG", "JPEG")``."""
    suffixes: tuple[str, ...]
    """In lower case, with their dots."""
    sniff: Callable[[Path, bytes], bool]
    """Whether a file is of this format, by its content: the path and the first ``START_BYTES``."""
    read: Callable[[Path, ReadOptions], Image]
    """Reads one file. Whatever it raises becomes an ``InputError`` that names the file."""
    series: Series | None = None
    asked_first: bool = False
    """Whether its files may begin as those of another format do."""
    trusts_suffix: bool = False
    """Whether its reader takes what has its suffix and no known content, and says what is wrong."""
    needs_suffix: bool = True
    """Whether a file of a folder must have a suffix; if not, each is looked into."""
    index_names: tuple[str, ...] = ()
    """In upper case: files that list the others of their folder, and are no images."""
    stored_by_rows: bool = False
    """Whether a slice that lies in the patient is stored row by row, as a picture is: a picture
    may be its mask then, pixel by pixel as stored."""
    packages: tuple[str, ...] = ()
    """Distributions that it is read with."""
    loggers: tuple[str, ...] = ()
    """Of these libraries; what they log may quote the file, so it is dropped."""
    decoders: Callable[[], Mapping[str, bool]] | None = None
    """Whether each compression that its files come in can be decoded here."""
    extra: str = ""
    """The extra of this package that brings missing decoders."""


@functools.cache
def formats() -> Mapping[str, Format]:
    """All formats by name, in the order in which they are asked."""
    found: list[Format] = [
        importlib.import_module(f"{__name__}.{module.name}").FORMAT
        for module in pkgutil.iter_modules(__path__)
    ]
    found.sort(key=lambda each: (not each.asked_first, each.name))
    return {each.name: each for each in found}


def format_of(path: Path) -> Format:
    """The format of a file, by its content.

    Raises:
        InputError: it is missing, not a regular file, empty or of no format that is read.
    """
    regular_file_size(path)
    try:
        start = _start(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror}") from error
    for each in formats().values():
        if each.sniff(path, start):
            return each
    for each in formats().values():
        if each.trusts_suffix and path.name.lower().endswith(each.suffixes):
            return each
    if not start:
        raise InputError(f"{path}: is empty")
    *kinds, last = (kind for each in formats().values() for kind in each.kinds)
    raise InputError(f"{path}: is not a {', '.join(kinds)} or {last} file")


@functools.cache
def all_suffixes() -> tuple[str, ...]:
    """The suffixes of all formats, in lower case."""
    return tuple(suffix for each in formats().values() for suffix in each.suffixes)


def stem(name: str) -> str:
    """A file name without the suffix of an image."""
    ends = [suffix for suffix in all_suffixes() if name.lower().endswith(suffix)]
    return name[: -len(max(ends, key=len))] if ends else name


def is_index(path: Path) -> bool:
    """Whether it is a file that lists the images beside it, by its name."""
    return any(path.name.upper() in each.index_names for each in formats().values())


def is_image_file(path: Path) -> bool:
    """A regular file with an image's suffix, or of a format whose files need none."""
    if path.name.startswith(".") or not _is_regular(path):
        return False
    if path.name.lower().endswith(all_suffixes()):
        return True
    bare = [each for each in formats().values() if not each.needs_suffix]
    return not is_index(path) and any(_is_of(each, path) for each in bare)


def group_files(paths: Sequence[Path]) -> list[FileGroup]:
    """The files of each series together, every other file by itself; sorted by the first file."""
    groups: list[FileGroup] = []
    single = list(paths)
    for each in formats().values():
        if each.series is not None:
            own = {path for path in single if _is_of(each, path)}
            groups += each.series.group([path for path in single if path in own])
            single = [path for path in single if path not in own]
    groups += [FileGroup((path,), series=path) for path in single]
    return sorted(groups, key=lambda group: group.files[0])


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(START_BYTES)


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):  # a dangling link, or one that leads to itself
        return False


def _is_of(each: Format, path: Path) -> bool:
    try:
        return _is_regular(path) and each.sniff(path, _start(path))
    except OSError:
        return False


@contextmanager
def hushed_logs() -> Iterator[None]:
    """Drop the log lines of the libraries that decode files, whatever level of logging is set.

    They quote values of the file, which may identify a patient: pydicom a date that is none,
    highdicom a name without a caret, Pillow every EXIF entry.
    """
    loggers = [logging.getLogger(name) for each in formats().values() for name in each.loggers]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def quiet() -> Iterator[None]:
    """:func:`hushed_logs`, and all warnings dropped, which quote the same."""
    with hushed_logs(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
