"""What a discriminator and the network that it judges are trained with, by name.

Source: Goodfellow et al., "Generative adversarial nets", 2014 (the first two kinds); Mao et al.,
"Least squares generative adversarial networks", 2017.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Adversarial = Literal["non_saturating", "saturating", "least_squares"]


def discriminator_loss(kind: Adversarial, real: Tensor, fake: Tensor) -> Tensor:
    """Scalar from the logits ``(B)`` of real images and, detached, of generated ones."""
    loss: Tensor
    if kind == "least_squares":
        loss = ((real - 1).square() + fake.square()).mean()
    else:
        loss = (F.softplus(-real) + F.softplus(fake)).mean()
    return loss


def generator_loss(kind: Adversarial, fake: Tensor) -> Tensor:
    """Scalar from the logits ``(B)`` of generated images, small where they look real."""
    if kind == "least_squares":
        return (fake - 1).square().mean()
    if kind == "saturating":
        return -F.softplus(fake).mean()
    return F.softplus(-fake).mean()
