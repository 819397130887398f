"""The convolutional encoder and decoder of PatchCL-AE.

Source: Lu et al., "PatchCL-AE", Computerized Medical Imaging and Graphics 114 (2024), Table 1. The
kernel sizes and the place of the norm follow from the parameter counts printed there; whether the
units of the last block have skip connections, and how the encoder pools, is not stated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Downsample = Literal["average", "blur"]


def encoder_widths(width: int) -> tuple[int, int, int, int, int]:
    """Channels of the five blocks' outputs; 64, 128, 256, 256, 256 in the paper."""
    return width, 2 * width, 4 * width, 4 * width, 4 * width


class BlurPool(nn.Module):
    """Halve the sides after a fixed 3x3 binomial filter, so that edges do not alias."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("kernel", torch.outer(taps, taps), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        channels = features.shape[1]
        kernel = self.kernel.to(features.dtype).expand(channels, 1, 3, 3)
        padded = F.pad(features, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(padded, kernel, stride=2, groups=channels)


DOWNSAMPLE: dict[str, Callable[[], nn.Module]] = {
    "average": lambda: nn.AvgPool2d(2),
    "blur": BlurPool,
}


def convolution(inputs: int, outputs: int, kernel_size: int) -> nn.Sequential:
    """Convolution that keeps the sides, instance norm without parameters, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2),
        nn.InstanceNorm2d(outputs),
        nn.ReLU(),
    )


class Unit(nn.Module):
    """Two convolutions, around which the input may be added."""

    def __init__(self, channels: int, residual: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(channels, channels, 3), convolution(channels, channels, 3)
        )
        self.residual = residual

    def forward(self, features: Tensor) -> Tensor:
        changed: Tensor = self.body(features)
        return features + changed if self.residual else changed


class Encoder(nn.Module):
    """Five blocks; the second to fourth halve the sides.

    Args:
        channels: of the images, 1 or 3.
        width: channels of the first block, 64 in the paper.
        units: pairs of convolutions in the last block, 6 in the paper.
        residual: add each unit's input to its output.
        downsample: how the sides are halved.
    """

    def __init__(
        self,
        channels: int,
        width: int = 64,
        *,
        units: int = 6,
        residual: bool = True,
        downsample: Downsample = "average",
    ) -> None:
        super().__init__()
        w = encoder_widths(width)
        halve = DOWNSAMPLE[downsample]
        self.blocks = nn.ModuleList(
            [
                convolution(channels, w[0], 7),
                nn.Sequential(convolution(w[0], w[1], 3), halve()),
                nn.Sequential(convolution(w[1], w[2], 3), halve()),
                nn.Sequential(convolution(w[2], w[3], 3), halve()),
                nn.Sequential(*(Unit(w[4], residual) for _ in range(units))),
            ]
        )

    def forward(self, images: Tensor, depth: int = 5) -> list[Tensor]:
        """Outputs of the first ``depth`` blocks.

        Args:
            images: ``(B, C, H, W)`` with sides that are multiples of 8.
            depth: 1 to 5; later blocks are not computed.

        Returns:
            ``(B, C_l, H_l, W_l)`` for each block, sides H, H/2, H/4, H/8, H/8.
        """
        features: list[Tensor] = []
        for block in self.blocks[:depth]:
            images = block(images)
            features.append(images)
        return features


class Decoder(nn.Module):
    """Three linear upsamplings with convolutions, then a 7x7 convolution and tanh."""

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        w = encoder_widths(width)
        self.blocks = nn.ModuleList(
            [convolution(w[4], w[2], 3), convolution(w[2], w[1], 3), convolution(w[1], w[0], 3)]
        )
        self.to_image = nn.Conv2d(w[0], channels, 7, padding=3)

    def forward(self, features: Tensor) -> Tensor:
        """Output of the encoder's last block to images ``(B, C, H, W)`` in [-1, 1]."""
        for block in self.blocks:
            enlarged = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
            features = block(enlarged)
        return torch.tanh(self.to_image(features))
