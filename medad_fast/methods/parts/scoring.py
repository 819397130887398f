"""From an anomaly map to one number per image, and which pixels of an image are not background."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from medad_fast.methods.base import Prediction

__all__ = ["ImageScore", "foreground", "judge", "score_images", "smooth"]

ImageScore = Literal["max", "mean", "topk", "quantile"]

BLACK = -1.0 + 1.0 / 127.5  # one grey level of an 8-bit picture above the darkest


def foreground(images: Tensor) -> Tensor:
    """Images ``(B, C, H, W)`` in [-1, 1] to bool ``(B, 1, H, W)``: any channel is not black."""
    return images.amax(dim=1, keepdim=True) > BLACK


def smooth(maps: Tensor, window: int) -> Tensor:
    """Mean over an odd ``window`` of pixels; at the border over those inside the map."""
    if window == 1:
        return maps
    return F.avg_pool2d(maps, window, stride=1, padding=window // 2, count_include_pad=False)


def judge(maps: Tensor, images: Tensor, config: Any) -> Prediction:
    """Smooth and mask maps ``(B, 1, H, W)`` and score their images, as the configuration says."""
    maps = smooth(maps.float(), config.map_smoothing)
    if config.mask_background:
        maps = maps * foreground(images)
    rule = config.image_score
    return Prediction(score_images(maps, rule, top_k=config.top_k, quantile=config.quantile), maps)


def score_images(maps: Tensor, rule: ImageScore, *, top_k: int, quantile: float) -> Tensor:
    """Maps ``(B, 1, H, W)`` to scores ``(B)``.

    ``topk`` is the mean of the ``top_k`` largest values, or of all where there are fewer;
    ``quantile`` the largest value that at most a share of ``1 - quantile`` of the pixels exceeds.
    """
    flat = maps.flatten(1)
    if rule == "max":
        return flat.amax(dim=1)
    if rule == "mean":
        return flat.mean(dim=1)
    pixels = flat.shape[1]
    if rule == "topk":
        return flat.topk(min(top_k, pixels), dim=1).values.mean(dim=1)
    above = int((1.0 - quantile) * pixels)
    return torch.kthvalue(flat, pixels - min(above, pixels - 1), dim=1).values
