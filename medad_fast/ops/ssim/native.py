"""``ssim`` as torch knows it: kernels, shapes for tracing, gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medad_fast.ops import _native
from medad_fast.ops._arguments import compute_dtype
from medad_fast.ops.ssim import reference

Options = tuple[float, int, float, bool]  # data_range, window_size, sigma, same
Sides = tuple[Tensor | None, Tensor | None]


def _run(
    x: Tensor,
    y: Tensor,
    options: Options,
    *,
    map_: Tensor | None = None,
    total: Tensor | None = None,
    scale: float = 1.0,
    upstream: Tensor | None = None,
    weight: float = 1.0,
    formed: Sides = (None, None),
) -> None:
    scratch = None
    if x.is_cuda:  # a number for each tile of the padded images, of at least 8 x 8
        edge = options[1] - 1 if options[3] else 0
        tiles = math.prod((size + edge + 7) // 8 for size in x.shape[2:])
        scratch = x.new_empty(x.shape[0] * x.shape[1] * tiles, dtype=torch.float64)
    results = (map_, total, scale, upstream, weight, *formed)
    _native.call(_native.kernels.ssim, x.device, x, y, *options, *results, scratch)


def _new_gradients(x: Tensor, y: Tensor, wanted: Sequence[bool]) -> list[Tensor]:
    return [torch.empty_like(t) for t, wish in zip((x, y), wanted, strict=True) if wish]


def _sides(formed: list[Tensor], wanted: Sequence[bool]) -> Sides:
    return formed[0] if wanted[0] else None, formed[-1] if wanted[1] else None


def _value_kernel(x: Tensor, y: Tensor, *options: Any) -> tuple[Tensor, list[Tensor]]:
    data_range, window_size, sigma, same, mean, *wanted = options
    value, formed = _value_shapes(x, y, *options)
    places = math.prod(_map_shape(x, window_size, same))
    scale = 1.0 if not mean else 1.0 / places if places else math.nan
    window, sides = (data_range, window_size, sigma, same), _sides(formed, wanted)
    _run(x, y, window, total=value, scale=scale, weight=scale, formed=sides)
    return value, formed


def _value_shapes(x: Tensor, y: Tensor, *options: Any) -> tuple[Tensor, list[Tensor]]:
    return x.new_empty((), dtype=compute_dtype(x)), _new_gradients(x, y, options[5:])


def _map_kernel(x: Tensor, y: Tensor, *options: Any) -> Tensor:
    out = _map_shapes(x, y, *options)
    _run(x, y, options, map_=out)
    return out


def _map_shape(x: Tensor, window_size: int, same: bool) -> list[int]:
    less = 0 if same else window_size - 1
    return [x.shape[0], x.shape[1], x.shape[2] - less, x.shape[3] - less]


def _map_shapes(x: Tensor, y: Tensor, *options: Any) -> Tensor:
    return x.new_empty(_map_shape(x, options[1], options[3]), dtype=compute_dtype(x))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, y, *ctx.options = inputs
    ctx.save_for_backward(x, y)


def _backward(ctx: Any, upstream: Tensor) -> Any:
    wanted = ctx.needs_input_grad[:2]
    formed = _map_backward(upstream, *ctx.saved_tensors, *ctx.options, *wanted)
    return *_sides(formed, wanted), *(None,) * 4


def _backward_kernel(upstream: Tensor, x: Tensor, y: Tensor, *options: Any) -> list[Tensor]:
    formed = _backward_shapes(upstream, x, y, *options)
    sides = _sides(formed, options[4:])
    _run(x, y, options[:4], upstream=upstream.contiguous(), formed=sides)
    return formed


def _backward_shapes(upstream: Tensor, x: Tensor, y: Tensor, *options: Any) -> list[Tensor]:
    return _new_gradients(x, y, options[4:])


_ARGUMENTS = "Tensor x, Tensor y, float data_range, SymInt window_size, float sigma, bool same"

value = _native.register_with_gradient(
    f"ssim({_ARGUMENTS}, bool mean)",
    kernel=_value_kernel,
    shapes=_value_shapes,
    reference=reference.value,
)
similarity_map = _native.register(
    f"ssim_map({_ARGUMENTS}) -> Tensor",
    kernel=_map_kernel,
    shapes=_map_shapes,
    backward=_backward,
    save=_save,
    reference=reference.similarity_map,
    op="ssim",
)
_map_backward = _native.declare(
    f"ssim_map_backward(Tensor upstream, {_ARGUMENTS}, bool to_x, bool to_y) -> Tensor[]",
    kernel=_backward_kernel,
    shapes=_backward_shapes,
)
