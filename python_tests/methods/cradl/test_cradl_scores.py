"""CRADL's score and map: the density of the latent and its gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medad_fast.methods.parts.score import foreground, score_images
from medad_fast.ops import smooth_saliency
from python_tests.methods.cradl.small import FLOW, build, fitted
from python_tests.methods.small import discs


@pytest.mark.parametrize("settings", [{"components": (1,)}, {"components": (4,)}, FLOW])
def test_the_score_is_the_negative_log_density_of_the_latent(settings):
    """With its scale: the density of the latent itself, not of its standardised form."""
    method = fitted(**settings)
    images = discs(5, seed=3)
    scores = method.predict(images).anomaly_score
    with torch.no_grad():
        standardised = (method.encoder(images).double() - method.latent_mean) / method.latent_spread
        if method.flow is None:
            inner = method.mixture.log_density(standardised)
        else:
            inner = method.flow.log_density(standardised.float())
        expected = method.latent_spread.log().sum() - inner
    torch.testing.assert_close(scores, expected.float())
    compat = method.__class__(method.config.__class__(**{**vars(method.config), "compat": True}))
    compat.load_state_dict(method.state_dict())
    shift = scores - compat.eval().predict(images).anomaly_score
    torch.testing.assert_close(
        shift, method.latent_spread.log().sum().float().expand(5), rtol=1e-4, atol=1e-4
    )


def test_one_component_is_the_gaussian_of_the_raw_latents():
    method = fitted(components=(1,), covariance_floor=1e-12)
    with torch.no_grad():
        latents = method.encoder(discs(24, seed=1)).double()
        at = method.encoder(discs(5, seed=3)).double()
    gaussian = torch.distributions.MultivariateNormal(
        latents.mean(0), torch.cov(latents.T, correction=0)
    )
    scores = method.predict(discs(5, seed=3)).anomaly_score
    torch.testing.assert_close(scores, -gaussian.log_prob(at).float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("settings", [{"components": (3,)}, FLOW])
def test_the_map_is_the_scores_gradient(settings):
    method = fitted(**settings, saliency="raw", mask_background=False)
    images = discs(2, seed=3)
    maps = method.predict(images).anomaly_map
    wide = method.double()
    for row, column in ((10, 12), (16, 16), (25, 20)):
        step = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
        step[..., row, column] = 1e-5
        with torch.no_grad():
            up, down = (
                wide._negative_log_likelihood(wide.encoder(images.double() + sign * step))
                for sign in (1, -1)
            )
        slope = ((up - down) / 2e-5).abs()
        torch.testing.assert_close(
            maps[:, 0, row, column].double(), slope, rtol=2e-3, atol=1e-3 * maps.mean().item()
        )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("masked", [True, False])
def test_the_map_is_masked_and_smoothed_by_the_op(channels, masked):
    images = discs(3, seed=3, channels=channels)
    for saliency in ("smooth", "raw"):
        method = build(channels=channels, saliency=saliency, mask_background=masked).eval()
        given = images.clone().requires_grad_()
        scores = method._negative_log_likelihood(method.encoder(given))
        (gradient,) = torch.autograd.grad(scores.sum(), given)
        body = foreground(images).float() if masked else torch.ones(3, 1, 32, 32)
        expected = (gradient.abs() * body).amax(1, keepdim=True)
        if saliency == "smooth":
            expected = smooth_saliency(gradient, body.expand_as(gradient))
        maps = method.predict(images).anomaly_map
        torch.testing.assert_close(maps, expected)
        assert bool(maps[:, :, :3, :3].any()) != masked


@pytest.mark.parametrize("rule", ["max", "mean", "topk", "quantile"])
def test_the_image_score_can_come_from_the_map(rule):
    method = build(image_score=rule).eval()
    scores, maps = method.predict(discs(3))
    assert torch.equal(scores, score_images(maps, method.config))


def test_predicting_works_in_every_gradient_mode_and_leaves_it_as_it_was():
    method = fitted()
    images = discs(3, seed=3)
    expected = method.predict(images)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        found = method.predict(images)
        assert not torch.is_grad_enabled()
        assert all(map(torch.equal, found, expected))
    with torch.inference_mode():
        found = method.predict(images.clone())
        assert torch.is_inference_mode_enabled()
    assert all(map(torch.equal, found, expected))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = method.predict(images)
    assert all(map(torch.equal, found, expected))
    wanting = images.clone().requires_grad_()
    for part in method.predict(wanting):
        assert not part.requires_grad
    assert wanting.grad is None
    assert all(parameter.grad is None for parameter in method.parameters())
    assert all(parameter.requires_grad for parameter in method.parameters())


def test_predicting_uses_and_keeps_the_norms_of_training_also_in_training_mode():
    method = fitted()
    images = discs(3, seed=3)
    expected = method.predict(images)
    state = {name: value.clone() for name, value in method.state_dict().items()}
    method.train()
    found = method.predict(images)
    assert method.training
    assert method.encoder.training
    assert all(map(torch.equal, found, expected))
    assert all(torch.equal(value, state[name]) for name, value in method.state_dict().items())


@pytest.mark.parametrize("density", [{}, FLOW])
def test_lengths_of_unit_latents_do_not_count(density):
    def scores(factor, **settings):
        """Of a method whose encoder gives latents of other lengths from image to image."""
        method = fitted(**density, **settings)
        method.encoder = Lengthened(method.encoder, factor)
        return method.predict(discs(5, seed=3)).anomaly_score

    torch.testing.assert_close(scores(3.0, unit_latents=True), scores(1.0, unit_latents=True))
    assert not torch.allclose(scores(3.0), scores(1.0))


class Lengthened(nn.Module):
    def __init__(self, encoder, factor):
        super().__init__()
        self.encoder, self.factor = encoder, factor

    def forward(self, images):
        return self.factor * self.encoder(images)
