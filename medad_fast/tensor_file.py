"""Tensors on disk: safetensors, whole or not at all, never pickle."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save_file
from torch import Tensor

from medad_fast.errors import CheckpointError, DeviceError
from medad_fast.io.atomic import atomic_write

__all__ = ["read_tensors", "write_tensors"]


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
