"""How unusual an embedding, or a feature at its place, is among those of normal training images.

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

from medad_fast.methods.base import RowBank
from medad_fast.methods.parts.score import smooth

CHUNK = 8192  # points compared at a time: bounds the memory
WINDOW = 3  # positions of a feature map: anatomy lies alike only so far


class KernelDensity(RowBank):
    """Minus the log of a Gaussian kernel density, up to a constant; 0 is the least possible.

    The constant, ``(D / 2) ln(2 pi h^2)``, would cost float32 most of its digits. Until :meth:`fit`
    has run, the density has one kernel, at the origin.

    Args:
        dimensions: D, of the embeddings.
        bandwidth: h, the kernels' standard deviation.
    """

    rows = "points"
    points: Tensor

    def __init__(self, dimensions: int, bandwidth: float) -> None:
        super().__init__()
        self.bandwidth = bandwidth
        self.register_buffer("points", torch.zeros(1, dimensions))

    @torch.no_grad()
    def fit(self, embeddings: Tensor) -> None:
        """Put a kernel on each of the embeddings ``(N, D)``, N at least 1."""
        self.points = embeddings.detach().to(self.points).clone()

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
        covariance, _ = ledoit_wolf([rows - rows.mean(dim=0)])
        self.whitening.copy_(whitening(covariance))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings ``(B, D)`` to ``(B)`` float32: ``sqrt((a - m)^T C^-1 (a - m))``."""
        rows = (embeddings.double() - self.mean) @ self.whitening.T
        distance: Tensor = torch.linalg.vector_norm(rows, dim=1).float()
        return distance


class FeatureDistance(nn.Module):
    """Squared Mahalanobis distance of each position's features from what is normal at its place.

    Ours. Near to it is PaDiM (Defard et al., 2021), which keeps a covariance for every place; here
    places share one, so that memory and the number of training images needed stay small.

    The mean is that of the place, over training images and neighbours; the covariance is that of
    what remains, over all places. The distance is divided by the number of channels: 1 on average
    over the training images. Until :meth:`fit` has run: the mean square of the features.

    Args:
        channels: of the features.
        side: of their map.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, side, side))
        self.register_buffer("whitening", torch.eye(channels))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Learn from features ``(B, C, h, w)`` in batches, which are gone through twice."""
        total = torch.zeros_like(self.mean, dtype=torch.float64)
        count = 0
        for features in batches:
            total += features.double().sum(dim=0, keepdim=True)
            count += len(features)
        self.mean.copy_(smooth(total / count, WINDOW))
        covariance, _ = ledoit_wolf(
            (features - self.mean).movedim(1, 3).flatten(0, 2) for features in batches
        )
        self.whitening.copy_(whitening(covariance))

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(B, C, h, w)`` to distances ``(B, 1, h, w)`` float32."""
        remainder = features.float() - self.mean
        white = torch.einsum("dc,bchw->bdhw", self.whitening, remainder)
        return white.square().mean(dim=1, keepdim=True)


def ledoit_wolf(centred: Iterable[Tensor]) -> tuple[Tensor, float]:
    """Covariance, shrunk towards a multiple of the identity where rows are few.

    Args:
        centred: parts ``(n, D)`` of the rows, their mean taken off; at least one row in all.

    Returns:
        ``(D, D)`` float64, and the share of the identity in it, from 0 to 1.
    """
    products = torch.zeros((), dtype=torch.float64)
    fourth, count = 0.0, 0
    for part in centred:
        rows = part.double()
        products = products + rows.T @ rows
        fourth += float(rows.square().sum(dim=1).square().sum())
        count += len(rows)
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
