"""Checks of arguments that are feature maps, one a layer, and of the heads that project them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medad_fast.errors import InputError
from medad_fast.ops._arguments import under_autocast

__all__ = ["Head", "checked_heads", "checked_layers", "checked_size"]

Head = tuple[Tensor, Tensor, Tensor, Tensor]
"""``(w1, b1, w2, b2)`` as in ``nn.Linear``."""

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def checked_layers(features: Any, reconstructed: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Both as lists of ``(B, C, H, W)`` tensors that fit each other layer by layer."""
    lists = []
    for name, value in (("features", features), ("reconstructed", reconstructed)):
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{name}: a list or tuple of tensors expected, got {_kind(value)}")
        for layer, item in enumerate(value):
            _check_tensor(item, f"{name}[{layer}]")
        lists.append(list(value))
    features, reconstructed = lists
    if not features:
        raise InputError("features: at least one layer expected, got an empty sequence")
    if len(reconstructed) != len(features):
        raise InputError(
            f"reconstructed: {len(features)} layers expected, as in features, "
            f"got {len(reconstructed)}"
        )
    for layer, (a, b) in enumerate(zip(features, reconstructed, strict=True)):
        if a.dim() != 4:
            raise InputError(f"features[{layer}]: (B, C, H, W) expected, got {tuple(a.shape)}")
        if a.shape[0] != features[0].shape[0]:
            raise InputError(
                f"features[{layer}]: a batch of {features[0].shape[0]} expected, as in "
                f"features[0], got {a.shape[0]}"
            )
        if a.shape[2] == 0 or a.shape[3] == 0:
            raise InputError(
                f"features[{layer}]: H and W of at least 1 expected, got {tuple(a.shape)}"
            )
        if a.shape != b.shape:
            raise InputError(
                f"reconstructed[{layer}]: {tuple(a.shape)} expected, as features[{layer}], "
                f"got {tuple(b.shape)}"
            )
    _check_alike("features", features, features[0])
    _check_alike("reconstructed", reconstructed, features[0])
    return features, reconstructed


def _check_tensor(value: Any, name: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: a tensor expected, got {_kind(value)}")
    if value.layout != torch.strided or value.is_quantized:
        raise InputError(f"{name}: a dense tensor expected, got {value.layout}, {value.dtype}")
    if value.dtype not in _DTYPES:
        raise InputError(
            f"{name}: float32, float64, float16 or bfloat16 expected, got {value.dtype}"
        )


def _check_alike(name: str, tensors: Sequence[Tensor], like: Tensor) -> None:
    for layer, tensor in enumerate(tensors):
        if tensor.device != like.device:
            raise InputError(
                f"{name}[{layer}]: {like.device} expected, as features[0], got {tensor.device}"
            )
        if tensor.dtype != like.dtype and not under_autocast(like):
            raise InputError(
                f"{name}[{layer}]: {like.dtype} expected, as features[0], got {tensor.dtype}"
            )


def checked_size(size: Any) -> tuple[int, int]:
    """``(H, W)`` of a side or a pair."""
    sides = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    whole = all(
        isinstance(side, (int, torch.SymInt)) and not isinstance(side, bool) for side in sides
    )
    if not whole:
        raise TypeError(f"size: an int or (H, W) expected, got {size!r}")
    if len(sides) != 2 or min(sides) < 1 or max(sides) >= 2**31:
        raise InputError(f"size: a side, or (H, W), from 1 to 2**31 - 1 expected, got {size!r}")
    return sides


def checked_heads(heads: Any, features: Sequence[Tensor]) -> list[Tensor]:
    """``w1, b1, w2, b2`` of each layer in turn; empty where there are no heads."""
    if heads is None:
        return []
    if not isinstance(heads, (list, tuple)):
        raise TypeError(f"heads: a list of (w1, b1, w2, b2) expected, got {_kind(heads)}")
    if len(heads) != len(features):
        raise InputError(
            f"heads: one for each of {len(features)} layers expected, got {len(heads)}"
        )
    flat: list[Tensor] = []
    for layer, (head, map_) in enumerate(zip(heads, features, strict=True)):
        name = f"heads[{layer}]"
        if not isinstance(head, (list, tuple)):
            raise TypeError(f"{name}: (w1, b1, w2, b2) expected, got {_kind(head)}")
        if len(head) != 4:
            raise InputError(f"{name}: (w1, b1, w2, b2) expected, got {len(head)} items")
        for part, tensor in zip(("w1", "b1", "w2", "b2"), head, strict=True):
            _check_tensor(tensor, f"{name}.{part}")
        d1, d2 = (weight.shape[0] if weight.dim() else 0 for weight in (head[0], head[2]))
        wanted = ((d1, map_.shape[1]), (d1,), (d2, d1), (d2,))
        for part, tensor, shape in zip(("w1", "b1", "w2", "b2"), head, wanted, strict=True):
            if tuple(tensor.shape) != shape:
                raise InputError(f"{name}.{part}: {shape} expected, got {tuple(tensor.shape)}")
        _check_alike(name, head, features[0])
        flat += head
    return flat


def _kind(value: Any) -> str:
    return type(value).__name__
