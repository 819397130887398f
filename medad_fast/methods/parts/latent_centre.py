"""The centre that codes of normal images are pulled to, and the guards against a collapse.

A network that may choose its centre, or whose centre is the code that zero weights give, lowers a
centre loss by giving every image the same code. Three things prevent that: the centre is the
mean of what the network gave before the pull began, its entries keep a distance from zero, and a
hinge asks the codes of a batch to differ. Source of the first two: Ruff et al., "Deep one-class
classification", ICML 2018, and its code; of the hinge: Bardes et al., "VICReg", ICLR 2022.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOMENTUM = 0.99
ROUNDING = 1e-12  # of a sum of squares in float64
TINY = 1e-8  # keeps the slope of a square root finite


class LatentCentre(nn.Module):
    """A running mean of codes, with entries of at least ``margin`` in size.

    Args:
        size: of a code.
        margin: entries nearer to zero are moved to it, away from zero.
    """

    mean: Tensor
    weight: Tensor

    def __init__(self, size: int, margin: float) -> None:
        super().__init__()
        self.margin = margin
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("weight", torch.zeros(()))

    @torch.no_grad()
    def follow(self, latent: Tensor) -> None:
        """Take in a batch of codes ``(B, D)``."""
        self.mean.lerp_(latent.float().mean(dim=0), 1 - MOMENTUM)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - MOMENTUM)

    @torch.no_grad()
    def forward(self) -> Tensor:
        """The centre ``(D)``; of zero before any code was seen, moved by the margin."""
        centre = self.mean / self.weight.clamp(min=TINY)
        moved = torch.where(centre < 0, -self.margin, self.margin)
        return torch.where(centre.abs() < self.margin, moved, centre)


def spread_loss(latent: Tensor, floor: float) -> Tensor:
    """How far the entries of codes ``(B, D)`` fall short of a standard deviation in the batch.

    The mean over ``D`` of ``max(0, 1 - deviation / floor)``: 0 to 1, whatever the floor.
    """
    deviation = (latent.var(dim=0, correction=0) + (TINY * floor) ** 2).sqrt()
    return F.relu(1 - deviation / floor).mean()


def variation_kept(batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """How much reconstructions vary from image to image, in units of how much the images do.

    Args:
        batches: images and their reconstructions, ``(B, C, H, W)`` each.

    Returns:
        Root of the ratio of the variances over images, summed over pixels; 1 where the images
        themselves do not vary.
    """
    total = squares = torch.zeros((), dtype=torch.float64)
    count = 0
    for pair in batches:
        both = torch.stack(pair).double()
        total = total + both.sum(dim=1)
        squares = squares + both.square().flatten(1).sum(dim=1).cpu()
        count += both.shape[1]
    variance = squares - total.square().flatten(1).sum(dim=1).cpu() / count
    images, reconstructions = variance.clamp(min=0).tolist()
    return 1.0 if images <= ROUNDING * squares[0] else math.sqrt(reconstructions / images)
