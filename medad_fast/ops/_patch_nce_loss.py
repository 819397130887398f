"""The registered ops behind ``patch_nce_loss``: kernels, shapes for tracing, gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medad_fast import _C
from medad_fast.ops import _native

__all__ = ["loss"]

Options = tuple[float, bool, bool, bool]  # temperature, batch negatives, exact_cut, mean


def loss(query: list[Tensor], key: list[Tensor], options: Options) -> Tensor:
    """The sum over layers of the reduced rows, with the gradients that are wanted."""
    wanted = [
        torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        for tensors in (query, key)
    ]
    value: Tensor
    if any(wanted) and not torch.compiler.is_compiling():
        apply: Any = _Loss.apply  # torch gives it no types
        value = apply(options, wanted, *query, *key)
    else:
        value = torch.ops.medad_fast.patch_nce_loss(query, key, *options, *wanted)[0]
    return value


def _compute_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _row_shapes(tensors: list[Tensor]) -> list[Tensor]:
    return [t.new_empty(t.shape[:2], dtype=_compute_dtype(t)) for t in tensors]


def _run(
    query: list[Tensor],
    key: list[Tensor],
    weight: list[Tensor],
    options: Options,
    query_gradient: bool,
    key_gradient: bool,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Rows, query gradients and key gradients (empty lists where not wanted)."""
    dtype, compute, device = query[0].dtype, _compute_dtype(query[0]), query[0].device
    on_cpu = device.type == "cpu"
    widen = on_cpu and dtype != compute  # the CPU kernels know float32 and float64
    if widen:
        query, key = ([t.to(compute) for t in side] for side in (query, key))
    query, key = ([t.contiguous() for t in side] for side in (query, key))
    weight = [w.to(compute).contiguous() for w in weight]
    rows = _row_shapes(query)
    log_sum_exp = [] if on_cpu else _row_shapes(query)
    for_query = [torch.empty_like(q) for q in query] if query_gradient else []
    for_key = [torch.empty_like(k) for k in key] if key_gradient else []
    _native.call(
        _C.patch_nce_loss,
        device,
        query,
        key,
        weight,
        rows,
        log_sum_exp,
        for_query,
        for_key,
        *options,
    )
    if widen:
        return rows, [g.to(dtype) for g in for_query], [g.to(dtype) for g in for_key]
    return rows, for_query, for_key


