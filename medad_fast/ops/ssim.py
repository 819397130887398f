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

from medad_fast.errors import InputError
from medad_fast.ops import _native, _ssim
from medad_fast.ops._arguments import check_alike, check_tensor, one_dtype

__all__ = ["ssim", "ssim_reference"]

Padding = Literal["valid", "same"]
Reduction = Literal["mean", "sum", "none"]

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
        InputError: shapes, dtypes, devices or layouts that differ or do not fit, images smaller
            than the window without padding, or an option out of range.
        TypeError: an argument of another type.

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
        return _ssim.similarity_map(x, y, options)
    return _ssim.value(x, y, options, mean=reduction == "mean")


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


def _checked_images(x: Any, y: Any) -> list[Tensor]:
    for name, tensor in (("x", x), ("y", y)):
        check_tensor(tensor, name, "(B, C, H, W)")
    if x.shape[2] < 1 or x.shape[3] < 1:
        raise InputError(f"x: H and W of at least 1 expected, got {tuple(x.shape)}")
    if y.shape != x.shape:
        raise InputError(f"y: {tuple(x.shape)} expected, as x, got {tuple(y.shape)}")
    check_alike(y, "y", x, "x")
    return one_dtype([x, y])


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
