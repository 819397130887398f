"""The one door to the compiled kernels: calling, choosing and registering them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from medad_fast.errors import InputError

try:
    from medad_fast import _C
except ImportError as error:
    raise ImportError(
        "the compiled part of medad_fast (medad_fast._C) is missing or does not load: "
        f"{error}. Install the package with `pip install .` from its folder."
    ) from error

__all__ = ["backend", "build_info", "call", "is_one", "register", "use_native"]

Backend = Literal["native", "reference"]

_new_library: Any = torch.library.Library  # torch gives it no types
_LIBRARY = _new_library("medad_fast", "DEF")
_DTYPE_CODE = {getattr(torch, name): code for name, code in _C.dtypes.items()}
_warned: set[str] = set()


def _checked_backend(name: str, argument: str) -> Backend:
    if name in ("native", "reference"):
        return "native" if name == "native" else "reference"
    raise InputError(f"{argument}: 'native' or 'reference' expected, got {name!r}")


# A plain global, because torch.compile can guard on it; a context variable breaks the graph.
_backend: Backend = _checked_backend(os.environ.get("MEDAD_BACKEND", "native"), "MEDAD_BACKEND")


@contextmanager
def backend(name: Backend) -> Iterator[None]:
    """Run the fused ops with the compiled kernels, or with their plain torch reference.

    Args:
        name: ``"native"`` or ``"reference"``; holds for the whole process until the block ends.

    Raises:
        InputError: any other name.
    """
    global _backend
    previous, _backend = _backend, _checked_backend(name, "backend")
    try:
        yield
    finally:
        _backend = previous


def use_native(op: str, tensor: Tensor) -> bool:
    """Whether ``op`` should run its compiled kernel on the device of ``tensor``.

    Meta tensors have no numbers to compute with: the registered op tells the shapes.
    """
    if _backend == "reference":
        return False
    kind = tensor.device.type
    if kind in ("cpu", "meta") or (kind == "cuda" and _C.with_cuda):
        return True
    if not torch.compiler.is_compiling() and op not in _warned:
        _warned.add(op)
        reason = f" ({_C.cuda_reason})" if kind == "cuda" else ""
        warnings.warn(
            f"{op}: no compiled kernel for {kind} tensors{reason}; plain torch is used",
            RuntimeWarning,
            stacklevel=3,
        )
    return False


def _view(value: Any) -> Any:
    """A tensor as the tuple that ``csrc/core/module.cpp`` reads; lists of tensors likewise."""
    if isinstance(value, Tensor):
        return (value.data_ptr(), _DTYPE_CODE[value.dtype], tuple(value.shape), value.stride())
    if isinstance(value, (list, tuple)):
        return [_view(item) for item in value]
    return value


def call(kernel: Callable[..., None], device: torch.device, *arguments: Any) -> None:
    """Run ``kernel`` on ``device`` and its current stream; tensors must live until it returns.

    Only the CPU and CUDA implementation of a registered op may call this: anywhere else tensors
    may be fake and have no memory.
    """
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        where = (index, torch.cuda.current_stream(device).cuda_stream, 1)
    else:
        where = (-1, 0, torch.get_num_threads())
    try:
        kernel(*[_view(argument) for argument in arguments], where)
    except ValueError as error:  # numbers that only the kernels look at
        raise InputError(str(error)) from None


def is_one(upstream: Tensor) -> bool:
    """Whether a look at the number, which is free on the CPU, spares the product with it."""
    plain = type(upstream) is Tensor and not torch.compiler.is_compiling()
    if not plain or upstream.device.type != "cpu":
        return False
    try:
        return upstream.item() == 1.0
    except RuntimeError:  # inside vmap, where the number is many
        return False


def register(
    schema: str,
    *,
    forward: Callable[..., Any],
    shapes: Callable[..., Any],
    backward: Callable[..., Any] | None,
    save: Callable[..., None] | None = None,
) -> None:
    """Declare ``medad_fast::<schema>`` to torch: kernels, shapes for tracing, and gradient.

    An op with no gradient says ``backward=None`` and then refuses to be differentiated; left
    unregistered, torch would warn once and carry on.
    """
    name = schema.partition("(")[0]
    qualified = f"medad_fast::{name}"
    _LIBRARY.define(schema)
    for key in ("CPU", "CUDA"):
        _LIBRARY.impl(name, forward, key)
    torch.library.register_fake(qualified, shapes, lib=_LIBRARY)

    def refuse(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(f"{qualified} has no gradient; detach its inputs")

    torch.library.register_autograd(qualified, backward or refuse, setup_context=save, lib=_LIBRARY)


def build_info() -> dict[str, Any]:
    """What the compiled part was built with and uses.

    Returns:
        ``version``; ``cpu``: the instruction set in use (``"baseline"``, ``"avx2"`` or
        ``"avx512"``); ``cuda``: whether CUDA kernels are in it; ``cuda_archs``: the architectures
        they were compiled for; ``cuda_reason``: why there are none, else ``None``; ``openmp``.
    """
    archs: Sequence[str] = _C.cuda_archs.split()
    return {
        "version": _C.version,
        "cpu": _C.cpu_level(),
        "cuda": _C.with_cuda,
        "cuda_archs": list(archs),
        "cuda_reason": _C.cuda_reason or None,
        "openmp": _C.openmp,
    }
