"""DDAD's maps and scores against the paper's equations."""

from __future__ import annotations

import math

import pytest
import torch

from medad_fast.methods.parts.score import foreground, smooth
from medad_fast.nets.ensemble import EnsembleAutoencoder
from python_tests.methods.counting import Counting
from python_tests.methods.ddad.plain import PlainAutoencoder
from python_tests.methods.ddad.small import BACKBONES, build, ready
from python_tests.methods.small import discs


def literal_maps(method, images):
    """Sec. 1.7's equations in float64, from each network on its own."""

    def of(ensemble):
        members = [PlainAutoencoder(ensemble, k).double().eval() for k in range(3)]
        return torch.stack([member(images.double())[0] for member in members])

    channels = images.shape[1]
    unknown, normal = of(method.unknown), of(method.normal)
    a, b = unknown[:, :, :channels], normal[:, :, :channels]
    inter, intra = (a.mean(0) - b.mean(0)).abs(), b.var(0, unbiased=True).sqrt()
    rec = (images - b.mean(0)) ** 2
    if method.config.backbone == "ae-u":
        v = normal[:, :, channels:].exp().mean(0)
        inter, intra, rec = inter / v.sqrt(), intra / v.sqrt(), rec / v
    return [each.mean(1, keepdim=True) for each in (inter, intra, rec)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_maps_are_the_papers_equations(backbone, channels):
    method = (ready if channels == 1 else build)(backbone=backbone, channels=channels)
    images = discs(3, channels=channels)
    expected = literal_maps(method, images)
    for got, wanted in zip(method.discrepancies(images), expected, strict=True):
        assert got.shape == (3, 1, 32, 32)
        torch.testing.assert_close(got.double(), wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("score", ["A_inter", "A_intra", "A_rec"])
def test_the_score_names_the_map(score):
    method = ready()
    images = discs(3)
    wanted = dict(zip(("A_inter", "A_intra", "A_rec"), method.discrepancies(images), strict=True))[
        score
    ]
    other = build(score=score)
    found = other.load_state_dict(method.state_dict(), strict=False)
    assert not found.missing_keys
    prediction = other.eval().predict(images)
    torch.testing.assert_close(prediction.anomaly_map, wanted)
    torch.testing.assert_close(prediction.anomaly_score, wanted.mean((1, 2, 3)))
    assert (other.unknown is not None) == other.uses_unlabeled == (score == "A_inter")
    assert other.refinement is None


def test_prediction_runs_no_norms_and_one_channel_of_the_head():
    method = ready()
    with Counting() as counting:
        method.predict(discs(3))
    assert not [name for name in counting.calls if "batch_norm" in name or "softmax" in name]
    convolutions = counting.shapes["convolution"]
    assert len(convolutions) == 2 * 3 * 8 + 3
    assert convolutions[-1] == (3, 1, 32, 32)


def with_log_variance(method, value):
    """An AE-U whose members all predict one log-variance."""
    for ensemble in (method.normal, method.unknown):
        with torch.no_grad():
            ensemble.decoder[3].weight[:, :, 1] = 0
    reconstruct = EnsembleAutoencoder.reconstruct

    def shifted(self, images):
        found = reconstruct(self, images)
        return found._replace(log_variance=found.log_variance + value)

    return shifted


def test_an_ae_u_without_log_variance_equals_an_ae_and_a_constant_scales_its_maps(monkeypatch):
    images = discs(3)
    method = build(backbone="ae-u")
    plain = build(backbone="ae")
    shifted = with_log_variance(method, math.log(4.0))
    weights = method.state_dict()
    for name in ("normal.decoder.3.weight", "unknown.decoder.3.weight"):
        weights[name] = weights[name][:, :, :1]
    plain.load_state_dict(weights)
    zero, ae = method.discrepancies(images), plain.discrepancies(images)
    for a, b in zip(zero, ae, strict=True):
        torch.testing.assert_close(a, b)
    monkeypatch.setattr(EnsembleAutoencoder, "reconstruct", shifted)
    four = method.discrepancies(images)
    for a, b, factor in zip(four, zero, (0.5, 0.5, 0.25), strict=True):
        torch.testing.assert_close(a, factor * b)


def test_the_map_can_be_smoothed_and_masked():
    images = discs(2)
    raw = build().predict(images).anomaly_map
    smoothed = build(map_smoothing=5).predict(images).anomaly_map
    masked = build(mask_background=True).predict(images).anomaly_map
    torch.testing.assert_close(smoothed, smooth(raw, 5))
    assert torch.equal(masked, raw * foreground(images))
