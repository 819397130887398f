"""NT-Xent: each of two views of an image must find the other among all views of the batch.

Source: Chen et al., "A simple framework for contrastive learning of visual representations"
(SimCLR), 2020, equation 1; as CRADL (Luth et al., 2023) uses it, whose code replaces a length of
exactly 0 by 1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from medad_fast import _C
from medad_fast.errors import InputError
from medad_fast.ops import _native
from medad_fast.ops._arguments import check_alike, check_temperature, check_tensor, one_dtype

__all__ = ["nt_xent_loss", "nt_xent_loss_reference"]


def nt_xent_loss(z1: Tensor, z2: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Mean over the ``2 B`` rows ``i`` of ``-log softmax_{j != i}(cos(z_i, z_j) / temperature)``
    at the other view of ``i``.

    The denominator holds the positive and the ``2 B - 2`` negatives, not the row itself. The
    gradient is formed together with the loss; neither pairs nor the ``2 B x 2 B`` matrix are kept.

    Args:
        z1: embeddings of one view of each image, ``(B, D)``, of any length (rows are divided by
            their lengths in here), in float32, float64, float16 or bfloat16.
        z2: embeddings of the other view, with the shape, dtype and device of ``z1``.
        temperature: positive; SimCLR's and CRADL's 0.5 by default.

    Returns:
        A scalar; float32 for 16-bit inputs, else of their dtype. NaN where ``B`` is 0 and where an
        element is NaN or infinite; exactly 0 where ``B`` is 1.

    Raises:
        TypeError: an argument of the wrong type.
        InputError: shapes, dtypes, devices or layouts that differ or do not fit.

    A row of zeros has the similarity 0 with every row, and the gradient that a length of 1 would
    give. 16-bit inputs are computed in float32. Under autocast the op runs in the wider dtype of
    its inputs. The same inputs give the same bits, on a CPU with any number of threads. A second
    derivative raises.
    """
    z1, z2 = _checked(z1, z2, temperature)
    if not _native.use_native("nt_xent_loss", z1):
        return _reference(z1, z2, temperature)
    wanted = torch.is_grad_enabled() and (z1.requires_grad or z2.requires_grad)
    if torch.compiler.is_compiling():
        loss: Tensor = torch.ops.medad_fast.nt_xent_loss(z1, z2, float(temperature), wanted)[0]
        return loss
    dual: Any = forward_ad.unpack_dual  # torch gives it no types
    for tensor in (z1, z2):  # torch would drop the tangent and say nothing
        if dual(tensor).tangent is not None:
            raise RuntimeError("nt_xent_loss has no forward-mode derivative; use backward")
    if wanted:
        apply: Any = _Loss.apply  # torch gives it no types
        loss = apply(z1, z2, float(temperature))
        return loss
    loss = torch.ops.medad_fast.nt_xent_loss(z1, z2, float(temperature), False)[0]
    return loss


def nt_xent_loss_reference(z1: Tensor, z2: Tensor, *, temperature: float = 0.5) -> Tensor:
    """The same in plain torch: what the kernels are tested against and timed against."""
    z1, z2 = _checked(z1, z2, temperature)
    return _reference(z1, z2, temperature)


def _reference(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    z = torch.cat([z1, z2])
    if z.dtype in (torch.float16, torch.bfloat16):
        z = z.float()
    pairs = z1.shape[0]
    largest = z.detach().abs().amax(1, keepdim=True)  # squares would overflow or vanish
    z = z / largest.masked_fill(largest == 0, 1)
    length = torch.linalg.vector_norm(z, dim=1, keepdim=True)
    units = z / length.masked_fill(length == 0, 1)
    itself = torch.eye(2 * pairs, dtype=torch.bool, device=z.device)
    logits = (units @ units.mT / temperature).masked_fill(itself, -math.inf)
    return F.cross_entropy(logits, torch.arange(2 * pairs, device=z.device).roll(pairs))


def _checked(z1: Any, z2: Any, temperature: Any) -> list[Tensor]:
    for name, tensor in (("z1", z1), ("z2", z2)):
        check_tensor(tensor, name, "(B, D)")
        if tensor.shape[1] < 1:
            raise InputError(f"{name}: D of at least 1 expected, got {tuple(tensor.shape)}")
    if z2.shape != z1.shape:
        raise InputError(f"z2: {tuple(z1.shape)} expected, as z1, got {tuple(z2.shape)}")
    check_alike(z2, "z2", z1, "z1")
    check_temperature(temperature)
    return one_dtype([z1, z2])


def _compute_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _loss(z1: Tensor, z2: Tensor, temperature: float, wanted: bool) -> tuple[Tensor, Tensor]:
    dtype, compute, device = z1.dtype, _compute_dtype(z1), z1.device
    on_cpu = device.type == "cpu"
    if on_cpu:  # the CPU kernels know float32 and float64
        z1, z2 = z1.to(compute), z2.to(compute)
    z1, z2 = z1.contiguous(), z2.contiguous()
    both = (2, *z1.shape)
    nothing = z1.new_empty(0)
    loss = z1.new_empty((), dtype=compute)
    gradient = z1.new_empty(both) if wanted else nothing
    units = sums = rows = nothing
    if not on_cpu:
        units = z1.new_empty(both, dtype=compute)
        sums = z1.new_empty(both, dtype=compute) if wanted else nothing
        rows = z1.new_empty((_C.nt_xent_row_values, 2 * z1.shape[0]), dtype=compute)
    _native.call(_C.nt_xent_loss, device, z1, z2, loss, gradient, units, sums, rows, temperature)
    return loss, gradient.to(dtype)


def _shapes(z1: Tensor, z2: Tensor, temperature: float, wanted: bool) -> tuple[Tensor, Tensor]:
    shape = (2, *z1.shape) if wanted else (0,)
    return z1.new_empty((), dtype=_compute_dtype(z1)), z1.new_empty(shape)


def _save_gradient(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs[:2], output[1])


def _gradients(ctx: Any, upstream: Tensor | None, *unused: Any) -> tuple[Any, Any, None, None]:
    z1, z2, formed = ctx.saved_tensors
    if upstream is None or formed.ndim != 3:
        return None, None, None, None
    if torch.is_grad_enabled():  # as an op that refuses to be differentiated once more
        formed = torch.ops.medad_fast.nt_xent_loss_scale(formed, upstream, z1, z2)
    elif not _native.is_one(upstream):
        formed = _scale(formed, upstream, z1, z2)
    needed = ctx.needs_input_grad
    return formed[0] if needed[0] else None, formed[1] if needed[1] else None, None, None


class _Loss(torch.autograd.Function):
    """The same derivative at half the overhead; compilers take the op's own."""

    @staticmethod
    def forward(ctx: Any, z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
        loss: Tensor
        loss, formed = torch.ops.medad_fast.nt_xent_loss(z1, z2, temperature, True)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(z1, z2, formed)
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        return _gradients(ctx, *upstream)[:3]


def _scale(formed: Tensor, upstream: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    return formed * upstream.to(formed.dtype)


def _scale_shapes(formed: Tensor, upstream: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    return torch.empty_like(formed)


_native.register(
    "nt_xent_loss(Tensor z1, Tensor z2, float temperature, bool wanted) "
    "-> (Tensor loss, Tensor gradient)",
    forward=_loss,
    shapes=_shapes,
    backward=_gradients,
    save=_save_gradient,
)
_native.register(
    "nt_xent_loss_scale(Tensor formed, Tensor upstream, Tensor z1, Tensor z2) -> Tensor",
    forward=_scale,
    shapes=_scale_shapes,
    backward=None,
)
