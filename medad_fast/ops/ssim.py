"""Structural similarity of two images, and its gradient, in one pass.

Source: Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to
structural similarity", IEEE Transactions on Image Processing 13 (2004), equation 13, with the
Gaussian window and the constants 0.01 and 0.03 of section III. SALAD's loss and map.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from medad_fast import _C
from medad_fast.errors import InputError
from medad_fast.ops import _native
from medad_fast.ops._arguments import under_autocast

__all__ = ["ssim", "ssim_reference"]

Padding = Literal["valid", "same"]
Reduction = Literal["mean", "sum", "none"]

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_LARGEST_WINDOW_ON_GPU = 33  # larger ones' tiles do not fit in every GPU's shared memory
_RANGES = (1e-100, 1e100)  # their squares, and products of these, are float64 numbers


def ssim(
    x: Tensor,
    y: Tensor,
    *,
    data_range: float,
    window_size: int = 11,
    sigma: float = 1.5,
    padding: Padding = "valid",
    reduction: Reduction = "mean",
) -> Tensor:
    """Structural similarity under a Gaussian window, each channel on its own.

    Equal images give exactly 1, and nothing ever leaves [-1, 1]. The gradient is formed together
    with the value, for the sides that need it.

    Args:
        x: images ``(B, C, H, W)``, float32, float64, float16 or bfloat16. Any strides.
        y: the same shape, dtype and device.
        data_range: largest minus smallest value that the images may have: 1 for [0, 1], 2 for
            [-1, 1], 255 for 8-bit values. From 1e-100 to 1e100.
        window_size: side of the window, odd.
        sigma: standard deviation of the Gaussian window, in pixels.
        padding: ``"valid"``: only where the whole window lies in the image; ``"same"``: everywhere,
            with zeros around both images.
        reduction: ``"mean"`` or ``"sum"`` over all images, channels and places, or ``"none"`` for
            the map.

    Returns:
        A scalar; with ``"none"`` the map, ``(B, C, H, W)`` for ``"same"`` and smaller by
        ``window_size - 1`` on both axes for ``"valid"``. float64 for float64 images, else float32.
        The mean of no images is NaN, as in torch.

    Raises:
        InputError: shapes, devices or layouts that differ or do not fit, images smaller than the
            window without padding, or an option out of range.
        TypeError: an argument of another type or dtype.

    16-bit images are computed in float32. An infinite or NaN pixel makes every window that it lies
    in NaN. Under autocast nothing is cast down: where dtypes differ, the widest is used. The result
    does not depend on the number of threads, the layout or the rest of the batch. A second
    derivative raises. On a GPU windows of more than 33 pixels are left to plain torch.
    """
    x, y = _checked_images(x, y)
    window_size, sigma, data_range = _checked_window(x, window_size, sigma, data_range, padding)
    if reduction not in ("mean", "sum", "none"):
        raise InputError(f"reduction: 'mean', 'sum' or 'none' expected, got {reduction!r}")
    same = padding == "same"
    too_large = x.is_cuda and window_size > _LARGEST_WINDOW_ON_GPU
    if too_large or not _native.use_native("ssim", x):
        return _reference(x, y, data_range, window_size, sigma, same, reduction)
    if not torch.compiler.is_compiling():
        dual: Any = forward_ad.unpack_dual  # torch gives it no types
        for tensor in (x, y):  # torch would drop the tangent and say nothing
            if dual(tensor).tangent is not None:
                raise RuntimeError("ssim has no forward-mode derivative; use backward")
    options = (data_range, window_size, sigma, same)
    if reduction == "none":
        result: Tensor = torch.ops.medad_fast.ssim_map(x, y, *options)
        return result
    wanted = [torch.is_grad_enabled() and t.requires_grad for t in (x, y)]
    value: Tensor = torch.ops.medad_fast.ssim(x, y, *options, reduction == "mean", *wanted)[0]
    return value


def ssim_reference(
    x: Tensor,
    y: Tensor,
    *,
    data_range: float,
    window_size: int = 11,
    sigma: float = 1.5,
    padding: Padding = "valid",
    reduction: Reduction = "mean",
) -> Tensor:
    """The same in plain torch: what the kernels are tested against."""
    return _reference(x, y, data_range, window_size, sigma, padding == "same", reduction)


def _reference(
    x: Tensor,
    y: Tensor,
    data_range: float,
    window_size: int,
    sigma: float,
    same: bool,
    reduction: Reduction,
) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        if x.dtype != torch.float64:
            x, y = x.float(), y.float()
        total, difference = x + y, x - y
        fields = torch.stack([total, difference, total.square(), difference.square()])
        distance = torch.arange(window_size, dtype=torch.float64, device=x.device)
        window = torch.exp(-0.5 * ((distance - window_size // 2) / sigma).square())
        window = (window / window.sum()).to(x.dtype)
        edge = window_size // 2 if same else 0
        # Planes as a batch of one channel each.
        blurred = fields.reshape(-1, 1, *x.shape[2:])
        blurred = F.conv2d(blurred, window[:, None].expand(1, 1, -1, 1), padding=(edge, 0))
        blurred = F.conv2d(blurred, window.expand(1, 1, 1, -1), padding=(0, edge))
        a, b, square_s, square_d = blurred.reshape(4, *x.shape[:2], *blurred.shape[2:])
        # With the sum and the difference of the images, (2 m_x m_y + C1) / (m_x^2 + m_y^2 + C1) is
        # 1 - b^2 / mean, and the other factor likewise: exactly 1 for equal images.
        mean = (a.square() + b.square()) / 2 + (0.01 * data_range) ** 2
        variance_d = (square_d - b.square()).clamp(min=0)
        variance_s = (square_s - a.square()).clamp(min=0)
        variance = (variance_s + variance_d) / 2 + (0.03 * data_range) ** 2
        values: Tensor = (1 - b.square() / mean) * (1 - variance_d / variance)
        if reduction == "none":
            return values
        return values.mean() if reduction == "mean" else values.sum()


def _checked_images(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    for name, tensor in (("x", x), ("y", y)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: tensor expected, got {type(tensor).__name__}")
        if tensor.dtype not in _DTYPES:
            raise TypeError(
                f"{name}: float32, float64, float16 or bfloat16 expected, got {tensor.dtype}"
            )
        if tensor.layout != torch.strided or tensor.is_nested:
            raise InputError(f"{name}: a dense tensor expected, got layout {tensor.layout}")
    if x.ndim != 4 or x.shape[2] < 1 or x.shape[3] < 1:
        raise InputError(
            f"x: (B, C, H, W) with H and W of at least 1 expected, got shape {tuple(x.shape)}"
        )
    if y.shape != x.shape:
        raise InputError(
            f"y: the shape of x, {tuple(x.shape)}, expected, got shape {tuple(y.shape)}"
        )
    if y.device != x.device:
        raise InputError(f"y: on {x.device} as x expected, got {y.device}")
    if y.dtype != x.dtype:
        if not under_autocast(x):
            raise TypeError(f"y: {x.dtype} as x expected, got {y.dtype}")
        widest = torch.promote_types(x.dtype, y.dtype)
        x, y = x.to(widest), y.to(widest)
    return x, y


def _checked_window(
    x: Tensor, window_size: Any, sigma: Any, data_range: Any, padding: Any
) -> tuple[int, float, float]:
    if isinstance(window_size, bool) or not isinstance(window_size, int):
        raise TypeError(f"window_size: int expected, got {type(window_size).__name__}")
    if not (0 < window_size < 2**31 and window_size % 2 == 1):
        raise InputError(f"window_size: odd positive number expected, got {window_size}")
    for name, value in (("sigma", sigma), ("data_range", data_range)):
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name}: number expected, got {type(value).__name__}")
    if not (math.isfinite(sigma) and float(sigma) > 0):
        raise InputError(f"sigma: positive finite number expected, got {sigma}")
    if not _RANGES[0] <= float(data_range) <= _RANGES[1]:
        raise InputError(
            f"data_range: number from {_RANGES[0]:.0e} to {_RANGES[1]:.0e} expected, "
            f"got {data_range}"
        )
    if padding not in ("valid", "same"):
        raise InputError(f"padding: 'valid' or 'same' expected, got {padding!r}")
    if padding == "valid" and min(x.shape[2], x.shape[3]) < window_size:
        raise InputError(
            f"x: H and W of at least window_size, {window_size}, expected without padding, "
            f"got shape {tuple(x.shape)}"
        )
    return window_size, float(sigma), float(data_range)


def _compute_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _map_shape(x: Tensor, window_size: int, same: bool) -> list[int]:
    less = 0 if same else window_size - 1
    return [x.shape[0], x.shape[1], x.shape[2] - less, x.shape[3] - less]


def _run(
    x: Tensor,
    y: Tensor,
    options: tuple[float, int, float, bool],
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
