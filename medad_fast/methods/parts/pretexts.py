"""Tasks that normal images set by themselves: damage or noise to be repaired, turns to be told.

All of it is made on the images' device. Source of the damage: Zhou et al., "Models Genesis",
Medical Image Analysis 67 (2021): intensities bent by a monotone Bezier curve, pixels shuffled
within small blocks, random boxes filled with noise, or all but random boxes. Source of the turns:
Gidaris et al., "Unsupervised representation learning by predicting image rotations", ICLR 2018. Of
the coarse noise: Kascenas et al., "Denoising autoencoders for unsupervised anomaly detection in
brain MRI", MIDL 2022.

Departs: a shuffled pixel is drawn from its block with replacement, from a regular grid of blocks of
random size and offset, where the source permutes thousands of random blocks one after the other on
the host. This needs no loop over blocks or images.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Corruption = Literal["intensity", "shuffle", "inner_fill", "outer_fill"]

BOXES = 5  # at most
GOES_ON = 0.95  # chance of a further box
LARGEST_BLOCK = 10  # a shuffled block is at most a tenth of the image
CURVE_POINTS = 65


def corrupt(images: Tensor, kinds: Collection[Corruption], probability: float) -> Tensor:
    """Images ``(B, C, H, W)`` in [-1, 1], damaged.

    Args:
        images: any float dtype; left as they are.
        kinds: what may happen to an image. Of ``inner_fill`` and ``outer_fill`` an image gets one,
            each as often as the other where both are given.
        probability: of the bent intensities, of the shuffled pixels and of the fill, each drawn
            for each image by itself.

    Returns:
        Another tensor of the same shape, range and dtype.
    """
    damaged = images.clone()
    if "intensity" in kinds:
        damaged = torch.where(_chosen(images, probability), bend_intensities(damaged), damaged)
    if "shuffle" in kinds:
        damaged = torch.where(_chosen(images, probability), shuffle_pixels(damaged), damaged)
    if "inner_fill" in kinds or "outer_fill" in kinds:
        filled = _chosen(images, probability) & _fill_mask(images, kinds)
        damaged = torch.where(filled, 2 * torch.rand_like(images) - 1, damaged)
    return damaged


def add_noise(images: Tensor, sigma: float, resolution: Sequence[int]) -> Tensor:
    """Images ``(B, C, H, W)`` in [-1, 1] with Gaussian noise, kept in that range.

    Args:
        images: any float dtype.
        sigma: standard deviation; of enlarged grids it is that of their points, so less between.
        resolution: sides of the grids on which noise is drawn, enlarged and added up, equally
            strong; none: noise per pixel.
    """
    if not resolution:
        return (images + sigma * torch.randn_like(images)).clamp(-1, 1)
    size = (images.shape[-2], images.shape[-1])
    noise = torch.zeros_like(images)
    for side in resolution:
        grid = images.new_empty(*images.shape[:2], side, side).normal_()
        noise += F.interpolate(grid, size=size, mode="bilinear", align_corners=False)
    return (images + sigma / math.sqrt(len(resolution)) * noise).clamp(-1, 1)


def quarter_turns(images: Tensor) -> Tensor:
    """Images ``(B, C, H, H)`` turned by 0 to 3 quarter turns: ``(4, B, C, H, H)``."""
    return torch.stack([torch.rot90(images, turns, (2, 3)) for turns in range(4)])


def bend_intensities(images: Tensor) -> Tensor:
    """Each image through a rising curve of its own that keeps -1 and 1."""
    count, device = len(images), images.device
    t = torch.linspace(0, 1, CURVE_POINTS, device=device)
    weights = torch.stack([3 * (1 - t).square() * t, 3 * (1 - t) * t.square()])
    # As the source sorts them; any two control points in the unit square give a rising curve.
    across, up = torch.rand(2, count, 2, device=device).sort(dim=-1).values @ weights + t.pow(3)
    levels = (images.float().flatten(1) / 2 + 0.5).clamp(0, 1)
    right = torch.searchsorted(across.contiguous(), levels).clamp(1, CURVE_POINTS - 1)
    left = right - 1
    x0, x1 = across.gather(1, left), across.gather(1, right)
    y0, y1 = up.gather(1, left), up.gather(1, right)
    share = ((levels - x0) / (x1 - x0).clamp(min=1e-6)).clamp(0, 1)
    bent: Tensor = 2 * (y0 + share * (y1 - y0)) - 1
    return bent.reshape(images.shape).to(images.dtype)


def shuffle_pixels(images: Tensor) -> Tensor:
    """Each pixel becomes one of its own block, the same for all channels."""
    count, device = len(images), images.device
    places = []
    for size, at in _axes(images):
        block = _whole(2, max(size // LARGEST_BLOCK, 2), (count, 1, 1), device)
        offset = (torch.rand(count, 1, 1, device=device) * block).long()
        start = torch.div(at + offset, block, rounding_mode="floor") * block - offset
        drawn = torch.rand(count, *images.shape[2:], device=device)
        places.append((start + (drawn * block).long()).clamp(0, size - 1))
    flat = places[0] * images.shape[3] + places[1]
    index = flat[:, None].expand_as(images).flatten(2)
    return images.flatten(2).gather(2, index).reshape(images.shape)


def _fill_mask(images: Tensor, kinds: Collection[Corruption]) -> Tensor:
    """Bool ``(B, 1, H, W)``: what noise replaces."""
    side = min(images.shape[2:])
    fills = []
    if "inner_fill" in kinds:
        fills.append(_boxes(images, max(side // 6, 1), max(side // 3, 1)))
    if "outer_fill" in kinds:
        fills.append(~_boxes(images, side - 4 * side // 7, side - 3 * side // 7))
    return fills[0] if len(fills) == 1 else torch.where(_chosen(images, 0.5), fills[0], fills[1])


def _boxes(images: Tensor, smallest: int, largest: int) -> Tensor:
    """Bool ``(B, 1, H, W)``: the union of one to five random boxes inside each image."""
    count, device = len(images), images.device
    union = torch.zeros(count, 1, *images.shape[2:], dtype=torch.bool, device=device)
    alive = torch.ones(count, 1, 1, 1, dtype=torch.bool, device=device)
    for box in range(BOXES):
        if box > 0:
            alive = alive & (torch.rand(count, 1, 1, 1, device=device) < GOES_ON)
        inside = alive
        for size, at in _axes(images):
            length = _whole(smallest, largest, (count, 1, 1, 1), device)
            start = (torch.rand(count, 1, 1, 1, device=device) * (size - length + 1)).long()
            inside = inside & (at >= start) & (at < start + length)
        union = union | inside
    return union


def _axes(images: Tensor) -> list[tuple[int, Tensor]]:
    """Size and coordinates of the rows ``(H, 1)`` and of the columns ``(W)``."""
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device)[:, None]
    return [(height, rows), (width, torch.arange(width, device=images.device))]


def _whole(smallest: int, largest: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.randint(smallest, largest + 1, shape, device=device)


def _chosen(images: Tensor, probability: float) -> Tensor:
    return torch.rand(len(images), 1, 1, 1, device=images.device) < probability
