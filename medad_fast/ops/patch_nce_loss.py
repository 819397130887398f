"""PatchNCE: each patch must find its own counterpart among the patches of its image.

Source: Park et al., "Contrastive learning for unpaired image-to-image translation" (CUT), 2020,
equation 3, and the authors' code (models/patchnce.py). PatchCL-AE uses it between an image and its
reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from medad_fast import _C
from medad_fast.errors import InputError
from medad_fast.ops import _native

__all__ = ["patch_nce_loss", "patch_nce_loss_reference"]

Negatives = Literal["image", "batch"]
Reduction = Literal["mean", "sum", "none"]

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_CUT_FILL = -10.0  # what CUT writes over the diagonal, before dividing by the temperature


@overload
def patch_nce_loss(
    query: Tensor,
    key: Tensor,
    *,
    temperature: float = ...,
    negatives: Negatives = ...,
    detach_key: bool = ...,
    reduction: Reduction = ...,
    exact_cut: bool = ...,
) -> Tensor: ...
@overload
def patch_nce_loss(
    query: Sequence[Tensor],
    key: Sequence[Tensor],
    *,
    temperature: float = ...,
    negatives: Negatives = ...,
    detach_key: bool = ...,
    reduction: Literal["mean", "sum"] = ...,
    exact_cut: bool = ...,
) -> Tensor: ...
@overload
def patch_nce_loss(
    query: Sequence[Tensor],
    key: Sequence[Tensor],
    *,
    temperature: float = ...,
    negatives: Negatives = ...,
    detach_key: bool = ...,
    reduction: Literal["none"],
    exact_cut: bool = ...,
) -> list[Tensor]: ...
def patch_nce_loss(
    query: Tensor | Sequence[Tensor],
    key: Tensor | Sequence[Tensor],
    *,
    temperature: float = 0.07,
    negatives: Negatives = "image",
    detach_key: bool = True,
    reduction: Reduction = "mean",
    exact_cut: bool = False,
) -> Tensor | list[Tensor]:
    """``-log softmax_j(<query_i, key_j> / temperature)[i]`` over the patches ``i`` of each image.

    The gradient is formed together with the loss, so that no ``S x S`` matrix is kept. Several
    layers go in one call, as sequences, and on a GPU in one launch.

    Args:
        query: embeddings ``(B, S, D)``, usually of unit length (they are taken as given), in
            float32, float64, float16 or bfloat16; or a sequence of them, one a layer, whose ``B``,
            ``S`` and ``D`` may differ.
        key: the embeddings to find, with the shapes, dtype and device of ``query``.
        temperature: positive; CUT's 0.07 by default.
        negatives: ``"image"``: the other patches of the same image; ``"batch"``: of all images.
        detach_key: whether the keys are constants, as in CUT.
        reduction: ``"mean"`` or ``"sum"`` over the rows of a layer, then the sum over layers; or
            ``"none"``.
        exact_cut: add CUT's extra column, whose logit is ``-10 / temperature``. It is nothing at
            small temperatures and counts from about 0.5 on.

    Returns:
        A scalar; with ``reduction="none"`` the rows ``(B, S)``, or a list of them, one a layer.
        float32 for 16-bit inputs, else of their dtype. The mean of no rows is NaN, as in torch.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        InputError: shapes, devices or layouts that differ or do not fit, or an unknown option.

    16-bit inputs are computed in float32. Under autocast the op runs in the widest dtype among its
    inputs. The same inputs give the same bits, on a CPU with any number of threads. A second
    derivative raises.
    """
    queries, keys, single = _checked(query, key, temperature, negatives, reduction)
    for name, flag in (("detach_key", detach_key), ("exact_cut", exact_cut)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name}: bool expected, got {type(flag).__name__}")
    if not _native.use_native("patch_nce_loss", queries[0]):
        return _reference(queries, keys, single, temperature, negatives, detach_key, reduction,
                          exact_cut)  # fmt: skip
    if not torch.compiler.is_compiling():
        dual: Any = forward_ad.unpack_dual  # torch gives it no types
        for tensor in (*queries, *keys):  # torch would drop the tangent and say nothing
            if dual(tensor).tangent is not None:
                raise RuntimeError("patch_nce_loss has no forward-mode derivative; use backward")
    if detach_key:
        keys = [k.detach() for k in keys]
    options = (float(temperature), negatives == "batch", exact_cut)
    if reduction == "none":
        rows: list[Tensor] = torch.ops.medad_fast.patch_nce_loss_rows(queries, keys, *options)
        return rows[0] if single else rows
    wanted = [
        torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        for tensors in (queries, keys)
    ]
    loss: Tensor = torch.ops.medad_fast.patch_nce_loss(
        queries, keys, *options, reduction == "mean", *wanted
    )[0]
    return loss


def patch_nce_loss_reference(
    query: Tensor | Sequence[Tensor],
    key: Tensor | Sequence[Tensor],
    *,
    temperature: float = 0.07,
    negatives: Negatives = "image",
    detach_key: bool = True,
    reduction: Reduction = "mean",
    exact_cut: bool = False,
) -> Tensor | list[Tensor]:
    """The same in plain torch: what the kernels are tested against and timed against."""
    queries, keys, single = _checked(query, key, temperature, negatives, reduction)
    return _reference(
        queries, keys, single, temperature, negatives, detach_key, reduction, exact_cut
    )


def _reference(
    queries: list[Tensor],
    keys: list[Tensor],
    single: bool,
    temperature: float,
    negatives: Negatives,
    detach_key: bool,
    reduction: Reduction,
    exact_cut: bool,
) -> Tensor | list[Tensor]:
    rows = [
        _reference_rows(
            q, k.detach() if detach_key else k, temperature, negatives == "batch", exact_cut
        )
        for q, k in zip(queries, keys, strict=True)
    ]
    if reduction == "none":
        return rows[0] if single else rows
    return torch.stack([r.mean() if reduction == "mean" else r.sum() for r in rows]).sum()


def _reference_rows(
    query: Tensor, key: Tensor, temperature: float, batch_negatives: bool, exact_cut: bool
) -> Tensor:
    if query.dtype in (torch.float16, torch.bfloat16):
        query, key = query.float(), key.float()
    shape = query.shape[:2]
    if batch_negatives:
        query, key = query.flatten(0, 1)[None], key.flatten(0, 1)[None]
    groups, size = query.shape[:2]
    logits = torch.bmm(query, key.mT)
    target = torch.arange(size, device=query.device)
    if exact_cut:
        diagonal = torch.eye(size, dtype=torch.bool, device=query.device)
        positive = logits.diagonal(dim1=1, dim2=2)[..., None]
        logits = torch.cat([positive, logits.masked_fill(diagonal, _CUT_FILL)], 2)
        target = torch.zeros_like(target)
    logits = logits / temperature
    rows = F.cross_entropy(logits.flatten(0, 1), target.repeat(groups), reduction="none")
    return rows.reshape(shape)


def _checked(
    query: Any, key: Any, temperature: Any, negatives: Any, reduction: Any
) -> tuple[list[Tensor], list[Tensor], bool]:
    """Both sides as lists of layers, of one dtype and device, and whether it was one tensor."""
    single = isinstance(query, Tensor)
    queries = _layers(query, "query")
    keys = _layers(key, "key")
    if single != isinstance(key, Tensor) or len(queries) != len(keys):
        raise InputError(
            f"key: {'one tensor' if single else f'a sequence of {len(queries)}'} expected, as query"
            f" is, got {'one tensor' if isinstance(key, Tensor) else f'a sequence of {len(keys)}'}"
        )
    if isinstance(temperature, bool) or not isinstance(temperature, Real):
        raise TypeError(f"temperature: number expected, got {type(temperature).__name__}")
    if not (math.isfinite(temperature) and float(temperature) > 0):
        raise InputError(f"temperature: positive finite number expected, got {temperature}")
    if negatives not in ("image", "batch"):
        raise InputError(f"negatives: 'image' or 'batch' expected, got {negatives!r}")
    if reduction not in ("mean", "sum", "none"):
        raise InputError(f"reduction: 'mean', 'sum' or 'none' expected, got {reduction!r}")
    queries, keys = _widened_under_autocast(queries, keys)
    first = queries[0]
    for layer, (q, k) in enumerate(zip(queries, keys, strict=True)):
        place = "" if single else f"[{layer}]"
        if q.ndim != 3 or q.shape[2] < 1:
            raise InputError(
                f"query{place}: (B, S, D) with D >= 1 expected, got shape {tuple(q.shape)}"
            )
        if k.shape != q.shape:
            raise InputError(
                f"key{place}: the shape of query, {tuple(q.shape)}, expected, got {tuple(k.shape)}"
            )
        for name, tensor in (("query", q), ("key", k)):
            if tensor.dtype != first.dtype:
                raise TypeError(
                    f"{name}{place}: {first.dtype} as query expected, got {tensor.dtype}"
                )
            if tensor.device != first.device:
                raise InputError(
                    f"{name}{place}: on {first.device} as query expected, got {tensor.device}"
                )
    return queries, keys, single


def _layers(value: Any, name: str) -> list[Tensor]:
    single = isinstance(value, Tensor)
    if not single and not isinstance(value, (list, tuple)):
        raise TypeError(
            f"{name}: tensor or sequence of tensors expected, got {type(value).__name__}"
        )
    layers = [value] if single else list(value)
    if not layers:
        raise InputError(f"{name}: at least one layer expected, got an empty sequence")
    for layer, tensor in enumerate(layers):
        place = name if single else f"{name}[{layer}]"
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{place}: tensor expected, got {type(tensor).__name__}")
        if tensor.dtype not in _DTYPES:
            raise TypeError(
                f"{place}: float32, float64, float16 or bfloat16 expected, got {tensor.dtype}"
            )
        if tensor.layout != torch.strided or tensor.is_nested:
            raise InputError(f"{place}: a dense tensor expected, got layout {tensor.layout}")
    return layers


def _widened_under_autocast(
    queries: list[Tensor], keys: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    if not torch.is_autocast_enabled(queries[0].device.type):
        return queries, keys
    widest = queries[0].dtype
    for tensor in (*queries, *keys):
        widest = torch.promote_types(widest, tensor.dtype)
    return [q.to(widest) for q in queries], [k.to(widest) for k in keys]


def _compute_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _row_shapes(tensors: list[Tensor]) -> list[Tensor]:
    return [t.new_empty(t.shape[:2], dtype=_compute_dtype(t)) for t in tensors]


def _run(
    query: list[Tensor],
    key: list[Tensor],
    weight: list[Tensor],
    options: tuple[float, bool, bool, bool],
    query_gradient: bool,
    key_gradient: bool,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Rows, query gradients and key gradients (empty lists where not wanted)."""
    dtype, device = query[0].dtype, query[0].device
    on_cpu = device.type == "cpu"
    if on_cpu:  # the CPU kernels know float32 and float64
        query, key = ([t.to(_compute_dtype(t)) for t in side] for side in (query, key))
    query, key = ([t.contiguous() for t in side] for side in (query, key))
    weight = [w.to(_compute_dtype(w)).contiguous() for w in weight]
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
    return rows, [g.to(dtype) for g in for_query], [g.to(dtype) for g in for_key]


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
