"""DDAD's refinement network, which turns discrepancy maps into a segmentation, and its loss.

Source: Cai et al., "Dual-distribution discrepancy with self-supervised refinement for anomaly
detection in medical images", Medical Image Analysis 86 (2023), and its published code (DDAD-ASR);
Lin et al., "Focal loss for dense object detection", ICCV 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RefinementNet(nn.Module):
    """Three 3x3 convolutions at full resolution, batch norm and ReLU after the first two.

    Args:
        maps: in the paper 2, inter- and intra-discrepancy (R_dual), or 1, the latter (R_intra).
        width: channels between the convolutions, 128 in the paper.
    """

    def __init__(self, maps: int, width: int = 128) -> None:
        super().__init__()
        self.first = nn.Conv2d(maps, width, 3, padding=1)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.second_norm = nn.BatchNorm2d(width)
        self.to_logits = nn.Conv2d(width, 2, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps ``(B, maps, H, W)`` to logits ``(B, 2, H, W)`` of normal and abnormal pixels."""
        features = F.relu(self.first_norm(self.first(maps)), inplace=True)
        features = F.relu(self.second_norm(self.second(features)), inplace=True)
        logits: Tensor = self.to_logits(features)
        return logits

    @torch.no_grad()
    def probability(self, maps: Tensor) -> Tensor:
        """How likely each pixel is abnormal, ``(B, 1, H, W)``, by the running statistics.

        The same as the softmax of the logits, whose two channels collapse into their difference.
        """
        features = F.relu(_convolve_folded(maps, self.first, self.first_norm), inplace=True)
        features = F.relu(_convolve_folded(features, self.second, self.second_norm), inplace=True)
        weight, bias = self.to_logits.weight, self.to_logits.bias
        assert bias is not None
        difference = F.conv2d(features, weight[1:] - weight[:1], bias[1:] - bias[:1], padding=1)
        return torch.sigmoid(difference)


def _convolve_folded(features: Tensor, layer: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert layer.bias is not None
    factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias = norm.bias + (layer.bias - norm.running_mean) * factor
    return F.conv2d(features, layer.weight * factor.view(-1, 1, 1, 1), bias, padding=1)


def focal_loss(
    logits: Tensor, target: Tensor, *, gamma: float = 2.0, epsilon: float = 1e-5
) -> Tensor:
    """``-(1 - p)^gamma ln p``, mean over pixels, with ``p`` the softmax at the target's class.

    The published code clamps one-hot labels to ``[epsilon, 1 - epsilon]``, multiplies them by the
    softmax and adds ``epsilon``: so ``p`` is not ``q``, the softmax at the class, but
    ``q (1 - 2 epsilon) + 2 epsilon``.

    Args:
        logits: ``(B, 2, H, W)``; computed in float32 at least.
        target: ``(B, 1, H, W)`` bool: whether a pixel is of the second class.
        gamma: how much less pixels count that are already right; 0 is cross-entropy.
        epsilon: keeps the loss of a pixel below ``-ln(2 epsilon)``.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    difference = (logits[:, 1] - logits[:, 0])[:, None]
    margin = torch.where(target, difference, -difference)
    scale = 1 - 2 * epsilon
    likely = torch.sigmoid(margin) * scale + 2 * epsilon
    unlikely = torch.sigmoid(-margin) * scale  # 1 - likely, without cancellation
    return -(unlikely.pow(gamma) * likely.log()).mean()
