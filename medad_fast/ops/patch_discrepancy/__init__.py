"""How far reconstructed features are from an image's own, at each pixel: PatchCL-AE's score.

Source: Lu et al., "PatchCL-AE", Computerized Medical Imaging and Graphics 114 (2024), section 3.2,
equations 5 to 7: one minus the cosine of the projected features of each layer, resized and summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from medad_fast.ops import _native
from medad_fast.ops._arguments import check_choice, compute_dtype, one_dtype
from medad_fast.ops.patch_discrepancy.layers import Head, checked_heads, checked_maps, checked_size

__all__ = ["patch_discrepancy", "patch_discrepancy_reference"]

Reduction = Literal["sum", "mean", "none"]

Maps = list[Tensor]

_REDUCTIONS = ("sum", "mean", "none")


def patch_discrepancy(
    features: Sequence[Tensor],
    reconstructed: Sequence[Tensor],
    *,
    size: int | tuple[int, int],
    heads: Sequence[Head] | None = None,
    reduction: Reduction = "sum",
) -> Tensor | list[Tensor]:
    """Sum over layers of ``resize(1 - cosine_similarity(features, reconstructed, dim=1))``.

    The distance is computed as half the squared distance of the unit vectors, which keeps its
    relative accuracy for nearly equal vectors. Equal vectors give exactly 0, two zero vectors 0, a
    zero vector and another one 1. Infinite and NaN elements give NaN.

    Args:
        features: one ``(B, C, H, W)`` tensor per layer, float32, float64, float16 or bfloat16, all
            of one dtype and device; C, H and W may differ from layer to layer. Any strides.
        reconstructed: the same shapes.
        size: side, or ``(H, W)``, of the result; resized bilinearly between half-pixel centres.
        heads: per layer ``(w1, b1, w2, b2)`` as in ``nn.Linear``: ``(D1, C)``, ``(D1)``,
            ``(D2, D1)``, ``(D2)``. Each vector ``v`` is replaced by ``w2 @ relu(w1 @ v + b1) + b2``
            before it is compared, block by block: the projected maps are never stored.
        reduction: over layers: ``"sum"``, ``"mean"``, or ``"none"`` for a list of maps.

    Returns:
        ``(B, 1, H, W)``, each layer's share in [0, 2]; a list of them for ``"none"``. float64 for
        float64 inputs, else float32, since the order of scores would be lost in a half type; sums
        of half inputs, and hidden layers, are formed in float32 or wider too.

    Raises:
        InputError: shapes, dtypes or devices that do not fit each other, or an empty sequence.
        TypeError: an argument of another type.

    Gradients flow to both inputs where there are no heads, and are 0 where either vector is zero;
    with heads, asking for a gradient raises RuntimeError, as a second derivative always does.
    Under autocast nothing is cast down: where dtypes differ, all tensors are cast to the widest.
    The result does not depend on the number of threads, the layout or the rest of the batch.
    """
    features, reconstructed = checked_maps(features, reconstructed)
    height, width = checked_size(size)
    flat_heads = checked_heads(heads, features)
    check_choice(reduction, "reduction", _REDUCTIONS)
    tensors = one_dtype([*features, *reconstructed, *flat_heads])
    count = len(features)
    sides = tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
    result = _patch_discrepancy(*sides, height, width, reduction)
    return list(result.unbind()) if reduction == "none" else result


def patch_discrepancy_reference(
    features: Sequence[Tensor],
    reconstructed: Sequence[Tensor],
    *,
    size: int | tuple[int, int],
    heads: Sequence[Head] | None = None,
    reduction: Reduction = "sum",
) -> Tensor | list[Tensor]:
    """The same in plain torch: what the kernels are tested against."""
    maps = []
    with torch.autocast(features[0].device.type, enabled=False):
        for layer, (a, b) in enumerate(zip(features, reconstructed, strict=True)):
            if a.dtype != torch.float64:
                a, b = a.float(), b.float()
            if heads is not None:
                a, b = _projected(a, heads[layer]), _projected(b, heads[layer])
            distance = _distance_reference(a, b)
            maps.append(F.interpolate(distance, size, mode="bilinear", align_corners=False))
        if reduction == "none":
            return maps
        total = torch.stack(maps).sum(0)
        return total / len(maps) if reduction == "mean" else total


def _distance_reference(a: Tensor, b: Tensor) -> Tensor:
    """``(B, 1, H, W)``: half the squared distance of unit vectors over the channels."""
    unit_a, largest_a = _unit(a)
    unit_b, largest_b = _unit(b)
    distance = (unit_a - unit_b).square().sum(1, keepdim=True) / 2
    one_is_zero = ((largest_a == 0) ^ (largest_b == 0)) & (largest_a + largest_b).isfinite()
    return torch.where(one_is_zero, torch.ones_like(distance), distance).clamp(max=2)


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors over the channels (0 for 0), and each vector's largest magnitude."""
    if x.shape[1] == 0:
        return x, x.new_zeros(x.shape[0], 1, *x.shape[2:])
    largest = x.detach().abs().amax(1, keepdim=True)
    is_zero = largest == 0
    # By the largest element first: squares of 1e38 and of 1e-45 do not fit in float32.
    scaled = x / largest.masked_fill(is_zero, 1)
    square = scaled.square().sum(1, keepdim=True).masked_fill(is_zero, 1)
    return (scaled / square.sqrt()).masked_fill(is_zero, 0), largest


