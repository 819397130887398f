"""Encoder and decoder of strided convolutions down to one vector per image, after DCGAN.

Source: the encoder of CRADL (Lueth et al., 2023), as in the group's released code (MIC-DKFZ/cOOpD,
first commits): 4x4 convolutions of stride 2, each but the first after batch norm and ReLU, and one
convolution over all positions that are left. That code takes sides that are powers of two; other
sides are ours, with a last convolution of 4x4 to 7x7. So is the decoder, its mirror image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["StridedDecoder", "StridedEncoder", "strided_sides"]

SMALLEST = 4


def strided_sides(image_size: int) -> list[int]:
    """Sides of the image and of each halved map (rounding down); the last is from 4 to 7."""
    sides = [image_size]
    while sides[-1] >= 2 * SMALLEST:
        sides.append(sides[-1] // 2)
    return sides


class StridedEncoder(nn.Module):
    """Images to vectors.

    Args:
        image_size: side of the images, which sets the number of layers: 6 for 128.
        channels: of the images, 1 or 3.
        width: channels after the first layer, doubled at each further one.
        latent_dim: length of the vectors.
    """

    def __init__(self, image_size: int, channels: int, width: int, latent_dim: int) -> None:
        super().__init__()
        sides = strided_sides(image_size)
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1)]
        for _ in sides[2:]:
            layers += [
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            ]
            width *= 2
        layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, latent_dim, sides[-1])]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, C, image_size, image_size)`` to ``(B, latent_dim)``."""
        latent: Tensor = self.layers(images)
        return latent.flatten(1)


class StridedDecoder(nn.Module):
    """Vectors to images: the encoder's layers transposed, in reverse order, then tanh."""

    def __init__(self, image_size: int, channels: int, width: int, latent_dim: int) -> None:
        super().__init__()
        sides = strided_sides(image_size)
        width *= 2 ** (len(sides) - 2)
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, width, sides[-1])]
        for side in reversed(sides[1:-1]):
            layers += [
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.ConvTranspose2d(
                    width, width // 2, 4, stride=2, padding=1, output_padding=side % 2
                ),
            ]
            width //= 2
        layers += [
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Tensor) -> Tensor:
        """Vectors ``(B, latent_dim)`` to images ``(B, C, H, W)`` in [-1, 1]."""
        return torch.tanh(self.layers(latent[:, :, None, None]))
