"""Chest radiographs drawn from a seed: coarse, but with what segmentation must cope with."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def chest_phantoms(seeds: range, height: int = 256, width: int = 256) -> Tensor:
    """One ``chest_phantom`` a seed, ``(B, H, W)``, uint8."""
    return torch.stack([chest_phantom(seed, height, width) for seed in seeds])


def chest_phantom(seed: int, height: int = 256, width: int = 256) -> Tensor:
    """A bright trunk on a dark ground, two dark lungs under ribs, a heart, noise.

    Returns ``(H, W)``, uint8.
    Contrast, noise and pose vary; some have a black frame, a marker, gas under the diaphragm, or
    lungs that reach the border.
    """
    rng = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=rng).item()

    # In units of the sides, turned by a few degrees.
    turn, shift_y, shift_x = draw(-0.08, 0.08), draw(-0.04, 0.04), draw(-0.04, 0.04)
    zoom = draw(0.85, 1.25)
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height - 0.5 - shift_y,
        (torch.arange(width) + 0.5) / width - 0.5 - shift_x,
        indexing="ij",
    )
    y, x = (
        (y * math.cos(turn) - x * math.sin(turn)) / zoom,
        (y * math.sin(turn) + x * math.cos(turn)) / zoom,
    )

    def blob(cy: float, cx: float, ry: float, rx: float, power: float = 2.0) -> Tensor:
        """From 1 inside an ellipse to 0 outside."""
        distance = ((y - cy).abs() / ry) ** power + ((x - cx).abs() / rx) ** power
        return torch.sigmoid((1 - distance) * 12)

    image = 0.08 + 0.75 * blob(0.1, 0, 0.75, draw(0.42, 0.55), 3)
    lungs = torch.maximum(
        blob(draw(-0.04, 0.02), -0.19, draw(0.27, 0.33), draw(0.12, 0.15)),
        blob(draw(-0.04, 0.02), 0.19, draw(0.27, 0.33), draw(0.11, 0.14)),
    )
    image = image - draw(0.3, 0.55) * lungs
    image = image + draw(0.2, 0.45) * blob(0.12, 0.06, 0.15, 0.12) * (image < 0.7)
    ribs = torch.sin((y + 0.25 * x.abs()) * draw(60, 90) + draw(0, 6)).clamp(min=0)
    image = image + draw(0.0, 0.16) * ribs * lungs
    if draw(0, 1) < 0.4:
        image = image - 0.4 * blob(0.36, 0.14, 0.03, 0.05)
    if draw(0, 1) < 0.3:
        image = torch.where((y < -0.38) & (y > -0.43) & (x > 0.32) & (x < 0.42), 1.0, image)
    image = image + draw(0.0, 0.08) * torch.randn(height, width, generator=rng)
    image = image.clamp(0, 1) ** draw(0.6, 1.6)
    if draw(0, 1) < 0.3:
        frame = int(draw(0.01, 0.06) * min(height, width))
        inside = torch.zeros(height, width)
        inside[frame : height - frame, frame : width - frame] = 1
        image = image * inside
    low, high = draw(0, 60), draw(160, 255)
    return (low + (high - low) * image).round().clamp(0, 255).to(torch.uint8)
