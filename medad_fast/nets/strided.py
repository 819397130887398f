"""Strided networks between images and codes, and what tells images or codes from drawn ones.

Source: DCGAN (Radford et al., ICLR 2016): 4x4 convolutions of stride 2 down, transposed ones up, a
norm and an activation between them. ``Strided...`` are CRADL's (Lueth et al., 2023), as in the
group's released code (MIC-DKFZ/cOOpD, first commits): batch norm and ReLU, and at the end one
convolution over all positions that are left. That code takes sides that are powers of two; other
sides are ours, with a last convolution of 4x4 to 7x7, and so is the decoder, its mirror image.
``Latent...``, ours for SALAD, have a choice of norms and codes with or without places.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Norm = Literal["group", "batch"]

LARGEST_KERNEL = 7  # of the convolution that ends CRADL's encoder
SMALLEST_SIDE = 4  # before a code without places is read off
WIDEST = 16  # times the base width
SLOPE = 0.2
GROUPS, FEWEST_IN_GROUP = 8, 4


def halved_sides(image_size: int, largest: int) -> list[int]:
    """Sides of the image and of each halved map (rounding down), to ``largest`` or less."""
    sides = [image_size]
    while sides[-1] > largest:
        sides.append(sides[-1] // 2)
    return sides


class Plan(NamedTuple):
    """What an encoder and the decoder that mirrors it have in common."""

    channels: int
    sides: list[int]
    widths: list[int]
    """Channels after each halving."""
    latent_dim: int
    kernel_size: int
    """Of the convolution between the last map and the code."""
    latent_side: int
    between: Callable[[int], tuple[nn.Module, nn.Module]]
    """Channels to the norm and the activation between two convolutions."""

    def to_code(self) -> list[nn.Module]:
        """The layers from images to codes."""
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([self.channels, *self.widths]):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), *self.between(outputs)]
        return [*layers, nn.Conv2d(self.widths[-1], self.latent_dim, self.kernel_size)]

    def from_code(self) -> list[nn.Module]:
        """The same transposed, in reverse order; sides that were odd come back."""
        channels = [*reversed(self.widths), self.channels]
        layers: list[nn.Module] = []
        layers.append(nn.ConvTranspose2d(self.latent_dim, channels[0], self.kernel_size))
        steps = zip(pairwise(channels), reversed(self.sides[:-1]), strict=True)
        for (inputs, outputs), side in steps:
            doubled = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, output_padding=side % 2)
            layers += [*self.between(inputs), doubled]
        return layers


def batch_norm_and_relu(channels: int) -> tuple[nn.Module, nn.Module]:
    """What CRADL has between convolutions."""
    return nn.BatchNorm2d(channels), nn.ReLU()


class StridedEncoder(nn.Module):
    """CRADL's: images to codes.

    Args:
        image_size: side of the images, which sets the number of layers: 6 for 128.
        channels: of the images, 1 or 3.
        width: channels after the first layer, doubled at each further one.
        latent_dim: length of the codes.
    """

    def __init__(self, image_size: int, channels: int, width: int, latent_dim: int) -> None:
        super().__init__()
        sides = halved_sides(image_size, LARGEST_KERNEL)
        widths = [width * 2**stage for stage in range(len(sides) - 1)]
        self.plan = Plan(
            channels, sides, widths, latent_dim, sides[-1], 1, between=batch_norm_and_relu
        )
        self.layers = nn.Sequential(*self.plan.to_code())

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, C, image_size, image_size)`` to ``(B, latent_dim)``."""
        latent: Tensor = self.layers(images)
        return latent.flatten(1)


class StridedDecoder(nn.Module):
    """The way back from an encoder's codes, then tanh."""

    def __init__(self, encoder: StridedEncoder) -> None:
        super().__init__()
        self.layers = nn.Sequential(*encoder.plan.from_code())

    def forward(self, latent: Tensor) -> Tensor:
        """Codes ``(B, latent_dim)`` to images ``(B, C, H, W)`` in [-1, 1]."""
        return torch.tanh(self.layers(latent[:, :, None, None]))


def norm_and_leaky_relu(kind: Norm, channels: int) -> tuple[nn.Module, nn.Module]:
    """The norm is over the batch, or over groups of at least four channels of one image."""
    groups = math.gcd(GROUPS, max(channels // FEWEST_IN_GROUP, 1))
    norm = nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(groups, channels)
    return norm, nn.LeakyReLU(SLOPE)


class LatentEncoder(nn.Module):
    """SALAD's: images to codes.

    Args:
        image_size: side of the images.
        channels: of the images, 1 or 3.
        width: channels after the first layer, doubled at each further one up to 16 times.
        latent_dim: length of the code, or of the code at each place.
        latent_side: 1 for a code without places, read off a map of 4x4 or less; else the largest
            side that a map of codes has.
        norm: over the batch, or over groups of channels.
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
        sides = halved_sides(image_size, SMALLEST_SIDE if latent_side == 1 else latent_side)
        widths = [width * min(2**stage, WIDEST) for stage in range(len(sides) - 1)]
        ends = (sides[-1], 1) if latent_side == 1 else (1, sides[-1])
        between = partial(norm_and_leaky_relu, norm)
        self.plan = Plan(channels, sides, widths, latent_dim, *ends, between=between)
        layers = self.plan.to_code()
        self.stages, self.to_latent = nn.Sequential(*layers[:-1]), layers[-1]
        self.latent_size = latent_dim * self.plan.latent_side**2

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` to codes ``(B, D)``, with places flattened into ``D``."""
        latent: Tensor = self.to_latent(self.stages(images))
        return latent.flatten(1)


class LatentDecoder(nn.Module):
    """The way back from an encoder's codes, then tanh."""

    def __init__(self, encoder: LatentEncoder) -> None:
        super().__init__()
        self.latent_shape = (encoder.plan.latent_dim, *[encoder.plan.latent_side] * 2)
        layers = encoder.plan.from_code()
        self.from_latent = nn.Sequential(*layers[:3])
        self.stages = nn.Sequential(*layers[3:], nn.Tanh())

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
