"""How the papers' code draws the parameters of ``anatomy_paste``."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from medad_fast.errors import InputError

Kind = Literal["anatpaste", "foreign_patch"]

SHAPES = ("rectangle", "ellipse", "patch")
"""Names of the codes in ``shape``; ``"patch"`` is the whole pasted patch, whatever the margin."""


class Draw:
    """Random numbers for a batch, one after another from one generator."""

    def __init__(self, batch: int, generator: torch.Generator | None) -> None:
        self._batch, self._generator = batch, generator
        self._device = torch.device("cpu") if generator is None else generator.device

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        drawn = torch.rand(
            self._batch, generator=self._generator, dtype=torch.float64, device=self._device
        )
        return low + (high - low) * drawn

    def below(self, end: Tensor | int) -> Tensor:
        """Integers from 0 to ``end - 1``."""
        return (self.uniform() * end).long()

    def full(self, value: float) -> Tensor:
        return torch.full((self._batch,), value, dtype=torch.float64, device=self._device)


def draw_anatpaste(draw: Draw, height: int, width: int) -> dict[str, Tensor]:
    area = draw.uniform(0.02, 0.15) * (height * width)
    aspect = draw.uniform(math.log(0.3), math.log(1 / 0.3)).exp()
    # A patch of an image far from square may not fit into it.
    patch_width = (area * aspect).sqrt().round().long().clamp(1, width)
    patch_height = (area / aspect).sqrt().round().long().clamp(1, height)
    row = draw.below(height - patch_height)
    column = draw.below(width - patch_width)
    fallback = [draw.below(height - 1), draw.below(width - 1)]
    return {
        "width": patch_width,
        "height": patch_height,
        "source_corner": torch.stack([row, column], 1),
        "fallback_centre": torch.stack(fallback, 1),
        "centre_rank": draw.uniform(),
        "shape": draw.below(2),
        "margin": draw.full(10).long(),
        "sigma": draw.below(15),
        "opacity": (150 + draw.below(105)) / 255,
        "brightness": draw.uniform(0.9, 1.1),
        "contrast": draw.uniform(0.9, 1.1),
        "jitter_order": draw.below(2),
    }


def draw_foreign_patch(
    draw: Draw, height: int, width: int, sources: int | None
) -> dict[str, Tensor]:
    changed = draw.uniform() < 0.5
    # numpy's randint cuts the bounds to integers.
    centre = [
        int(0.1 * side) + draw.below(max(int(0.9 * side) - int(0.1 * side), 1))
        for side in (height, width)
    ]
    low = max(round(0.05 * width), 1)
    half = low + draw.below(max(round(0.2 * width) - low, 1))
    opacity = 1 - draw.uniform()  # (0, 1], so that the gate shows where the patch is
    batch = changed.shape[0]
    own = torch.arange(batch, device=changed.device)
    if sources is None:
        if batch == 1:
            raise InputError("sources: a number expected for a batch of one image, got None")
        index = (own + 1 + draw.below(batch - 1)) % max(batch, 1)
    else:
        index = draw.below(sources)
    # The square, cut to the image: where it lies in the source, it lies in the image.
    first = [(c - half).clamp(min=0) for c in centre]
    size = [
        (c + half).clamp(max=side) - f
        for c, f, side in zip(centre, first, (height, width), strict=True)
    ]
    placed = [f + s // 2 for f, s in zip(first, size, strict=True)]
    return {
        "width": size[1],
        "height": size[0],
        "source_corner": torch.stack(first, 1),
        "centre": torch.stack(placed, 1),
        "shape": torch.full_like(own, SHAPES.index("patch")),
        "sigma": draw.full(0),
        "opacity": torch.where(changed, opacity, 0.0),
        "source_index": index,
    }