def _projected(x: Tensor, head: Head) -> Tensor:
    w1, b1, w2, b2 = (part.to(x.dtype) for part in head)
    hidden = F.relu(F.linear(x.movedim(1, -1), w1, b1))
    return F.linear(hidden, w2, b2).movedim(-1, 1)


def _reference(
    features: Maps, reconstructed: Maps, flat: Maps, height: int, width: int, reduction: Reduction
) -> Tensor:
    heads: Any = [flat[first : first + 4] for first in range(0, len(flat), 4)] or None
    result = patch_discrepancy_reference(
        features, reconstructed, size=(height, width), heads=heads, reduction=reduction
    )
    return result if isinstance(result, Tensor) else torch.stack(result)


def _shapes(features: Maps, *others: Any) -> Tensor:
    *_, height, width, reduction = others
    first = features[0]
    shape = [len(features)] if reduction == "none" else []
    shape += [first.shape[0], 1, height, width]
    return first.new_empty(shape, dtype=compute_dtype(first))


def _distances(features: Maps, like: Tensor) -> Tensor | None:
    """Scratch for the layers' own maps on the GPU; the CPU kernel brings its own, much smaller."""
    if not like.is_cuda:
        return None
    positions = sum(map_.shape[2] * map_.shape[3] for map_ in features)
    return like.new_empty(features[0].shape[0] * positions)


def _kernel(features: Maps, reconstructed: Maps, heads: Maps, *options: Any) -> Tensor:
    out = _shapes(features, *options)
    tensors = (features, reconstructed, [part.contiguous() for part in heads])
    results = (_REDUCTIONS.index(options[2]), _distances(features, out), out)
    _native.call(_native.kernels.patch_discrepancy, out.device, *tensors, *results)
    return out


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, reconstructed, heads, _, _, ctx.reduction = inputs
    ctx.save_for_backward(*features, *reconstructed)
    ctx.has_heads = bool(heads)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    if ctx.has_heads:
        raise RuntimeError(
            "patch_discrepancy has no gradient with heads: call it under torch.no_grad(), or apply "
            "the heads before and leave them out"
        )
    tensors = list(ctx.saved_tensors)
    count = len(tensors) // 2
    wanted = [any(needed) for needed in ctx.needs_input_grad[:2]]
    options = (tensors[:count], tensors[count:], ctx.reduction, *wanted)
    grads = _patch_discrepancy_backward(grad, *options)
    nothing = [None] * count
    sides = grads[:count] if wanted[0] else nothing, grads[-count:] if wanted[1] else nothing
    return *sides, [], None, None, None


def _backward_shapes(grad: Tensor, features: Maps, reconstructed: Maps, *options: Any) -> Maps:
    sides = zip((features, reconstructed), options[1:], strict=True)
    return [torch.empty_like(tensor) for side, wanted in sides if wanted for tensor in side]


def _backward_kernel(grad: Tensor, features: Maps, reconstructed: Maps, *options: Any) -> Maps:
    out = _backward_shapes(grad, features, reconstructed, *options)
    reduction, to_features, to_reconstructed = options
    _native.call(
        _native.kernels.patch_discrepancy_backward,
        grad.device,
        grad.contiguous(),
        features,
        reconstructed,
        _REDUCTIONS.index(reduction),
        _distances(features, grad),
        out[: len(features)] if to_features else [],
        out[-len(features) :] if to_reconstructed else [],
    )
    return out


_patch_discrepancy = _native.register(
    "patch_discrepancy(Tensor[] features, Tensor[] reconstructed, Tensor[] heads, "
    "SymInt height, SymInt width, str reduction) -> Tensor",
    kernel=_kernel,
    shapes=_shapes,
    backward=_backward,
    save=_save,
    reference=_reference,
)
_patch_discrepancy_backward = _native.declare(
    "patch_discrepancy_backward(Tensor grad, Tensor[] features, Tensor[] reconstructed, "
    "str reduction, bool to_features, bool to_reconstructed) -> Tensor[]",
    kernel=_backward_kernel,
    shapes=_backward_shapes,
)
