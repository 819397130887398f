"""Checks of arguments that are feature maps, one a layer, and of the heads that project them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medad_fast.errors import InputError
from medad_fast.ops._arguments import check_kind, check_shape, check_tensor, checked_layers

Head = tuple[Tensor, Tensor, Tensor, Tensor]
"""``(w1, b1, w2, b2)`` as in ``nn.Linear``."""

_HEAD_AXES = {"w1": "(D1, C)", "b1": "(D1)", "w2": "(D2, D1)", "b2": "(D2)"}


def checked_maps(features: Any, reconstructed: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Both as lists of ``(B, C, H, W)`` tensors that fit each other layer by layer."""
    features, reconstructed = (
        checked_layers(value, name, "(B, C, H, W)", "a list or tuple of tensors")
        for name, value in (("features", features), ("reconstructed", reconstructed))
    )
    if len(reconstructed) != len(features):
        raise InputError(
            f"reconstructed: {len(features)} layers expected, as in features, "
            f"got {len(reconstructed)}"
        )
    for layer, (a, b) in enumerate(zip(features, reconstructed, strict=True)):
        if a.shape[0] != features[0].shape[0]:
            raise InputError(
                f"features[{layer}]: a batch of {features[0].shape[0]} expected, as in "
                f"features[0], got {a.shape[0]}"
            )
        if a.shape[2] == 0 or a.shape[3] == 0:
            raise InputError(
                f"features[{layer}]: H and W of at least 1 expected, got {tuple(a.shape)}"
            )
        check_shape(b, f"reconstructed[{layer}]", a.shape, f"features[{layer}]")
        for name, tensor in (("features", a), ("reconstructed", b)):
            check_kind(tensor, f"{name}[{layer}]", features[0], "features[0]")
    return features, reconstructed


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
        for (part, axes), tensor in zip(_HEAD_AXES.items(), head, strict=True):
            check_tensor(tensor, f"{name}.{part}", axes)
        d1, d2 = head[0].shape[0], head[2].shape[0]
        wanted = ((d1, map_.shape[1]), (d1,), (d2, d1), (d2,))
        for part, tensor, shape in zip(_HEAD_AXES, head, wanted, strict=True):
            if tuple(tensor.shape) != shape:
                raise InputError(f"{name}.{part}: {shape} expected, got {tuple(tensor.shape)}")
            check_kind(tensor, f"{name}.{part}", features[0], "features[0]")
        flat += head
    return flat


def _kind(value: Any) -> str:
    return type(value).__name__
