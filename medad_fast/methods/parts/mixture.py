"""Mixtures of Gaussians with full covariances, fitted by expectation-maximisation in float64.

Source: the latent density of CRADL (Lueth et al., 2023), in the order of steps of the group's
released code (MIC-DKFZ/cOOpD, latent_gen/gmm_general.py): means start uniformly in [0, 1] with unit
covariances and equal weights; the covariances stay so until the likelihood has settled, then all is
fitted. That code weighs both factors of the covariance's outer product, which squares the
responsibilities and makes covariances too small where there is more than one component;
``squared`` reproduces it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

ITERATIONS = 1000  # the released code's
TOLERANCE = 1e-2  # of the mean log-likelihood; the released code's
ABSENT = -1e30  # log weight of a component that is not there: finite, since a run's tensors are


@dataclass(frozen=True)
class Mixture:
    """Parameters of ``K`` components in ``d`` dimensions, all float64."""

    weights: Tensor
    """``(K)``, sum 1."""
    means: Tensor
    """``(K, d)``."""
    covariances: Tensor
    """``(K, d, d)``."""


class GaussianMixture(nn.Module):
    """Density of rows; a standard normal one until :meth:`store` has been called.

    Covariances are kept as inverse Cholesky factors, so that no call factorises them again.

    Args:
        features: length of a row.
        components: the most that a stored mixture has.
    """

    log_weights: Tensor
    means: Tensor
    whitening: Tensor
    log_scale: Tensor

    def __init__(self, features: int, components: int) -> None:
        super().__init__()
        kind = torch.float64
        log_weights = torch.full((components,), ABSENT, dtype=kind)
        log_weights[0] = 0.0
        unit = torch.eye(features, dtype=kind)
        self.register_buffer("log_weights", log_weights)
        self.register_buffer("means", torch.zeros(components, features, dtype=kind))
        self.register_buffer("whitening", unit.repeat(components, 1, 1))
        self.register_buffer("log_scale", torch.zeros(components, dtype=kind))

    @torch.no_grad()
    def store(self, mixture: Mixture) -> None:
        """Take a mixture of at most as many components; further ones get the weight 0."""
        used = len(mixture.weights)
        factors = torch.linalg.cholesky(mixture.covariances)
        unit = torch.eye(factors.shape[-1], dtype=factors.dtype, device=factors.device)
        self.log_weights.fill_(ABSENT)
        self.log_weights[:used] = mixture.weights.log().clamp(min=ABSENT)
        self.means[:used] = mixture.means
        self.whitening[:used] = torch.linalg.solve_triangular(factors, unit, upper=False)
        self.log_scale[:used] = factors.diagonal(dim1=1, dim2=2).log().sum(1)

    def log_density(self, rows: Tensor) -> Tensor:
        """Logarithm of the density at rows ``(B, d)``: float64 ``(B)``, with a gradient."""
        centred = rows.double()[:, None] - self.means
        white = torch.einsum("kij,bkj->bki", self.whitening, centred)
        constant = 0.5 * rows.shape[1] * math.log(2 * math.pi)
        logs = self.log_weights - 0.5 * white.square().sum(2) - self.log_scale - constant
        return logs.logsumexp(1)


@torch.no_grad()
def choose_mixture(
    rows: Tensor, held_out: Tensor, components: Sequence[int], **options: Any
) -> Mixture:
    """Of mixtures of ``rows`` the one that gives ``held_out`` rows the highest likelihood.

    Without held-out rows, and among equals, the one with the fewest components. ``options`` are
    those of :func:`fit_mixture`.
    """
    fitted = [fit_mixture(rows, count, **options) for count in sorted(set(components))]
    if not len(held_out):
        return fitted[0]
    return max(fitted, key=lambda mixture: float(_joint(held_out, mixture).logsumexp(1).mean()))


@torch.no_grad()
def fit_mixture(rows: Tensor, components: int, *, seed: int = 0, **options: Any) -> Mixture:
    """Fit ``components`` Gaussians to rows ``(N, d)``, the same for the same ``seed``.

    Args:
        rows: float64, standardised: the starting means suppose it.
        components: at least 1.
        seed: of the starting means.
        **options: those of :func:`expectation_maximisation`.
    """
    generator = torch.Generator().manual_seed(seed)
    features = rows.shape[1]
    means = torch.rand(components, features, dtype=torch.float64, generator=generator)
    unit = torch.eye(features, dtype=torch.float64).repeat(components, 1, 1)
    equal = torch.full((components,), 1.0 / components, dtype=torch.float64)
    mixture = Mixture(equal.to(rows.device), means.to(rows.device), unit.to(rows.device))
    for fixed in (True, False):
        mixture = expectation_maximisation(rows, mixture, fixed=fixed, **options)
    return mixture


@torch.no_grad()
def expectation_maximisation(
    rows: Tensor,
    mixture: Mixture,
    *,
    floor: float = 1e-5,
    shrinkage: float = 0.0,
    squared: bool = False,
    fixed: bool = False,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> Mixture:
    """Improve a mixture until the mean log-likelihood of the rows moves by less than ``tolerance``.

    Args:
        rows: ``(N, d)`` float64.
        mixture: where to start.
        floor: added to the variances of each component, so that few rows give a density.
        shrinkage: 0 to 1, from the fitted covariance to that of a ball of the same total variance.
        squared: as the released code computes covariances, see above.
        fixed: leave the covariances as they are.
        iterations: at most.
        tolerance: see above.
    """
    before = -math.inf
    for _ in range(iterations):
        logs = _joint(rows, mixture)
        likelihood = float(logs.logsumexp(1).mean())
        if abs(likelihood - before) < tolerance:
            break
        before = likelihood
        shares = logs.softmax(1)
        # A component that lost all rows keeps a finite mean, with the weight of rounding errors.
        totals = shares.sum(0) + 10 * torch.finfo(shares.dtype).eps
        means = shares.T @ rows / totals[:, None]
        covariances = mixture.covariances
        if not fixed:
            power = shares.square() if squared else shares
            covariances = torch.stack(
                [
                    _regular(
                        (power[:, k, None] * (rows - means[k])).T @ (rows - means[k]) / total,
                        floor,
                        shrinkage,
                    )
                    for k, total in enumerate(totals)
                ]
            )
        mixture = Mixture(totals / totals.sum(), means, covariances)
    return mixture


def _regular(covariance: Tensor, floor: float, shrinkage: float) -> Tensor:
    unit = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    ball = covariance.diagonal().mean() * unit
    return (1.0 - shrinkage) * covariance + shrinkage * ball + floor * unit


def _joint(rows: Tensor, mixture: Mixture) -> Tensor:
    """Logarithm of weight times density of each component, ``(N, K)``."""
    constant = 0.5 * rows.shape[1] * math.log(2 * math.pi)
    factors = torch.linalg.cholesky(mixture.covariances)
    columns = []
    for weight, mean, factor in zip(mixture.weights, mixture.means, factors, strict=True):
        white = torch.linalg.solve_triangular(factor, (rows - mean).T, upper=False)
        scale = factor.diagonal().log().sum()
        columns.append(weight.log() - 0.5 * white.square().sum(0) - scale - constant)
    return torch.stack(columns, dim=1)
