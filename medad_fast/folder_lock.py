"""One writer per folder."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medad_fast.errors import BusyError, DeviceError

__all__ = ["folder_lock"]


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold ``folder`` (made if it is missing) for this process alone.

    The kernel drops the lock when the process ends, however it ends, so there are no stale locks.
    What a killed process left half written (:mod:`medad_fast.io.atomic`) is removed first.

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
