"""The image discriminator of PatchCL-AE: one logit per image, not a PatchGAN.

Source: Lu et al., "PatchCL-AE", 2024, Table 2. The table prints 3x3 kernels, but its parameter
counts fit 4x4 ones from the second stage on; with a padding of 2 these also give its sides, of
which the last goes from 7 to 4.
"""

from __future__ import annotations

from torch import Tensor, nn

LAST_SIDE = 4  # Table 2 flattens 4x4 positions
WIDEST = 8  # times the base width


def discriminator_stages(image_size: int) -> int:
    """How often the sides are halved (rounding up) until they are 4 or less; 6 for 224 and 256."""
    stages, side = 0, image_size
    while side > LAST_SIDE:
        side = (side + 1) // 2
        stages += 1
    return stages


class Discriminator(nn.Module):
    """Convolution, instance norm, leaky ReLU and pooling, repeated; then two linear layers.

    Args:
        image_size: side of the images, which sets the number of stages.
        channels: of the images, 1 or 3.
        width: channels of the first stage, doubled at each further one up to 8 times.
    """

    def __init__(self, image_size: int, channels: int, width: int = 64) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        side, inputs = image_size, channels
        for stage in range(discriminator_stages(image_size)):
            outputs = width * min(2**stage, WIDEST)
            kernel_size, padding = (3, 1) if stage == 0 else (4, 2)
            stages += [
                nn.Conv2d(inputs, outputs, kernel_size, padding=padding),
                nn.InstanceNorm2d(outputs),
                nn.LeakyReLU(0.2),
                nn.AvgPool2d(2),
            ]
            side, inputs = (side + 1) // 2, outputs
        self.stages = nn.Sequential(*stages)
        self.to_logit = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs * side * side, 4 * width), nn.Linear(4 * width, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` to logits ``(B)``, large where they look real."""
        logits: Tensor = self.to_logit(self.stages(images))
        return logits.squeeze(1)
