"""Files on disk: whole or not at all, one writer a folder, tensors without pickle."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import math
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save_file
from torch import Tensor

from medad_fast.errors import (
    BusyError,
    CheckpointError,
    DeviceError,
    InputError,
    MedadError,
)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it becomes ``path``, else it is removed.

    The file and its folder are flushed to disk before and after the rename, so that a crash at any
    moment leaves the old file or the new one. The temporary name keeps the suffixes of ``path``,
    since some writers choose the format by them.

    Raises:
        DeviceError: the disk is full or not writable; ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".partial-{os.getpid()}-{path.name}"
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise DeviceError(f"could not write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path``, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold ``folder`` (made if it is missing) for this process alone.

    The kernel drops the lock when the process ends, however it ends, so there are no stale locks.
    What a killed process left half written (:func:`atomic_write`) is removed first.

    Raises:
        BusyError: another process holds it.
        DeviceError: the folder cannot be written to.
    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise DeviceError(f"cannot write to the folder {folder}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read(200).strip() or "another process"
            raise BusyError(
                f"{folder} is in use by {holder}; wait for it or choose another folder"
            ) from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        for leftover in folder.rglob(".partial-*"):
            leftover.unlink(missing_ok=True)
        yield


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write named tensors; returns the sha256 of the file.

    Raises:
        DeviceError: the disk is full or not writable; an older ``path`` is as it was.
    """
    # A copy each: safetensors refuses tensors that share memory, as views of one buffer do.
    whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with atomic_write(path) as temporary:
        try:
            temporary.touch()
            mode = temporary.stat().st_mode
            save_file(whole, temporary)
            temporary.chmod(mode)  # that of a new file: safetensors makes its own private
        except SafetensorError as error:
            raise DeviceError(f"could not write {path}: {error}") from error
        return hashlib.sha256(temporary.read_bytes()).hexdigest()


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Read what :func:`write_tensors` wrote, on the CPU.

    Raises:
        CheckpointError: the file is missing, or not the one that was written.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CheckpointError(f"{path} is damaged: its sha256 is not the recorded one")
    try:
        return tensors_from_bytes(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all; NaN and infinities are refused."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, kind: type[MedadError] = InputError) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        MedadError: of the given ``kind``: the file is missing, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise kind(f"{path}: cannot be read as JSON: {reason}") from error
    if not isinstance(content, dict):
        raise kind(f"{path}: a JSON object expected, got {type(content).__name__}")
    return content


def check_format_version(
    file: Path,
    found: object,
    *,
    oldest: int,
    newest: int,
    what_to_do: str,
    kind: type[MedadError] = CheckpointError,
) -> int:
    """The format version of a folder, if this release reads it.

    Args:
        file: where the version stands; named in the message.
        found: what stands there.
        oldest: first version that is read.
        newest: version that is written.
        what_to_do: with a folder of a version that is too old.
        kind: of the error.

    Raises:
        MedadError: of the given ``kind``: no version, or one that is not read.
    """
    if type(found) is not int or found < 1:
        raise kind(f"{file} is damaged: {found!r} is no format version")
    if not oldest <= found <= newest:
        known = f"version {newest}" if oldest == newest else f"versions {oldest} to {newest}"
        advice = what_to_do if found < oldest else "install a newer medad-fast"
        raise kind(f"{file} has format version {found}, this release reads {known}: {advice}")
    return found


class TableWriter:
    """Rows of a CSV file that is under way; :func:`write_table` makes it."""

    def __init__(self, file: IO[str], columns: Sequence[str]) -> None:
        self._file = file
        self._rows = csv.writer(file, lineterminator="\n")
        self._rows.writerow(columns)
        self.empty = True

    def write(self, rows: Iterable[Sequence[object]]) -> None:
        """Add rows and flush them; floats are written with all their digits, NaN as nothing."""
        for row in rows:
            self.empty = False
            self._rows.writerow([_cell(value) for value in row])
        self._file.flush()


@contextmanager
def write_table(path: Path, columns: Sequence[str]) -> Iterator[TableWriter]:
    """Write a CSV file that gets its name if the block ends without an error.

    Until then its rows stand in ``<name>.partial.csv``, so that what is done can be read while the
    rest is under way and after a stop. A partial file without rows is removed.

    Raises:
        DeviceError: the disk is full or not writable.
    """
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    table = None
    try:
        # File names that are not UTF-8 come back as they were.
        with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            table = TableWriter(file, columns)
            yield table
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise DeviceError(f"could not write {path}: {error.strerror or error}") from error
    finally:
        if table is not None and table.empty:
            partial.unlink(missing_ok=True)


def read_table(path: Path) -> list[list[str]]:
    """Read a CSV file: the names of its columns, then its rows, all with as many cells.

    Raises:
        InputError: the file is missing, or no such table; names the line.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            table = list(csv.reader(file, strict=True))
    except (OSError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table: {error}") from error
    if not table:
        raise InputError(f"{path}: a line with the names of the columns expected, got nothing")
    for line, cells in enumerate(table, start=1):
        if len(cells) != len(table[0]):
            raise InputError(
                f"{path}: line {line} has {len(cells)} cells, {len(table[0])} expected"
            )
    return table


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(float(value))
    return value
