"""Checks of arguments, with messages that begin with the argument's name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from medad_fast.errors import InputError

__all__ = [
    "FLOATING",
    "check_alike",
    "check_temperature",
    "check_tensor",
    "one_dtype",
    "under_autocast",
]

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_tensor(value: Any, name: str, axes: str) -> None:
    """A dense floating tensor with as many axes as ``axes`` names, such as ``"(B, C, H, W)"``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: a tensor expected, got {type(value).__name__}")
    if value.layout != torch.strided or value.is_quantized or value.is_nested:
        raise InputError(f"{name}: a dense tensor expected, got {value.layout}, {value.dtype}")
    if value.dtype not in FLOATING:
        raise InputError(
            f"{name}: float32, float64, float16 or bfloat16 expected, got {value.dtype}"
        )
    if value.dim() != axes.count(",") + 1:
        raise InputError(f"{name}: {axes} expected, got {tuple(value.shape)}")


def check_alike(value: Tensor, name: str, like: Tensor, other: str) -> None:
    """The device and, except under autocast, the dtype of the argument called ``other``."""
    if value.device != like.device:
        raise InputError(f"{name}: {like.device} expected, as {other}, got {value.device}")
    if value.dtype != like.dtype and not under_autocast(like):
        raise InputError(f"{name}: {like.dtype} expected, as {other}, got {value.dtype}")


def check_temperature(value: Any) -> None:
    """A positive finite number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"temperature: number expected, got {type(value).__name__}")
    if not (math.isfinite(value) and float(value) > 0):
        raise InputError(f"temperature: positive finite number expected, got {value}")


def one_dtype(tensors: Sequence[Tensor]) -> list[Tensor]:
    """All in the widest dtype among them."""
    widest = tensors[0].dtype
    if all(tensor.dtype == widest for tensor in tensors):
        return list(tensors)
    for tensor in tensors:
        widest = torch.promote_types(widest, tensor.dtype)
    return [tensor.to(widest) for tensor in tensors]


def under_autocast(tensor: Tensor) -> bool:
    """Whether autocast is on for a tensor's device; torch refuses to say so of meta tensors."""
    return tensor.device.type != "meta" and torch.is_autocast_enabled(tensor.device.type)
