"""The registered ops behind ``ssim``: kernels, shapes for tracing, gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from medad_fast import _C
from medad_fast.ops import _native

__all__ = ["similarity_map", "value"]

Options = tuple[float, int, float, bool]  # data_range, window_size, sigma, same


def value(x: Tensor, y: Tensor, options: Options, *, mean: bool) -> Tensor:
    """The mean or the sum over all places, with the gradients that are wanted."""
    wanted = [torch.is_grad_enabled() and t.requires_grad for t in (x, y)]
    result: Tensor = torch.ops.medad_fast.ssim(x, y, *options, mean, *wanted)[0]
    return result


def similarity_map(x: Tensor, y: Tensor, options: Options) -> Tensor:
    result: Tensor = torch.ops.medad_fast.ssim_map(x, y, *options)
    return result


def _compute_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _map_shape(x: Tensor, window_size: int, same: bool) -> list[int]:
    less = 0 if same else window_size - 1
    return [x.shape[0], x.shape[1], x.shape[2] - less, x.shape[3] - less]


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
    formed: tuple[Tensor | None, Tensor | None] = (None, None),
) -> None:
    nothing = torch.empty(0, dtype=x.dtype)
    tensors = [t if t is not None else nothing for t in (map_, total, upstream, *formed)]
    _native.call(
        _C.ssim,
        x.device,
        x,
        y,
        *options,
        tensors[0],
        tensors[1],
        scale,
        tensors[2],
        weight,
        tensors[3],
        tensors[4],
        _scratch(x, nothing, window_size=options[1], same=options[3]),
    )


def _scratch(x: Tensor, nothing: Tensor, *, window_size: int, same: bool) -> Tensor:
    """On the GPU a number for each tile of the padded images, of at least 8 x 8."""
    if not x.is_cuda:
        return nothing
    edge = window_size - 1 if same else 0
    tiles = math.prod((size + edge + 7) // 8 for size in x.shape[2:])
    return x.new_empty(x.shape[0] * x.shape[1] * tiles, dtype=torch.float64)


def _new_gradients(x: Tensor, y: Tensor, to_x: bool, to_y: bool) -> list[Tensor]:
    return [torch.empty_like(t) for t, wanted in ((x, to_x), (y, to_y)) if wanted]


def _sides(formed: list[Tensor], to_x: bool, to_y: bool) -> tuple[Tensor | None, Tensor | None]:
    return formed[0] if to_x else None, formed[-1] if to_y else None


def _value(
    x: Tensor,
    y: Tensor,
    data_range: float,
    window_size: int,
    sigma: float,
    same: bool,
    mean: bool,
    to_x: bool,
    to_y: bool,
) -> tuple[Tensor, list[Tensor]]:
    places = math.prod(_map_shape(x, window_size, same))
    scale = 1.0 if not mean else 1.0 / places if places else math.nan
    value = x.new_empty((), dtype=_compute_dtype(x))
    formed = _new_gradients(x, y, to_x, to_y)
    _run(
        x,
        y,
        (data_range, window_size, sigma, same),
        total=value,
        scale=scale,
        weight=scale,
        formed=_sides(formed, to_x, to_y),
    )
    return value, formed


def _value_shapes(
    x: Tensor,
    y: Tensor,
    data_range: float,
    window_size: int,
    sigma: float,
    same: bool,
    mean: bool,
    to_x: bool,
    to_y: bool,
) -> tuple[Tensor, list[Tensor]]:
    return x.new_empty((), dtype=_compute_dtype(x)), _new_gradients(x, y, to_x, to_y)


def _save_formed(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, y, *_, to_x, to_y = inputs
    formed = output[1]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*formed)
    ctx.save_for_backward(x, y, *formed)
    ctx.wanted = to_x, to_y


def _gradients(ctx: Any, upstream: Tensor | None, *unused: Any) -> Any:
    x, y, *formed = ctx.saved_tensors
    sides: tuple[Tensor | None, Tensor | None] = None, None
    if upstream is not None and formed:
        if torch.is_grad_enabled():  # as an op that refuses to be differentiated once more
            formed = torch.ops.medad_fast.ssim_scale(formed, upstream, [x, y])
        elif not _native.is_one(upstream):
            formed = _scale(formed, upstream, [])
        sides = _sides(formed, *ctx.wanted)
    return *sides, *(None,) * 7


def _scale(formed: list[Tensor], upstream: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return [gradient * upstream.to(gradient.dtype) for gradient in formed]


def _scale_shapes(formed: list[Tensor], upstream: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return [torch.empty_like(gradient) for gradient in formed]


def _map(
    x: Tensor, y: Tensor, data_range: float, window_size: int, sigma: float, same: bool
) -> Tensor:
    out = _map_shapes(x, y, data_range, window_size, sigma, same)
    _run(x, y, (data_range, window_size, sigma, same), map_=out)
    return out


def _map_shapes(
    x: Tensor, y: Tensor, data_range: float, window_size: int, sigma: float, same: bool
) -> Tensor:
    return x.new_empty(_map_shape(x, window_size, same), dtype=_compute_dtype(x))


def _save_images(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, y, *ctx.options = inputs
    ctx.save_for_backward(x, y)


def _map_gradients(ctx: Any, upstream: Tensor) -> Any:
    wanted = ctx.needs_input_grad[:2]
    formed = torch.ops.medad_fast.ssim_map_backward(
        upstream, *ctx.saved_tensors, *ctx.options, *wanted
    )
    return *_sides(formed, *wanted), *(None,) * 4


def _map_backward(
    upstream: Tensor,
    x: Tensor,
    y: Tensor,
    data_range: float,
    window_size: int,
    sigma: float,
    same: bool,
    to_x: bool,
    to_y: bool,
) -> list[Tensor]:
    formed = _new_gradients(x, y, to_x, to_y)
    _run(
        x,
        y,
        (data_range, window_size, sigma, same),
        upstream=upstream.contiguous(),
        formed=_sides(formed, to_x, to_y),
    )
    return formed


def _map_backward_shapes(
    upstream: Tensor,
    x: Tensor,
    y: Tensor,
    data_range: float,
    window_size: int,
    sigma: float,
    same: bool,
    to_x: bool,
    to_y: bool,
) -> list[Tensor]:
    return _new_gradients(x, y, to_x, to_y)


_OPTIONS = "float data_range, SymInt window_size, float sigma, bool same"

_native.register(
    f"ssim(Tensor x, Tensor y, {_OPTIONS}, bool mean, bool to_x, bool to_y) "
    "-> (Tensor value, Tensor[] formed)",
    forward=_value,
    shapes=_value_shapes,
    backward=_gradients,
    save=_save_formed,
)
_native.register(
    "ssim_scale(Tensor[] formed, Tensor upstream, Tensor[] inputs) -> Tensor[]",
    forward=_scale,
    shapes=_scale_shapes,
    backward=None,
)
_native.register(
    f"ssim_map(Tensor x, Tensor y, {_OPTIONS}) -> Tensor",
    forward=_map,
    shapes=_map_shapes,
    backward=_map_gradients,
    save=_save_images,
)
_native.register(
    f"ssim_map_backward(Tensor upstream, Tensor x, Tensor y, {_OPTIONS}, bool to_x, bool to_y) "
    "-> Tensor[]",
    forward=_map_backward,
    shapes=_map_backward_shapes,
    backward=None,
)