def _loss(
    query: list[Tensor],
    key: list[Tensor],
    temperature: float,
    batch_negatives: bool,
    exact_cut: bool,
    mean: bool,
    query_gradient: bool,
    key_gradient: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    options = (temperature, batch_negatives, exact_cut, mean)
    rows, for_query, for_key = _run(query, key, [], options, query_gradient, key_gradient)
    losses = [r.mean() if mean else r.sum() for r in rows]
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum(), for_query, for_key


def _loss_shapes(
    query: list[Tensor],
    key: list[Tensor],
    temperature: float,
    batch_negatives: bool,
    exact_cut: bool,
    mean: bool,
    query_gradient: bool,
    key_gradient: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    return (
        query[0].new_empty((), dtype=_compute_dtype(query[0])),
        [_contiguous_like(q) for q in query] if query_gradient else [],
        [_contiguous_like(k) for k in key] if key_gradient else [],
    )


def _contiguous_like(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.shape)


def _save_gradients(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    query, key = inputs[:2]
    _, for_query, for_key = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*for_query, *for_key)
    ctx.save_for_backward(*query, *key, *for_query, *for_key)
    ctx.layers = len(query)
    ctx.wanted = bool(for_query), bool(for_key)


def _gradients(ctx: Any, upstream: Tensor | None, *unused: Any) -> Any:
    layers, saved = ctx.layers, list(ctx.saved_tensors)
    inputs, formed = saved[: 2 * layers], saved[2 * layers :]
    sides: list[Any] = [[None] * layers, [None] * layers]
    if upstream is not None and formed:
        if torch.is_grad_enabled():  # as an op that refuses to be differentiated once more
            formed = torch.ops.medad_fast.patch_nce_loss_scale(formed, upstream, inputs)
        elif not _native.is_one(upstream):
            formed = _scale(formed, upstream, [])
        for side, wanted in enumerate(ctx.wanted):
            if wanted:
                sides[side], formed = formed[:layers], formed[layers:]
    return *sides, *(None,) * 6


class _Loss(torch.autograd.Function):
    """The same derivative at half the overhead; compilers take the op's own."""

    @staticmethod
    def forward(ctx: Any, options: Options, wanted: list[bool], *tensors: Tensor) -> Tensor:
        ctx.layers, ctx.wanted = len(tensors) // 2, wanted
        query, key = list(tensors[: ctx.layers]), list(tensors[ctx.layers :])
        value: Tensor
        value, for_query, for_key = torch.ops.medad_fast.patch_nce_loss(
            query, key, *options, *wanted
        )
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *for_query, *for_key)
        return value

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        for_query, for_key = _gradients(ctx, *upstream)[:2]
        return None, None, *for_query, *for_key


def _scale(formed: list[Tensor], upstream: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return [gradient * upstream.to(gradient.dtype) for gradient in formed]


def _scale_shapes(formed: list[Tensor], upstream: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return [torch.empty_like(gradient) for gradient in formed]


def _rows(
    query: list[Tensor],
    key: list[Tensor],
    temperature: float,
    batch_negatives: bool,
    exact_cut: bool,
) -> list[Tensor]:
    options = (temperature, batch_negatives, exact_cut, False)
    return _run(query, key, [], options, False, False)[0]


def _row_list_shapes(
    query: list[Tensor],
    key: list[Tensor],
    temperature: float,
    batch_negatives: bool,
    exact_cut: bool,
) -> list[Tensor]:
    return _row_shapes(query)


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    query, key, *ctx.options = inputs
    ctx.save_for_backward(*query, *key)
    ctx.layers = len(query)


def _gradients_again(ctx: Any, upstream: list[Tensor]) -> Any:
    query, key = ctx.saved_tensors[: ctx.layers], ctx.saved_tensors[ctx.layers :]
    wanted = [any(needed) for needed in ctx.needs_input_grad[:2]]
    for_query, for_key = torch.ops.medad_fast.patch_nce_loss_backward(
        list(query), list(key), list(upstream), *ctx.options, *wanted
    )
    nothing = [None] * ctx.layers
    return for_query or nothing, for_key or nothing, None, None, None


def _weighted(
    query: list[Tensor],
    key: list[Tensor],
    weight: list[Tensor],
    temperature: float,
    batch_negatives: bool,
    exact_cut: bool,
    query_gradient: bool,
    key_gradient: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    options = (temperature, batch_negatives, exact_cut, False)
    return _run(query, key, weight, options, query_gradient, key_gradient)[1:]


def _weighted_shapes(
    query: list[Tensor],
    key: list[Tensor],
    weight: list[Tensor],
    temperature: float,
    batch_negatives: bool,
    exact_cut: bool,
    query_gradient: bool,
    key_gradient: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    return (
        [_contiguous_like(q) for q in query] if query_gradient else [],
        [_contiguous_like(k) for k in key] if key_gradient else [],
    )


_native.register(
    "patch_nce_loss(Tensor[] query, Tensor[] key, float temperature, bool batch_negatives, "
    "bool exact_cut, bool mean, bool query_gradient, bool key_gradient) "
    "-> (Tensor loss, Tensor[] for_query, Tensor[] for_key)",
    forward=_loss,
    shapes=_loss_shapes,
    backward=_gradients,
    save=_save_gradients,
)
_native.register(
    "patch_nce_loss_scale(Tensor[] formed, Tensor upstream, Tensor[] inputs) -> Tensor[]",
    forward=_scale,
    shapes=_scale_shapes,
    backward=None,
)
_native.register(
    "patch_nce_loss_rows(Tensor[] query, Tensor[] key, float temperature, bool batch_negatives, "
    "bool exact_cut) -> Tensor[] rows",
    forward=_rows,
    shapes=_row_list_shapes,
    backward=_gradients_again,
    save=_save_inputs,
)
_native.register(
    "patch_nce_loss_backward(Tensor[] query, Tensor[] key, Tensor[] weight, float temperature, "
    "bool batch_negatives, bool exact_cut, bool query_gradient, bool key_gradient) "
    "-> (Tensor[] for_query, Tensor[] for_key)",
    forward=_weighted,
    shapes=_weighted_shapes,
    backward=None,
)
