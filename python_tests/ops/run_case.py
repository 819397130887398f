"""Ways of running an :class:`OpCase` that the tests of all ops share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from python_tests.ops.cases import OpCase, all_cases, flat, zeros


def _results(case: OpCase, tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    leaves = [t.detach().requires_grad_(i in case.gradients) for i, t in enumerate(tensors)]
    return leaves, flat(case.call(*leaves))


def upstream_of(case: OpCase, tensors: Sequence[Tensor]) -> list[Tensor]:
    """A gradient for every result that has one, the same for the same shapes."""
    rng = torch.Generator().manual_seed(9)
    return [
        torch.randn(result.shape, generator=rng).to(result)
        for result in _results(case, tensors)[1]
        if result.requires_grad
    ]


def outcome(
    case: OpCase, tensors: Sequence[Tensor], upstream: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """What a call returns, then the gradients of the inputs that have one."""
    leaves, results = _results(case, tensors)
    found = [result.detach() for result in results]
    if case.gradients:
        differentiable = [result for result in results if result.requires_grad]
        upstream = upstream_of(case, tensors) if upstream is None else upstream
        wanted = [leaves[i] for i in case.gradients]
        found += torch.autograd.grad(differentiable, wanted, list(upstream))
    return found


def _bits(tensor: Tensor) -> Tensor:
    """Its bytes, every NaN the same: where several meet, the processor picks one's payload."""
    tensor = tensor.resolve_neg().contiguous()
    if tensor.is_floating_point():
        tensor = tensor.masked_fill(tensor.isnan(), torch.nan)
    return tensor.reshape(-1).view(torch.uint8)


def differences(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> list[str]:
    """Which tensors differ in a bit, NaN and the sign of zero included; empty where none does."""
    if len(got) != len(wanted):
        return [f"{len(got)} tensors instead of {len(wanted)}"]
    found = []
    for place, (a, b) in enumerate(zip(got, wanted, strict=True)):
        if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
            found.append(f"tensor {place}: {a.shape}, {a.dtype} instead of {b.shape}, {b.dtype}")
        elif not torch.equal(_bits(a), _bits(b)):
            worst = (a.double() - b.double()).abs().max().item()
            found.append(f"tensor {place} of {tuple(a.shape)} differs, by {worst} at most")
    return found


def storage_bytes(tensor: Tensor) -> Tensor:
    """A copy of all memory behind a tensor, whatever part of it is a view on."""
    memory = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return memory.set_(tensor.untyped_storage()).clone()


def _trap(tensor: Tensor) -> float | bool:
    """What fills memory that nobody should read."""
    if tensor.dtype == torch.bool:
        return True
    return float("nan") if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max


def _innermost(tensor: Tensor, axis: int) -> Tensor:
    """The same, with the elements of one axis next to each other in memory."""
    if tensor.dim() == 0:
        return tensor
    axis = min(axis, tensor.dim() - 1)
    return tensor.movedim(axis, -1).contiguous().movedim(-1, axis)


def _every(tensor: Tensor, axis: int, step: int) -> Tensor:
    """The same, as every ``step``-th element of a larger tensor."""
    if tensor.dim() == 0:
        return tensor
    shape = list(tensor.shape)
    shape[axis] *= step
    large = torch.full(shape, _trap(tensor), dtype=tensor.dtype, device=tensor.device)
    part = [slice(None)] * tensor.dim()
    part[axis] = slice(None, None, step)
    large[tuple(part)] = tensor
    return large[tuple(part)]


def _inside(tensor: Tensor) -> Tensor:
    """The same, with a border of one or two elements on every side of every axis."""
    shape = [side + 3 for side in tensor.shape]
    large = torch.full(shape, _trap(tensor), dtype=tensor.dtype, device=tensor.device)
    part = tuple(slice(1, 1 + side) for side in tensor.shape)
    large[part] = tensor
    return large[part]


def starts_at(tensor: Tensor, place: int) -> Tensor:
    """The same, ``place`` elements into its memory: aligned to no more than an element."""
    flattened = tensor.reshape(-1)
    if tensor.dtype == torch.bool:
        large = torch.cat([flattened.new_ones(place), flattened, flattened.new_ones(3)])
    else:
        large = F.pad(flattened, (place, 3), value=_trap(tensor))
    return large[place : place + flattened.numel()].view(tensor.shape)


def _expanded(tensor: Tensor, axis: int) -> Tensor:
    """The first entry of an axis, repeated without a copy: stride 0."""
    if tensor.dim() == 0 or tensor.shape[axis] == 0:
        return tensor
    return tensor.narrow(axis, 0, 1).expand_as(tensor)


def _reversed_axes(tensor: Tensor) -> Tensor:
    axes = tuple(reversed(range(tensor.dim())))
    return tensor.permute(axes).contiguous().permute(axes)


def _lazily_negated(tensor: Tensor) -> Tensor:
    return torch._neg_view(-tensor) if tensor.is_floating_point() else tensor


def far_apart(tensor: Tensor) -> Tensor:
    """The same on the CPU, with more than 2^31 elements from the first to the last.

    The memory between them is asked for and never touched, so that it costs nothing.
    """
    axis = next((a for a, side in enumerate(tensor.shape) if side > 1), None)
    if axis is None or tensor.numel() == 0:
        return tensor
    stride = 2**31 // (tensor.shape[axis] - 1) + 8
    count = stride * (tensor.shape[axis] - 1) + tensor.numel()
    strides = list(tensor.movedim(axis, 0).contiguous().movedim(0, axis).stride())
    strides[axis] = stride
    far = zeros(count, dtype=tensor.dtype).as_strided(tensor.shape, strides)
    far.copy_(tensor)
    return far


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "first axis innermost": lambda x: _innermost(x, 0),
    "second axis innermost": lambda x: _innermost(x, 1),
    "last axes swapped": lambda x: x.mT.contiguous().mT if x.dim() > 1 else _every(x, 0, 2),
    "axes reversed": _reversed_axes,
    "every second of the last axis": lambda x: _every(x, -1, 2),
    "every third of the first axis": lambda x: _every(x, 0, 3),
    "inside a larger tensor": _inside,
    "first axis expanded": lambda x: _expanded(x, 0),
    "last axis expanded": lambda x: _expanded(x, -1),
    "from element 1": lambda x: starts_at(x, 1),
    "from element 7": lambda x: starts_at(x, 7),
    "lazily negated": _lazily_negated,
}
"""Twelve ways for a tensor to lie in memory; expanded ones hold other numbers than they are given.

What lies around and between the elements is NaN, the largest integer, or true.
"""


class CallsOfEveryOp(Dataset[list[Tensor]]):
    """Calls of every op by turns, for workers of a data loader."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def __len__(self) -> int:
        return self.rounds * len(all_cases())

    def __getitem__(self, place: int) -> list[Tensor]:
        case = all_cases()[place % len(all_cases())]
        with torch.no_grad():
            return flat(case.call(*case.tensors(place)))
