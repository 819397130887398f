"""Densities of embeddings against scikit-learn and numpy, and distances of features."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import KernelDensity as Peer
from torch.nn import functional as F

from medad_fast.methods.parts import density as density_module
from medad_fast.methods.parts.density import (
    FeatureDistance,
    KernelDensity,
    MahalanobisDistance,
    ledoit_wolf,
    whitening,
)
from medad_fast.methods.parts.score import smooth


def unit(count, dimensions, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dimensions, generator=rng) + 0.5, dim=1)


@pytest.mark.parametrize("bandwidth", [0.1, 1.0])
@pytest.mark.parametrize(("count", "dimensions"), [(1, 4), (50, 16), (300, 512)])
def test_kernel_density_is_scikit_learns_up_to_the_constant(count, dimensions, bandwidth):
    points, rows = unit(count, dimensions), unit(20, dimensions, seed=1)
    density = KernelDensity(dimensions, bandwidth)
    density.fit(points)
    # One leaf, since its trees lose points in 512 dimensions where the bandwidth is narrow.
    peer = Peer(bandwidth=bandwidth, leaf_size=count + 1).fit(points.double().numpy())
    constant = dimensions / 2 * math.log(2 * math.pi * bandwidth**2)
    expected = -peer.score_samples(rows.double().numpy()) - constant
    np.testing.assert_allclose(density(rows).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_kernel_density_of_unit_vectors_is_the_closed_form():
    points, rows = unit(40, 512), unit(9, 512, seed=1)
    density = KernelDensity(512, 1.0)
    density.fit(points)
    inner = rows.double() @ points.double().T
    expected = 1 + math.log(40) - inner.logsumexp(1)
    torch.testing.assert_close(density(rows).double(), expected, rtol=1e-6, atol=1e-7)


def test_kernel_density_is_zero_at_the_only_point_and_grows_away_from_it():
    density = KernelDensity(8, 1.0)
    point = unit(1, 8)
    density.fit(point)
    assert density(point).abs().item() < 1e-12
    steps = torch.stack([point[0] * scale for scale in (1.0, 1.5, 3.0, 9.0)])
    assert density(steps).diff().min() > 0


def test_kernel_density_does_not_depend_on_how_points_are_parted(monkeypatch):
    points, rows = unit(33, 16), unit(5, 16, seed=1)
    density = KernelDensity(16, 0.5)
    density.fit(points)
    whole = density(rows)
    monkeypatch.setattr(density_module, "CHUNK", 7)
    torch.testing.assert_close(density(rows), whole, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("count", "dimensions"), [(30, 64), (500, 8), (40, 512)])
def test_covariance_and_distance_are_scikit_learns_and_numpys(count, dimensions):
    points, rows = unit(count, dimensions), unit(20, dimensions, seed=1)
    peer = LedoitWolf().fit(points.double().numpy())
    centred = points.double() - points.double().mean(0)
    covariance, share = ledoit_wolf(centred.split(7))
    np.testing.assert_allclose(covariance.numpy(), peer.covariance_, rtol=1e-8, atol=1e-14)
    assert share == pytest.approx(peer.shrinkage_)
    distance = MahalanobisDistance(dimensions)
    distance.fit(points)
    away = rows.double().numpy() - peer.location_
    inverse = np.linalg.inv(peer.covariance_)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", away, inverse, away))
    np.testing.assert_allclose(distance(rows).numpy(), expected, rtol=1e-6)


def test_what_never_varied_is_far_away_but_finite():
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[:, 3] = 0
    factor = whitening(rows.T @ rows / 50)
    assert torch.isfinite(factor).all()
    odd = factor @ torch.tensor([0.0, 0, 0, 1], dtype=torch.float64)
    assert odd.norm() > 500
    assert torch.equal(whitening(torch.zeros(3, 3)).abs(), torch.eye(3))


@pytest.mark.parametrize("same", [True, False])
def test_a_density_of_one_image_or_of_equal_ones_is_finite(same):
    points = unit(1, 16).repeat(5 if same else 1, 1)
    for density in (KernelDensity(16, 1.0), MahalanobisDistance(16)):
        density.fit(points)
        assert torch.isfinite(density(unit(4, 16, seed=1))).all()


def test_before_they_are_fitted_densities_are_finite_and_grow_from_the_origin():
    rows = torch.eye(3)[:2] * torch.tensor([[1.0], [2.0]])
    assert KernelDensity(3, 1.0)(rows).tolist() == pytest.approx([0.5, 2.0])
    assert MahalanobisDistance(3)(rows).tolist() == pytest.approx([1.0, 2.0])


def test_feature_distance_is_the_mahalanobis_distance_of_its_docstring():
    rng = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=rng)
    place = torch.randn(1, 6, 8, 8, generator=rng)
    noise = torch.randn(400, 6, 8, 8, generator=rng)
    features = place + torch.einsum("dc,bchw->bdhw", mixing, noise)
    distance = FeatureDistance(6, 8)
    distance.fit(features.split(150))
    mean = smooth(features.double().mean(0, keepdim=True), 3).numpy()
    rest = (features.double().numpy() - mean).transpose(0, 2, 3, 1).reshape(-1, 6)
    inverse = np.linalg.inv(LedoitWolf(assume_centered=True).fit(rest).covariance_)
    expected = np.einsum("ni,ij,nj->n", rest, inverse, rest).reshape(400, 8, 8) / 6
    found = distance(features)[:, 0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert found.mean() == pytest.approx(1.0, abs=1e-3)
    assert FeatureDistance(6, 8)(features).shape == (400, 1, 8, 8)
