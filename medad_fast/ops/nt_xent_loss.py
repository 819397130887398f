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
from torch.nn import functional as F

from medad_fast.errors import InputError
from medad_fast.ops import _native
from medad_fast.ops._arguments import (
    check_alike,
    check_positive,
    check_tensor,
    compute_dtype,
    one_dtype,
)


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
    return _loss(z1, z2, float(temperature))


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
    check_alike(z2, "z2", z1, "z1")
    check_positive(temperature, "temperature")
    return one_dtype([z1, z2])


def _shapes(z1: Tensor, z2: Tensor, temperature: float, *wanted: bool) -> tuple[Tensor, Tensor]:
    shape = (2, *z1.shape) if any(wanted) else (0,)
    return z1.new_empty((), dtype=compute_dtype(z1)), z1.new_empty(shape)


def _kernel(z1: Tensor, z2: Tensor, temperature: float, *wanted: bool) -> tuple[Tensor, Tensor]:
    dtype, compute, device = z1.dtype, compute_dtype(z1), z1.device
    if device.type == "cpu" and dtype != compute:  # the CPU kernels know float32 and float64
        z1, z2 = z1.to(compute), z2.to(compute)
    z1, z2 = z1.contiguous(), z2.contiguous()
    loss, gradient = _shapes(z1, z2, temperature, *wanted)
    units = sums = rows = None
    if device.type != "cpu":
        units = torch.empty((2, *z1.shape), dtype=compute, device=device)
        sums = torch.empty_like(units) if any(wanted) else None
        rows = units.new_empty((_native.kernels.nt_xent_row_values(), 2 * z1.shape[0]))
    formed = gradient if any(wanted) else None
    tensors = (z1, z2, loss, formed, units, sums, rows)
    _native.call(_native.kernels.nt_xent_loss, device, *tensors, temperature)
    return loss, gradient if gradient.dtype == dtype else gradient.to(dtype)


_loss = _native.register_with_gradient(
    "nt_xent_loss(Tensor z1, Tensor z2, float temperature)",
    kernel=_kernel,
    shapes=_shapes,
    reference=_reference,
    stacked=True,
)
