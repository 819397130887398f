"""How unusual a map is at a place, or a term of a score, measured on normal images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from medad_fast.methods.parts.score import smooth

WINDOW = 7  # pixels: images lie alike only so far
FLOOR = 0.5  # of a map's typical deviation: places that hardly vary do not outweigh all others
CONSTANT = 1e-6  # of a term's size: less variation than this is rounding


class NormalMaps(nn.Module):
    """By how much maps exceed what they are at a place in normal images.

    For images that lie alike, as slices of heads do. Until :meth:`fit` has run, the mean is 0 and
    the deviation 1 everywhere.

    Args:
        count: how many maps an image has.
        image_size: their side.
        margin: this many standard deviations above the mean are still normal.
        add_up: add up the standardised maps of an image first, to one.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, count: int, image_size: int, margin: float, *, add_up: bool = False) -> None:
        super().__init__()
        self.margin, self.add_up = margin, add_up
        self.register_buffer("mean", torch.zeros(1, count, image_size, image_size))
        self.register_buffer("scale", torch.ones(1, count, image_size, image_size))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Learn from the maps ``(B, count, H, W)`` of all normal training images.

        Not of the validation images: their scores set thresholds, and must be like new ones.
        """
        mean, deviation = _mean_and_deviation(batches, self.mean)
        deviation = smooth(deviation, WINDOW)
        typical = deviation.mean(dim=(2, 3), keepdim=True)
        scale = deviation + FLOOR * typical
        self.mean.copy_(smooth(mean, WINDOW))
        self.scale.copy_(torch.where(typical > 0, scale, 1.0))

    def forward(self, maps: Tensor) -> Tensor:
        """Maps ``(B, count, H, W)`` to ``(B, count, H, W)``, or ``(B, 1, H, W)`` added up."""
        maps = (maps - self.mean) / self.scale
        if self.add_up:
            maps = maps.sum(dim=1, keepdim=True)
        return (maps - self.margin).clamp(min=0)


class NormalTerms(nn.Module):
    """Mean and spread of each term of a score, so that terms of any scale can be added up.

    Until :meth:`fit` has run, terms pass through unchanged.

    Args:
        count: how many terms a score has.
    """

    mean: Tensor
    gain: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("gain", torch.ones(count))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> Tensor:
        """Learn from the terms ``(N, count)`` of normal images.

        Returns:
            Bool ``(count)``: terms that do not vary. They keep their own unit.
        """
        mean, deviation = _mean_and_deviation(batches, self.mean)
        constant = ~(deviation > CONSTANT * mean.abs())
        self.mean.copy_(mean)
        self.gain.copy_(torch.where(constant, 1.0, 1 / deviation))
        return constant

    def forward(self, terms: Tensor) -> Tensor:
        """Terms ``(B, count)`` in standard deviations from what is normal."""
        return (terms - self.mean) * self.gain


def _mean_and_deviation(batches: Iterable[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """Over the first axis of all batches: float64, of the shape and on the device of ``like``."""
    total = torch.zeros_like(like, dtype=torch.float64)
    squares, count = torch.zeros_like(total), 0
    for rows in batches:
        total += rows.double().sum(dim=0)
        squares += rows.double().square().sum(dim=0)
        count += len(rows)
    mean = total / count
    return mean, (squares / count - mean.square()).clamp(min=0).sqrt()
