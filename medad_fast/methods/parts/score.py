"""From anomaly maps to a prediction: the tail that all methods share.

Maps are smoothed, held against those of normal images where a method does that, black pixels are
set to 0 where the settings ask for it, and one number is taken from each map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from medad_fast.methods.base import Prediction

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


def as_prediction(
    maps: Tensor,
    images: Tensor | None,
    config: Any,
    *,
    normals: Callable[[Tensor], Tensor] | None = None,
    own: Mapping[str, Callable[[], Tensor]] | None = None,
) -> Prediction:
    """Finish maps as :func:`finish_maps` does, to one an image, and score the images.

    ``config.image_score`` names one of the method's ``own`` scores, which is then computed, to
    ``(B)``; or else a rule of :func:`score_images`.
    """
    maps = finish_maps(maps, images, config, normals)
    score = (own or {}).get(config.image_score, lambda: score_images(maps, config))
    return Prediction(score(), maps)


def finish_maps(
    maps: Tensor,
    images: Tensor | None,
    config: Any,
    normals: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Smooth maps, hold them against those of normal images, and mask them.

    Args:
        maps: ``(B, count, H, W)``.
        images: ``(B, C, H, W)``; None where the maps are masked already.
        config: a method's, of which ``map_smoothing`` and ``mask_background`` are read.
        normals: such as ``NormalMaps``; None compares with nothing.

    Returns:
        float32 ``(B, count, H, W)``, or as many maps as ``normals`` makes of them.
    """
    maps = smooth(maps.float(), config.map_smoothing)
    if normals is not None:
        maps = normals(maps)
    if config.mask_background and images is not None:
        maps = maps * foreground(images)
    return maps


def score_images(maps: Tensor, config: Any) -> Tensor:
    """Maps ``(B, 1, H, W)`` to scores ``(B)`` by the rule ``image_score``.

    ``topk`` is the mean of the ``top_k`` largest values, or of all where there are fewer;
    ``quantile`` the largest value that at most a share of ``1 - quantile`` of the pixels exceeds.
    """
    flat = maps.flatten(1)
    if config.image_score == "max":
        return flat.amax(dim=1)
    if config.image_score == "mean":
        return flat.mean(dim=1)
    pixels = flat.shape[1]
    if config.image_score == "topk":
        return flat.topk(min(config.top_k, pixels), dim=1).values.mean(dim=1)
    above = int((1.0 - config.quantile) * pixels)
    return torch.kthvalue(flat, pixels - min(above, pixels - 1), dim=1).values
