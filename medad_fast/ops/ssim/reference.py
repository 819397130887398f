"""``ssim`` in plain torch, for arguments that have been checked."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def value(
    x: Tensor, y: Tensor, data_range: float, window_size: int, sigma: float, same: bool, mean: bool
) -> Tensor:
    """The mean or the sum of the map."""
    values = similarity_map(x, y, data_range, window_size, sigma, same)
    return values.mean() if mean else values.sum()


def similarity_map(
    x: Tensor, y: Tensor, data_range: float, window_size: int, sigma: float, same: bool
) -> Tensor:
    """``(B, C, H, W)``, smaller by the window without padding."""
    with torch.autocast(x.device.type, enabled=False):
        if x.dtype != torch.float64:
            x, y = x.float(), y.float()
        total, difference = x + y, x - y
        fields = torch.stack([total, difference, total.square(), difference.square()])
        distance = torch.arange(window_size, dtype=torch.float64, device=x.device)
        window = torch.exp(-0.5 * ((distance - window_size // 2) / sigma).square())
        window = (window / window.sum()).to(x.dtype)
        edge = window_size // 2 if same else 0
        # Planes as a batch of one channel each.
        blurred = fields.reshape(-1, 1, *x.shape[2:])
        blurred = F.conv2d(blurred, window[:, None].expand(1, 1, -1, 1), padding=(edge, 0))
        blurred = F.conv2d(blurred, window.expand(1, 1, 1, -1), padding=(0, edge))
        a, b, square_s, square_d = blurred.reshape(4, *x.shape[:2], *blurred.shape[2:])
        # With the sum and the difference of the images, (2 m_x m_y + C1) / (m_x^2 + m_y^2 + C1) is
        # 1 - b^2 / mean, and the other factor likewise: exactly 1 for equal images.
        mean = (a.square() + b.square()) / 2 + (0.01 * data_range) ** 2
        variance_d = (square_d - b.square()).clamp(min=0)
        variance_s = (square_s - a.square()).clamp(min=0)
        variance = (variance_s + variance_d) / 2 + (0.03 * data_range) ** 2
        values: Tensor = (1 - b.square() / mean) * (1 - variance_d / variance)
        return values
