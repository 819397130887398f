"""SALAD's score and map: terms against their formulas, and what normal images are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medad_fast.methods.parts.normals import NormalTerms
from medad_fast.methods.parts.score import foreground
from medad_fast.methods.salad import TERMS
from medad_fast.ops import ssim
from medad_fast.training.loop import train
from python_tests.methods.salad.small import build
from python_tests.methods.small import discs


def test_a_term_that_does_not_vary_is_named_and_keeps_its_unit():
    terms = NormalTerms(3)
    values = torch.tensor([[1.0, 2.0, 0.0], [1.0, 4.0, 0.0]])
    assert terms.fit([values[:1], values[1:]]).tolist() == [True, False, True]
    torch.testing.assert_close(
        terms(torch.tensor([[3.0, 5.0, 2.0]])), torch.tensor([[2.0, 2.0, 2.0]])
    )
    method = build()
    with torch.no_grad():
        method.encoder.to_latent.weight.zero_()
    with (
        pytest.warns(UserWarning, match="salad has collapsed"),
        pytest.warns(UserWarning, match="consistency and centre is the same for all held-out"),
    ):
        method.finish([discs(8)], [discs(4)])
    assert torch.isfinite(method.predict(discs(3)).anomaly_score).all()


def test_terms_are_their_formulas():
    method = build(score_rotation=1.0).eval()
    method.centre.follow(torch.randn(4, 16))
    images = discs(3)
    terms = method.terms(images)
    assert tuple(terms) == TERMS
    with torch.no_grad():
        z = method.encoder(images)
        rebuilt = method.decoder(z)
        similar = ssim(images, rebuilt, data_range=2.0, padding="same", reduction="none")
        turns = [
            method.rotation_head(method.encoder(torch.rot90(images, k, (2, 3)))) for k in range(4)
        ]
        expected = {
            "reconstruction": (images - rebuilt).abs().mean((1, 2, 3)),
            "structure": 1 - similar.mean((1, 2, 3)),
            "consistency": (method.encoder(rebuilt) - z).square().mean(1),
            "centre": (z - method.centre()).square().mean(1),
            "rotation": -sum(turn.log_softmax(1)[:, k] for k, turn in enumerate(turns)) / 4,
        }
    for name in TERMS:
        torch.testing.assert_close(terms[name], expected[name], rtol=1e-4, atol=1e-5)


def test_held_out_normal_images_have_terms_of_mean_zero_and_deviation_one():
    method = build(score_rotation=1.0)
    train_images, held_out = discs(8), discs(30, seed=1)
    method.finish([train_images], held_out.split(7))
    terms = torch.stack(list(method.terms(held_out).values()), dim=1)
    normalised = method.normal_terms(terms)
    torch.testing.assert_close(normalised.mean(0), torch.zeros(5), atol=1e-3, rtol=0)
    torch.testing.assert_close(normalised.std(0, correction=0), torch.ones(5), rtol=1e-3, atol=0)
    torch.testing.assert_close(
        method.predict(held_out).anomaly_score, normalised.sum(1), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("place", range(5))
def test_each_score_weight_is_of_its_own_term(place):
    weights = {f"score_{name}": 2.0 * (i == place) for i, name in enumerate(TERMS)}
    method = build(**weights)
    method.finish([discs(6)], [discs(6, seed=1)])
    images = discs(3, seed=2)
    terms = torch.stack(list(method.terms(images).values()), dim=1)
    expected = 2 * method.normal_terms(terms)[:, place]
    torch.testing.assert_close(method.predict(images).anomaly_score, expected)


@pytest.mark.parametrize("held_out", [[], [discs(1, seed=1)]])
def test_training_images_stand_in_for_too_few_held_out_ones(held_out):
    one, other = build(), build()
    one.finish([discs(6)], held_out)
    other.finish([discs(6)], [discs(6)])
    assert torch.equal(one.normal_terms.mean, other.normal_terms.mean)
    assert (one.normal_terms.gain != 1).any()


def test_an_image_that_is_rebuilt_exactly_has_an_empty_map():
    method = build().eval()
    images = discs(2)
    method.decoder = nn.Module()
    method.decoder.forward = lambda latent: images
    assert not method.predict(images).anomaly_map.any()
    assert not any(method.terms(images)[name].any() for name in TERMS[:3])


def test_the_map_adds_up_both_errors_in_deviations_of_held_out_pixels():
    images, held_out = discs(3), discs(10, seed=1)
    maps = {}
    for kind in ("reconstruction", "structure", "both"):
        method = build(map_error=kind)
        method.finish([discs(6, seed=2)], [held_out])
        maps[kind] = method.predict(images).anomaly_map
    torch.testing.assert_close(maps["both"], maps["reconstruction"] + maps["structure"])
    with torch.no_grad():
        rebuilt = method.decoder(method.encoder(held_out))
        spread = (held_out - rebuilt).abs().std(correction=0)
        error = (images - method.decoder(method.encoder(images))).abs()
    torch.testing.assert_close(maps["reconstruction"], error / spread, rtol=1e-3, atol=1e-4)


def test_black_pixels_have_no_error_where_asked():
    images = discs(2)
    masked = build(mask_background=True).eval().predict(images).anomaly_map
    plain = build().eval().predict(images).anomaly_map
    assert torch.equal(masked, plain * foreground(images))
    assert (plain[~foreground(images)] > 0).any()


def test_errors_count_by_what_is_normal_at_a_place_where_asked():
    method = build(normal_margin=0.5)
    images = discs(6)
    method.finish([images], [])
    assert method.normals is not None
    assert (method.normals.mean[:, 0] != method.normals.mean[:, 1]).any()
    _, rebuilt = method._there_and_back(images)
    errors = method._raw_errors(images, rebuilt)
    expected = ((errors - method.normals.mean) / method.normals.scale - 0.5).clamp(min=0)
    expected = (expected * method.normal_errors.gain[:, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(method.predict(images).anomaly_map, expected)


def test_what_finish_learns_is_saved_with_the_weights():
    method = build(normal_margin=0.5)
    train(method, discs(8), max_steps=2, device="cpu")
    method.finish([discs(8)], [discs(4, seed=1)])
    again = build(normal_margin=0.5, seed=7).eval()
    again.load_state_dict(method.state_dict())
    for one, other in zip(method.predict(discs(3)), again.predict(discs(3)), strict=True):
        assert torch.equal(one, other)
