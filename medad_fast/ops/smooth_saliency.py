"""Where the gradient of a score says that an image is abnormal: CRADL's pixel score.

Source: Lueth et al., "CRADL: Contrastive Representations for Unsupervised Anomaly Detection and
Localization", arXiv 2301.02126 (2023), in the form of the group's released code: magnitude of the
gradient, inside the body only, 5x5 median, Gaussian.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medad_fast.errors import InputError
from medad_fast.ops import _native
from medad_fast.ops._arguments import check_alike, check_tensor, compute_dtype, one_dtype

_MEDIAN = 5
_GAUSSIAN = 7
_SIGMA = 3.0


def smooth_saliency(gradient: Tensor, image: Tensor) -> Tensor:
    """``gaussian_7x7(median_5x5(abs(gradient) * (image != 0)))``, of one image or many.

    Args:
        gradient: of a score by the image, ``(B, C, H, W)``; float32, float64, float16 or bfloat16,
            any strides (rows that are not contiguous are copied first).
        image: of the same shape; where it is exactly 0 there is no body, and no saliency.

    Returns:
        ``(B, 1, H, W)``, not negative, in the gradient's unit; float64 for float64 inputs, else
        float32. The median reflects at the border, not repeating the edge; the Gaussian, of sigma
        3 and sum 1, finds 0 beyond it. Of several channels each pixel takes the largest value.

        A NaN in the gradient, or an infinite gradient where the image is 0, gives NaN in the
        windows that it is in: 11x11 pixels. NaN in the image counts as body.

    Raises:
        InputError: shapes, dtypes or devices that do not fit each other, or no channels.
        TypeError: an argument that is not a tensor.

    There is no gradient: asking for one raises RuntimeError. Under autocast nothing is cast down:
    where dtypes differ, both are cast to the wider. The result does not depend on the number of
    threads, the layout or the rest of the batch.
    """
    check_tensor(gradient, "gradient", "(B, C, H, W)")
    check_tensor(image, "image", "(B, C, H, W)")
    if gradient.shape[1] == 0:
        raise InputError(f"gradient: at least one channel expected, got {tuple(gradient.shape)}")
    check_alike(image, "image", gradient, "gradient")
    return _smooth_saliency(*one_dtype([gradient, image]))


def smooth_saliency_reference(gradient: Tensor, image: Tensor) -> Tensor:
    """The same in plain torch: what the kernels are tested against."""
    if gradient.dtype != torch.float64:
        gradient, image = gradient.float(), image.float()
    saliency = (gradient.abs() * (image != 0)).amax(1, keepdim=True)
    if saliency.numel() == 0:
        return saliency
    return _smoothed(_smoothed(_median(saliency), 2), 3)


def _median(saliency: Tensor) -> Tensor:
    """Over 5x5, reflected at the border, also where the image is smaller than the window."""
    height, width = saliency.shape[2:]
    rows, columns = (_reflected(size).to(saliency.device) for size in (height, width))
    padded = saliency.index_select(2, rows).index_select(3, columns)
    windows = padded.unfold(2, _MEDIAN, 1).unfold(3, _MEDIAN, 1)
    return windows.flatten(-2).median(-1).values


def _reflected(size: int) -> Tensor:
    reach = _MEDIAN // 2
    period = max(2 * (size - 1), 1)
    place = torch.arange(-reach, size + reach).abs() % period
    return torch.where(place < size, place, period - place)


def _smoothed(saliency: Tensor, axis: int) -> Tensor:
    reach, size = _GAUSSIAN // 2, saliency.shape[axis]
    taps = [math.exp(-0.5 * (k / _SIGMA) ** 2) for k in range(-reach, reach + 1)]
    margin = [0, 0, reach, reach] if axis == 2 else [reach, reach]
    padded = torch.nn.functional.pad(saliency, margin)
    parts = [tap / sum(taps) * padded.narrow(axis, k, size) for k, tap in enumerate(taps)]
    return torch.stack(parts).sum(0)


def _shapes(gradient: Tensor, image: Tensor) -> Tensor:
    batch, _, height, width = gradient.shape
    return gradient.new_empty((batch, 1, height, width), dtype=compute_dtype(gradient))


def _contiguous_rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.shape[3] == 1 or tensor.stride(3) == 1 else tensor.contiguous()


def _kernel(gradient: Tensor, image: Tensor) -> Tensor:
    out = _shapes(gradient, image)
    rows = _contiguous_rows(gradient), _contiguous_rows(image)
    _native.call(_native.kernels.smooth_saliency, out.device, *rows, out)
    return out


_smooth_saliency = _native.register(
    "smooth_saliency(Tensor gradient, Tensor image) -> Tensor",
    kernel=_kernel,
    shapes=_shapes,
    reference=smooth_saliency_reference,
)
