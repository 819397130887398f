"""Files on disk: whole or not at all, one writer a folder, tensors without pickle."""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save_file
from torch import Tensor

from medad_fast.errors import BusyError, CheckpointError, DeviceError

__all__ = ["atomic_write", "folder_lock", "read_tensors", "write_tensors", "write_text"]


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
