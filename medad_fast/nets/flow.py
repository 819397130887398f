"""A normalising flow on vectors: affine couplings in the manner of Glow, with fixed permutations.

Source: the "INN" of CRADL's released code (MIC-DKFZ/cOOpD, latent_gen/inn.py), which takes its
coupling block from FrEIA (Ardizzone et al.): both halves change in each block, and the logarithms
of the scales are clamped by an arctangent. The exact clamp depends on FrEIA's version; this is that
of the releases up to 0.1, and its constant of 0.636 is 2 / pi rounded.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

CLAMP = 2.0  # bound on the logarithm of a block's scale, up to the rounding of 0.636


class Coupling(nn.Module):
    """Scale and shift one half as the other says, then the other way round."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.first = first = features // 2
        second = features - first
        self.of_second = self._subnet(second, first, hidden)
        self.of_first = self._subnet(first, second, hidden)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        first, second = rows.tensor_split([self.first], dim=1)
        first, log_scale = self._change(first, self.of_second(second))
        second, other = self._change(second, self.of_first(first))
        return torch.cat([first, second], dim=1), log_scale.sum(1) + other.sum(1)

    @staticmethod
    def _subnet(inputs: int, changed: int, hidden: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 2 * changed))

    @staticmethod
    def _change(half: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = parameters.chunk(2, dim=1)
        log_scale = CLAMP * 0.636 * torch.atan(log_scale / CLAMP)
        return half * log_scale.exp() + shift, log_scale


class Flow(nn.Module):
    """Density of rows: they are mapped to a standard normal distribution.

    Args:
        features: length of a row, at least 2.
        blocks: couplings, each followed by a permutation that is drawn from its number.
        hidden: width of the couplings' networks.
    """

    permutations: Tensor

    def __init__(self, features: int, blocks: int, hidden: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Coupling(features, hidden) for _ in range(blocks))
        orders = [
            torch.randperm(features, generator=torch.Generator().manual_seed(block))
            for block in range(blocks)
        ]
        self.register_buffer("permutations", torch.stack(orders))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows ``(B, features)`` to normal ones and ``log |det|`` of the mapping, ``(B)``."""
        log_determinant = rows.new_zeros(len(rows))
        for block, order in zip(self.blocks, self.permutations, strict=True):
            rows, log_scale = block(rows)
            rows = rows[:, order]
            log_determinant = log_determinant + log_scale
        return rows, log_determinant

    def log_density(self, rows: Tensor) -> Tensor:
        """Logarithm of the density at rows ``(B, features)``, ``(B)``."""
        normal, log_determinant = self(rows)
        constant = 0.5 * rows.shape[1] * math.log(2 * math.pi)
        density: Tensor = log_determinant - 0.5 * normal.square().sum(1) - constant
        return density
