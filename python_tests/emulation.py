"""The CUDA kernels on a machine without a GPU: ``.cu`` files compiled as C++ over csrc/emulation.

Only a C++ compiler is needed. Libraries are kept in the temporary folder under a hash of their
sources, so that a session compiles each once, also with several workers.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import getpass
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from torch import Tensor

from medad_fast import _C

CSRC = Path(__file__).resolve().parents[1] / "csrc"
ORDERS: list[tuple[Literal["forward", "reverse", "random"], int]] = [
    ("forward", 0),
    ("reverse", 0),
    ("random", 1),
]
"""Orders of threads and blocks under which a kernel must give the same bits."""


class _View(ctypes.Structure):
    """``medad::TensorView``, field by field."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int),
        ("dims", ctypes.c_int),
        ("shape", ctypes.c_int64 * 6),
        ("strides", ctypes.c_int64 * 6),
    )


class _ViewList(ctypes.Structure):
    _fields_ = (("first", ctypes.c_void_p), ("count", ctypes.c_int64))


def _view(tensor: Tensor) -> _View:
    code = _C.dtypes[str(tensor.dtype).removeprefix("torch.")]
    view = _View(tensor.data_ptr(), code, tensor.ndim)
    view.shape[: tensor.ndim] = tensor.shape
    view.strides[: tensor.ndim] = tensor.stride()
    return view


class EmulatedKernels:
    """The launchers of one ``.cu`` file; call them with tensors, lists of tensors and numbers."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.emulation_error.restype = ctypes.c_char_p
        self._library.emulation_launches.restype = ctypes.c_long

    @contextmanager
    def order(self, name: Literal["forward", "reverse", "random"], seed: int = 0) -> Iterator[None]:
        """Run blocks and threads in this order until the block ends."""
        self._library.emulation_set_order(["forward", "reverse", "random"].index(name), seed)
        try:
            yield
        finally:
            self._library.emulation_set_order(0, 0)

    @property
    def launches(self) -> int:
        """How many kernels have been launched so far."""
        return int(self._library.emulation_launches())

    def call(self, launcher: str, *arguments: Any) -> None:
        """Run ``launcher``; ``None`` is a tensor that is not given, or the place of its ``Launch``.

        Raises:
            RuntimeError: what the kernel or its launcher did wrong: an index out of bounds, a
                barrier that not all threads reach, a failed check.
        """
        alive: list[Any] = []  # what the pointers point to
        pointers = (ctypes.c_void_p * len(arguments))()
        for i, argument in enumerate(arguments):
            if argument is None:
                continue
            if isinstance(argument, Tensor):
                value: Any = _view(argument)
            elif isinstance(argument, (list, tuple)):
                views = (_View * max(1, len(argument)))(*(_view(t) for t in argument))
                alive.append(views)
                value = _ViewList(ctypes.addressof(views), len(argument))
            elif isinstance(argument, float):
                value = ctypes.c_double(argument)
            else:
                value = ctypes.c_int64(int(argument))
            alive.append(value)
            pointers[i] = ctypes.addressof(value)
        if self._library.emulation_call(launcher.encode(), pointers):
            raise RuntimeError(self._library.emulation_error().decode())


def compiler() -> str | None:
    """The C++ compiler to use, if there is one."""
    return next(
        filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))), None
    )


def _source_hash(*texts: str) -> str:
    digest = hashlib.sha256("\0".join(texts).encode())
    for path in sorted(CSRC.rglob("*")):
        if path.suffix in {".h", ".cuh", ".cu", ".cpp"}:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:24]


@functools.cache
def load(source: str, launchers: Sequence[str], options: Sequence[str] = ()) -> EmulatedKernels:
    """Compile ``source`` and open it, or open what an earlier call compiled.

    Args:
        source: path of a ``.cu`` file below ``csrc``, or the text of one.
        launchers: names in namespace ``medad`` of the functions to call, as a tuple.
        options: further compiler options, as a tuple.
    """
    cxx = compiler()
    if cxx is None:
        pytest.skip("no C++ compiler for the emulation of CUDA kernels")
    code = f'#include "{source}"\n' if source.endswith(".cu") else source
    code += '#include "emulation/entry.h"\n'
    code += "".join(f"MEDAD_EMULATION_ENTRY({name});\n" for name in launchers)
    flags = ["-std=c++17", "-O1", "-g1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    flags += ["-Wno-unknown-pragmas"]  # unroll is nvcc's
    # Hidden: each library keeps a scheduler of its own, though they share a process.
    flags += [
        "-fvisibility=hidden",
        "-ffp-contract=off",
        "-DMEDAD_EMULATION",
        f"-I{CSRC}",
        *options,
        *os.environ.get("MEDAD_EMULATION_FLAGS", "").split(),  # python_tests/sanitize.sh
    ]
    folder = Path(tempfile.gettempdir()) / f"medad_fast_emulation_{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{_source_hash(code, cxx, *flags)}.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            main = library.with_suffix(".cpp")
            main.write_text(code)
            partial = library.with_suffix(".partial")
            subprocess.run([cxx, *flags, str(main), "-o", str(partial)], check=True)
            partial.replace(library)
    return EmulatedKernels(library)
