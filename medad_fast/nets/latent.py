"""Strided networks between images and one short code per image, and what judges such codes.

The plain family of DCGAN (Radford et al., 2016): 4x4 convolutions of stride 2 down, transposed ones
up, as the autoencoders of many adversarial anomaly detectors have them.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

__all__ = [
    "ImageDiscriminator",
    "LatentDecoder",
    "LatentDiscriminator",
    "LatentEncoder",
    "Norm",
    "stage_sides",
]

Norm = Literal["group", "batch"]

SMALLEST_SIDE = 4  # before a code without places is read off
WIDEST = 16  # times the base width
SLOPE = 0.2
GROUPS, FEWEST_IN_GROUP = 8, 4


def stage_sides(image_size: int, latent_side: int = 1) -> list[int]:
    """Sides from the image's down to the last map's; odd ones are halved rounding down.

    ``latent_side`` 1: down to 4 or less, where the code is read off the whole map; else down to
    ``latent_side`` or less.
    """
    last = SMALLEST_SIDE if latent_side == 1 else latent_side
    sides = [image_size]
    while sides[-1] > last:
        sides.append(sides[-1] // 2)
    return sides


def stage_widths(sides: list[int], width: int) -> list[int]:
    """Channels after each halving: ``width``, doubled at each further one up to 16 times."""
    return [width * min(2**stage, WIDEST) for stage in range(len(sides) - 1)]


def normalization(kind: Norm, channels: int) -> nn.Module:
    """Over the batch, or over groups of at least four channels of one image."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(math.gcd(GROUPS, max(channels // FEWEST_IN_GROUP, 1)), channels)


def activated(convolution: nn.Conv2d | nn.ConvTranspose2d, norm: Norm) -> list[nn.Module]:
    """A convolution, norm and leaky ReLU."""
    return [convolution, normalization(norm, convolution.out_channels), nn.LeakyReLU(SLOPE)]


class LatentEncoder(nn.Module):
    """Halve the sides, norm, leaky ReLU, repeated; then one linear map to the code.

    Args:
        image_size: side of the images.
        channels: of the images, 1 or 3.
        width: channels of the first stage.
        latent_dim: length of the code, or of the code at each place.
        latent_side: 1 for a code without places, else the largest side that a map of codes has.
        norm: see :func:`normalization`.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        width: int,
        latent_dim: int,
        latent_side: int = 1,
        norm: Norm = "group",
    ) -> None:
        super().__init__()
        sides = stage_sides(image_size, latent_side)
        stages: list[nn.Module] = []
        inputs = channels
        for outputs in stage_widths(sides, width):
            stages += activated(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), norm)
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        kernel_size = sides[-1] if latent_side == 1 else 1
        self.to_latent = nn.Conv2d(inputs, latent_dim, kernel_size)
        self.latent_size = latent_dim if latent_side == 1 else latent_dim * sides[-1] ** 2

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` to codes ``(B, D)``, with places flattened into ``D``."""
        latent: Tensor = self.to_latent(self.stages(images))
        return latent.flatten(1)


def doubled(inputs: int, outputs: int, side: int) -> nn.ConvTranspose2d:
    """To maps of ``side``, the odd ones too, whose halves were rounded down."""
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, output_padding=side % 2)


class LatentDecoder(nn.Module):
    """The way back: linear, then doubled sides, norm, leaky ReLU, repeated; last tanh.

    Arguments as for :class:`LatentEncoder`.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        width: int,
        latent_dim: int,
        latent_side: int = 1,
        norm: Norm = "group",
    ) -> None:
        super().__init__()
        sides = stage_sides(image_size, latent_side)
        widths = stage_widths(sides, width)
        self.latent_shape = (latent_dim, *((1, 1) if latent_side == 1 else (sides[-1], sides[-1])))
        kernel_size = sides[-1] if latent_side == 1 else 1
        self.from_latent = nn.Sequential(
            *activated(nn.ConvTranspose2d(latent_dim, widths[-1], kernel_size), norm)
        )
        stages: list[nn.Module] = []
        inputs = widths[-1]
        for outputs, side in zip(reversed(widths[:-1]), reversed(sides[1:-1]), strict=True):
            stages += activated(doubled(inputs, outputs, side), norm)
            inputs = outputs
        self.stages = nn.Sequential(*stages, doubled(inputs, channels, image_size), nn.Tanh())

    def forward(self, latent: Tensor) -> Tensor:
        """Codes ``(B, D)`` to images ``(B, C, H, W)`` in [-1, 1]."""
        images: Tensor = self.stages(self.from_latent(latent.reshape(-1, *self.latent_shape)))
        return images


class ImageDiscriminator(nn.Module):
    """An encoder whose code is one logit; strided, so at a quarter of the cost of pooling ones."""

    def __init__(self, image_size: int, channels: int, width: int, norm: Norm = "group") -> None:
        super().__init__()
        self.encoder = LatentEncoder(image_size, channels, width, 1, norm=norm)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` to logits ``(B)``, large where they look real."""
        logits: Tensor = self.encoder(images)
        return logits.squeeze(1)


class LatentDiscriminator(nn.Module):
    """One hidden layer on codes ``(B, D)``; logits ``(B)``, large where they look drawn."""

    def __init__(self, latent_size: int, hidden: int = 512) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latent_size, hidden), nn.LeakyReLU(SLOPE), nn.Linear(hidden, 1)
        )

    def forward(self, latent: Tensor) -> Tensor:
        logits: Tensor = self.layers(latent)
        return logits.squeeze(1)
