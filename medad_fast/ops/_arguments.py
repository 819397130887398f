"""Checks of arguments, with messages that begin with the argument's name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from medad_fast.errors import InputError

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_tensor(
    value: Any, name: str, axes: str, dtypes: Sequence[torch.dtype] = FLOATING
) -> None:
    """A dense tensor of such a dtype with as many axes as ``axes`` names, as ``"(B, C, H, W)"``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: a tensor expected, got {type(value).__name__}")
    if value.layout != torch.strided or value.is_quantized or value.is_nested:
        raise InputError(f"{name}: a dense tensor expected, got {value.layout}, {value.dtype}")
    if value.dtype not in dtypes:
        *others, last = (str(dtype).removeprefix("torch.") for dtype in dtypes)
        wanted = f"{', '.join(others)} or {last}" if others else last
        raise InputError(f"{name}: {wanted} expected, got {value.dtype}")
    if value.dim() != axes.count(",") + 1:
        raise InputError(f"{name}: {axes} expected, got {tuple(value.shape)}")


def checked_layers(value: Any, name: str, axes: str, called: str) -> list[Tensor]:
    """The tensors of a list or tuple, at least one, with these axes each."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name}: {called} expected, got {type(value).__name__}")
    if not value:
        raise InputError(f"{name}: at least one layer expected, got an empty sequence")
    for layer, tensor in enumerate(value):
        check_tensor(tensor, f"{name}[{layer}]", axes)
    return list(value)


def check_shape(value: Tensor, name: str, shape: Sequence[int], other: str) -> None:
    """A shape that follows from the argument called ``other``."""
    if value.shape != shape:
        raise InputError(f"{name}: {tuple(shape)} expected, as {other}, got {tuple(value.shape)}")


def check_alike(value: Tensor, name: str, like: Tensor, other: str) -> None:
    """The shape, device and, except under autocast, dtype of the argument called ``other``."""
    check_shape(value, name, like.shape, other)
    check_kind(value, name, like, other)


def check_kind(value: Tensor, name: str, like: Tensor, other: str) -> None:
    """The device and, except under autocast, the dtype of the argument called ``other``."""
    check_device(value, name, like, other)
    if value.dtype != like.dtype and not _under_autocast(like):
        raise InputError(f"{name}: {like.dtype} expected, as {other}, got {value.dtype}")


def check_device(value: Any, name: str, like: Tensor, other: str) -> None:
    """The device of the argument called ``other``."""
    if value.device != like.device:
        raise InputError(f"{name}: {like.device} expected, as {other}, got {value.device}")


def check_bool(value: Any, name: str) -> None:
    """A truth value."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: bool expected, got {type(value).__name__}")


def check_choice(value: Any, name: str, choices: Sequence[str]) -> None:
    """One of some words."""
    if not isinstance(value, str) or value not in choices:
        *others, last = map(repr, choices)
        raise InputError(f"{name}: {', '.join(others)} or {last} expected, got {value!r}")


def check_number(value: Any, name: str) -> None:
    """A real number, and no truth value."""
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, Real)):
        raise TypeError(f"{name}: number expected, got {type(value).__name__}")


def check_positive(value: Any, name: str) -> None:
    """A positive finite number."""
    check_number(value, name)
    if not (math.isfinite(value) and float(value) > 0):
        raise InputError(f"{name}: positive finite number expected, got {value}")


def one_dtype(tensors: Sequence[Tensor]) -> list[Tensor]:
    """All in the widest dtype among them."""
    widest = tensors[0].dtype
    for tensor in tensors:
        if tensor.dtype != widest:
            widest = torch.promote_types(widest, tensor.dtype)
    return [tensor if tensor.dtype == widest else tensor.to(widest) for tensor in tensors]


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """What a tensor is computed in: 16-bit numbers in float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _under_autocast(tensor: Tensor) -> bool:
    """Whether autocast is on for a tensor's device; torch refuses to say so of meta tensors."""
    return tensor.device.type != "meta" and torch.is_autocast_enabled(tensor.device.type)
