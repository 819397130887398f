"""Mixtures of Gaussians against scikit-learn and closed forms."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Sklearn

from medad_fast.methods.parts.mixture import (
    GaussianMixture,
    Mixture,
    choose_mixture,
    expectation_maximisation,
    fit_mixture,
)


def clusters(count=200, features=3, centres=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    means = 3 * torch.randn(centres, features, generator=rng, dtype=torch.float64)
    shapes = torch.randn(centres, features, features, generator=rng, dtype=torch.float64)
    chosen = torch.randint(centres, (count,), generator=rng)
    noise = torch.randn(count, features, 1, generator=rng, dtype=torch.float64)
    return means[chosen] + 0.5 * (shapes[chosen] @ noise).squeeze(2)


def start(components, rows):
    features = rows.shape[1]
    return Mixture(
        torch.full((components,), 1 / components, dtype=torch.float64),
        rows[:components].clone(),
        torch.eye(features, dtype=torch.float64).repeat(components, 1, 1),
    )


@pytest.mark.parametrize("components", range(1, 9))
def test_twenty_iterations_are_those_of_scikit_learn(components):
    rows = clusters()
    begin = start(components, rows)
    peer = Sklearn(
        components,
        tol=0.0,
        max_iter=20,
        reg_covar=1e-5,
        weights_init=begin.weights.numpy(),
        means_init=begin.means.numpy(),
        precisions_init=begin.covariances.numpy(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        peer.fit(rows.numpy())
    ours = expectation_maximisation(rows, begin, iterations=20, tolerance=0.0)
    np.testing.assert_allclose(ours.weights, peer.weights_, rtol=1e-8)
    np.testing.assert_allclose(ours.means, peer.means_, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(ours.covariances, peer.covariances_, rtol=1e-7, atol=1e-10)

    density = GaussianMixture(3, 8)
    density.store(ours)
    others = clusters(seed=1)
    np.testing.assert_allclose(
        density.log_density(others), peer.score_samples(others.numpy()), rtol=1e-9
    )


@pytest.mark.parametrize("components", range(1, 9))
def test_the_gradient_is_the_finite_difference_and_the_closed_form(components):
    rows = clusters()
    mixture = expectation_maximisation(rows, start(components, rows), iterations=5)
    density = GaussianMixture(3, components)
    density.store(mixture)
    at = clusters(5, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(density.log_density, (at,))
    (gradient,) = torch.autograd.grad(density.log_density(at).sum(), at)
    joint = torch.stack(
        [
            weight.log() + torch.distributions.MultivariateNormal(mean, covariance).log_prob(at)
            for weight, mean, covariance in zip(
                mixture.weights, mixture.means, mixture.covariances, strict=True
            )
        ],
        dim=1,
    )
    shares = joint.softmax(1)
    pulls = torch.linalg.solve(mixture.covariances, (mixture.means - at[:, None])[..., None])
    torch.testing.assert_close(gradient, (shares[..., None] * pulls.squeeze(3)).sum(1))


def test_one_component_is_mean_and_covariance_of_the_rows():
    rows = clusters()
    mixture = fit_mixture(rows, 1, floor=1e-3, shrinkage=0.25)
    torch.testing.assert_close(mixture.means[0], rows.mean(0))
    covariance = torch.cov(rows.T, correction=0)
    ball = covariance.diagonal().mean() * torch.eye(3)
    expected = 0.75 * covariance + 0.25 * ball + 1e-3 * torch.eye(3)
    torch.testing.assert_close(mixture.covariances[0], expected)


def test_squared_responsibilities_shrink_covariances_of_several_components_only():
    rows = clusters(centres=2, seed=4) / 3
    for components, shrinks in ((1, False), (4, True)):
        plain, squared = (
            expectation_maximisation(rows, start(components, rows), squared=s, iterations=1)
            for s in (False, True)
        )
        torch.testing.assert_close(plain.means, squared.means)
        volumes = [m.covariances.diagonal(dim1=1, dim2=2).sum(1) for m in (plain, squared)]
        assert bool((volumes[1] < 0.99 * volumes[0]).all()) == shrinks
        assert bool((volumes[1] == volumes[0]).all()) == (not shrinks)


def test_covariances_wait_until_means_have_settled(monkeypatch):
    seen = []
    original = expectation_maximisation
    monkeypatch.setattr(
        "medad_fast.methods.parts.mixture.expectation_maximisation",
        lambda rows, mixture, **options: (
            seen.append((mixture, options["fixed"])) or original(rows, mixture, **options)
        ),
    )
    rows = clusters()
    first, second = fit_mixture(rows, 3), fit_mixture(rows, 3)
    assert all(map(torch.equal, vars(first).values(), vars(second).values()))
    (before, fixed), (after, loose) = seen[:2]
    assert (fixed, loose) == (True, False)
    unit = torch.eye(3, dtype=torch.float64).repeat(3, 1, 1)
    assert torch.equal(before.covariances, unit)
    assert torch.equal(after.covariances, unit)
    assert 0 <= before.means.min() <= before.means.max() <= 1
    assert not torch.equal(before.means, after.means)
    assert not torch.equal(first.covariances, unit)


def test_more_components_than_rows_stay_finite():
    rows = clusters(3, features=6)
    mixture = fit_mixture(rows, 8)
    density = GaussianMixture(6, 8)
    density.store(mixture)
    at = (rows + 5).requires_grad_()
    value = density.log_density(at)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(at.grad).all()
    assert mixture.weights.sum().item() == pytest.approx(1)


def test_the_mixture_that_suits_held_out_rows_is_chosen():
    rows, others = clusters(400, centres=2, seed=3), clusters(400, centres=2, seed=3)[::2]
    chosen = choose_mixture(rows, others, [4, 1, 2])
    scores = {}
    for components in (1, 2, 4):
        density = GaussianMixture(3, 4)
        density.store(fit_mixture(rows, components))
        scores[components] = density.log_density(others).mean().item()
    assert len(chosen.weights) == max(scores, key=scores.__getitem__) != 1
    assert len(choose_mixture(rows, rows[:0], [4, 2]).weights) == 2


def test_nothing_stored_is_the_standard_normal_and_unused_components_weigh_nothing():
    density = GaussianMixture(2, 3)
    at = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    expected = [-math.log(2 * math.pi), -math.log(2 * math.pi) - 12.5]
    assert density.log_density(at).tolist() == pytest.approx(expected)
    density.store(fit_mixture(clusters(features=2), 3))
    density.store(fit_mixture(clusters(features=2, seed=9), 1))
    alone = GaussianMixture(2, 1)
    alone.store(fit_mixture(clusters(features=2, seed=9), 1))
    assert torch.equal(density.log_density(at), alone.log_density(at))
    # A run with a value that is not finite would count as damaged.
    assert all(value.isfinite().all() for value in density.state_dict().values())


def test_a_component_that_no_row_belongs_to_stays_finite_and_weighs_nothing():
    rows = clusters()
    begin = start(2, rows)
    begin.means[1] = 1e6
    mixture = expectation_maximisation(rows, begin, iterations=3)
    assert all(torch.isfinite(value).all() for value in vars(mixture).values())
    assert mixture.weights[1] < 1e-12
    torch.testing.assert_close(mixture.means[0], rows.mean(0))
