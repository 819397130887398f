"""``patch_nce_loss`` as torch knows it: kernels, shapes for tracing, gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medad_fast.ops import _native
from medad_fast.ops._arguments import compute_dtype
from medad_fast.ops.patch_nce_loss import reference

Layers = list[Tensor]


def _row_shapes(query: Layers, *unused: Any) -> Layers:
    return [q.new_empty(q.shape[:2], dtype=compute_dtype(q)) for q in query]


def _gradient_shapes(query: Layers, key: Layers, to_query: bool, to_key: bool) -> list[Layers]:
    sides = (query, to_query), (key, to_key)
    return [[t.new_empty(t.shape) for t in side] if wanted else [] for side, wanted in sides]


def _run(query: Layers, key: Layers, weight: Layers, *options: Any) -> tuple[Layers, list[Layers]]:
    """Rows, and query and key gradients (empty lists where not wanted)."""
    dtype, compute, device = query[0].dtype, compute_dtype(query[0]), query[0].device
    on_cpu = device.type == "cpu"
    widen = on_cpu and dtype != compute  # the CPU kernels know float32 and float64
    if widen:
        query, key = ([t.to(compute) for t in side] for side in (query, key))
    query, key = ([t.contiguous() for t in side] for side in (query, key))
    weight = [w.to(compute).contiguous() for w in weight]
    rows = _row_shapes(query)
    log_sum_exp = [] if on_cpu else _row_shapes(query)
    *numbers, to_query, to_key = options
    sides = _gradient_shapes(query, key, to_query, to_key)
    tensors = (query, key, weight, rows, log_sum_exp, *sides)
    _native.call(_native.kernels.patch_nce_loss, device, *tensors, *numbers)
    if widen:
        sides = [[gradient.to(dtype) for gradient in side] for side in sides]
    return rows, sides


def _loss_kernel(query: Layers, key: Layers, *options: Any) -> tuple[Tensor, Layers]:
    rows, (for_query, for_key) = _run(query, key, [], *options)
    losses = [r.mean() if options[3] else r.sum() for r in rows]
    value = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
    return value, for_query + for_key


def _loss_shapes(query: Layers, key: Layers, *options: Any) -> tuple[Tensor, Layers]:
    for_query, for_key = _gradient_shapes(query, key, *options[4:])
    return query[0].new_empty((), dtype=compute_dtype(query[0])), for_query + for_key


def _rows_kernel(query: Layers, key: Layers, *options: Any) -> Layers:
    return _run(query, key, [], *options, False, False, False)[0]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    query, key, *ctx.options = inputs
    ctx.save_for_backward(*query, *key)


def _backward(ctx: Any, upstream: Layers) -> Any:
    layers = len(upstream)
    query, key = list(ctx.saved_tensors[:layers]), list(ctx.saved_tensors[layers:])
    wanted = [any(needed) for needed in ctx.needs_input_grad[:2]]
    sides = _rows_backward(query, key, list(upstream), *ctx.options, *wanted)
    return *(side or [None] * layers for side in sides), None, None, None


def _backward_kernel(query: Layers, key: Layers, weight: Layers, *options: Any) -> Any:
    return tuple(_run(query, key, weight, *options[:3], False, *options[3:])[1])


def _backward_shapes(query: Layers, key: Layers, weight: Layers, *options: Any) -> Any:
    return tuple(_gradient_shapes(query, key, *options[3:]))


_ARGUMENTS = "Tensor[] query, Tensor[] key, float temperature, bool batch_negatives, bool exact_cut"

loss = _native.register_with_gradient(
    f"patch_nce_loss({_ARGUMENTS}, bool mean)",
    kernel=_loss_kernel,
    shapes=_loss_shapes,
    reference=reference.loss,
)
rows = _native.register(
    f"patch_nce_loss_rows({_ARGUMENTS}) -> Tensor[] rows",
    kernel=_rows_kernel,
    shapes=_row_shapes,
    backward=_backward,
    save=_save,
    reference=reference.rows,
    op="patch_nce_loss",
)
_rows_backward = _native.declare(
    f"patch_nce_loss_backward({_ARGUMENTS.replace('float', 'Tensor[] weight, float')}, "
    "bool to_query, bool to_key) -> (Tensor[] for_query, Tensor[] for_key)",
    kernel=_backward_kernel,
    shapes=_backward_shapes,
)
