"""Structural similarity of two images, and its gradient, in one pass.

Source: Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to
structural similarity", IEEE Transactions on Image Processing 13 (2004), equation 13, with the
Gaussian window and the constants 0.01 and 0.03 of section III. SALAD's loss and map.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from medad_fast.errors import InputError
from medad_fast.ops._arguments import (
    check_alike,
    check_choice,
    check_number,
    check_positive,
    check_tensor,
    one_dtype,
)
from medad_fast.ops.ssim import native, reference

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
    _check_window(x, window_size, sigma, data_range, padding)
    check_choice(reduction, "reduction", ("mean", "sum", "none"))
    too_large = x.is_cuda and window_size > _LARGEST_WINDOW_ON_GPU
    forms: Any = reference if too_large else native
    return _run(forms, x, y, float(data_range), window_size, float(sigma), padding, reduction)


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
    return _run(reference, x, y, data_range, window_size, sigma, padding, reduction)


def _run(
    forms: Any,
    x: Tensor,
    y: Tensor,
    data_range: float,
    window_size: int,
    sigma: float,
    padding: Padding,
    reduction: Reduction,
) -> Tensor:
    """The map or the value by ``forms.similarity_map`` and ``forms.value``."""
    options = (data_range, window_size, sigma, padding == "same")
    if reduction == "none":
        similarity: Tensor = forms.similarity_map(x, y, *options)
        return similarity
    value: Tensor = forms.value(x, y, *options, reduction == "mean")
    return value


def _checked_images(x: Any, y: Any) -> list[Tensor]:
    for name, tensor in (("x", x), ("y", y)):
        check_tensor(tensor, name, "(B, C, H, W)")
    if x.shape[2] < 1 or x.shape[3] < 1:
        raise InputError(f"x: H and W of at least 1 expected, got {tuple(x.shape)}")
    check_alike(y, "y", x, "x")
    return one_dtype([x, y])


def _check_window(x: Tensor, window_size: Any, sigma: Any, data_range: Any, padding: Any) -> None:
    if isinstance(window_size, bool) or not isinstance(window_size, int):
        raise TypeError(f"window_size: int expected, got {type(window_size).__name__}")
    if not (0 < window_size < 2**31 and window_size % 2 == 1):
        raise InputError(f"window_size: odd positive number expected, got {window_size}")
    check_positive(sigma, "sigma")
    check_number(data_range, "data_range")
    if not _RANGES[0] <= float(data_range) <= _RANGES[1]:
        raise InputError(
            f"data_range: number from {_RANGES[0]:.0e} to {_RANGES[1]:.0e} expected, "
            f"got {data_range}"
        )
    check_choice(padding, "padding", ("valid", "same"))
    if padding == "valid" and min(x.shape[2], x.shape[3]) < window_size:
        raise InputError(
            f"x: H and W of at least window_size, {window_size}, expected without padding, "
            f"got shape {tuple(x.shape)}"
        )
