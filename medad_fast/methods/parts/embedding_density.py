"""How improbable an embedding is under those of the normal training images.

Source: the two densities that AnatPaste's and MedIAnomaly's code puts on embeddings of unit length:
a Gaussian kernel density, and the Mahalanobis distance with the covariance of Ledoit and Wolf, "A
well-conditioned estimator for large-dimensional covariance matrices", J. Multivariate Analysis 88
(2004).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from medad_fast.errors import CheckpointError

__all__ = ["KernelDensity", "MahalanobisDistance", "ledoit_wolf", "whitening"]

CHUNK = 8192  # points compared at a time: bounds the memory


class KernelDensity(nn.Module):
    """Minus the log of a Gaussian kernel density, up to a constant; 0 is the least possible.

    The constant, ``(D / 2) ln(2 pi h^2)``, would cost float32 most of its digits. Until :meth:`fit`
    has run, the density has one kernel, at the origin.

    Args:
        dimensions: D, of the embeddings.
        bandwidth: h, the kernels' standard deviation.
    """

    points: Tensor

    def __init__(self, dimensions: int, bandwidth: float) -> None:
        super().__init__()
        self.bandwidth = bandwidth
        self.register_buffer("points", torch.zeros(1, dimensions))

    @torch.no_grad()
    def fit(self, embeddings: Tensor) -> None:
        """Put a kernel on each of the embeddings ``(N, D)``, N at least 1."""
        self.points = embeddings.detach().to(self.points).clone()

    def make_room(self, points: Tensor) -> None:
        """Have as many kernels as a state that is about to be loaded."""
        wanted = f"(N, {self.points.shape[1]})"
        if points.dim() != 2 or len(points) < 1 or points.shape[1] != self.points.shape[1]:
            raise CheckpointError(f"density points of {wanted} expected, got {tuple(points.shape)}")
        self.points = self.points.new_zeros(points.shape)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings ``(B, D)`` to ``(B)`` float32: ``-ln mean_j exp(-|a - x_j|^2 / 2 h^2)``."""
        rows = embeddings.double()
        total = rows.new_full((len(rows),), -math.inf)
        for part in torch.split(self.points, CHUNK):
            points = part.double()
            squares = rows.square().sum(1, keepdim=True) + points.square().sum(1)
            distances = (squares - 2 * rows @ points.T).clamp(min=0)
            exponents = -distances / (2 * self.bandwidth**2)
            total = torch.logaddexp(total, exponents.logsumexp(dim=1))
        return (math.log(len(self.points)) - total).float()


class MahalanobisDistance(nn.Module):
    """Distance from the mean in standard deviations; until :meth:`fit` has run, from the origin."""

    mean: Tensor
    whitening: Tensor

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dimensions, dtype=torch.float64))
        self.register_buffer("whitening", torch.eye(dimensions, dtype=torch.float64))

    @torch.no_grad()
    def fit(self, embeddings: Tensor) -> None:
        """Learn mean and covariance from embeddings ``(N, D)``."""
        rows = embeddings.double()
        self.mean.copy_(rows.mean(dim=0))
        centred = rows - rows.mean(dim=0)
        covariance, _ = ledoit_wolf([centred])
        self.whitening.copy_(whitening(covariance))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings ``(B, D)`` to ``(B)`` float32: ``sqrt((a - m)^T C^-1 (a - m))``."""
        rows = (embeddings.double() - self.mean) @ self.whitening.T
        distance: Tensor = torch.linalg.vector_norm(rows, dim=1).float()
        return distance


def ledoit_wolf(centred: Iterable[Tensor]) -> tuple[Tensor, float]:
    """Covariance, shrunk towards a multiple of the identity where rows are few.

    Args:
        centred: parts ``(n, D)`` of the rows, their mean taken off; at least one row in all.

    Returns:
        ``(D, D)`` float64, and the share of the identity in it, from 0 to 1.
    """
    products: Tensor | None = None
    fourth, count = 0.0, 0
    for part in centred:
        rows = part.double()
        product = rows.T @ rows
        products = product if products is None else products + product
        fourth += float(rows.square().sum(dim=1).square().sum())
        count += len(rows)
    assert products is not None
    sample = products / count
    dimensions = len(sample)
    scale = float(sample.trace()) / dimensions
    squares = float(sample.square().sum())
    away = squares / dimensions - scale**2
    noise = (fourth / count - squares) / (dimensions * count)
    share = min(noise, away) / away if noise > 0 and away > 0 else 0.0
    identity = torch.eye(dimensions, dtype=sample.dtype, device=sample.device)
    return (1 - share) * sample + share * scale * identity, share


def whitening(covariance: Tensor) -> Tensor:
    """``W`` with ``W^T W`` the inverse of a covariance ``(D, D)``.

    Directions that varied by less than 1e-6 of the average variance count as if they varied by
    that; where nothing varied at all, by 1.
    """
    average = covariance.diagonal().mean()
    variances, directions = torch.linalg.eigh(covariance)
    variances = torch.where(average > 0, variances.clamp(min=1e-6 * average), 1.0)
    inverse: Tensor = (directions / variances.sqrt()).T
    return inverse
