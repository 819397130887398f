"""PatchCL-AE's losses: the paper's equations, their ablations and who gets a gradient."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from medad_fast.errors import InputError
from medad_fast.methods import create
from medad_fast.methods.parts.adversarial import generator_loss
from medad_fast.methods.parts.score import foreground
from medad_fast.nets.projection import rows_at
from medad_fast.training.loop import train
from python_tests.methods.small import discs, small

build = partial(small, "patchcl-ae")


def literal_patch_loss(method, images, reconstruction, ids):
    """Eq. 3 of the paper, written out row by row."""
    c = method.config
    total = 0.0
    original, rebuilt = method.encoder(images), method.encoder(reconstruction)
    for layer, head, chosen in zip(c.layers, method.heads, ids, strict=True):
        for b in range(len(images)):
            z = head(original[layer - 1][b].flatten(1)[:, chosen].T)
            z_hat = head(rebuilt[layer - 1][b].flatten(1)[:, chosen].T)
            rows = []
            for s in range(len(chosen)):
                similar = F.cosine_similarity(z_hat[s], z, dim=1) / c.temperature
                rows.append(-math.log(similar[s].exp() / similar.exp().sum()))
            total += (sum(rows) / len(rows) if c.reduction == "mean" else sum(rows)) / len(images)
    return total


def record_ids(method, monkeypatch):
    drawn = []
    sample = type(method)._sample

    def recording(self, features, images):
        drawn.append(sample(self, features, images))
        return drawn[-1]

    monkeypatch.setattr(type(method), "_sample", recording)
    return drawn


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_patch_loss_is_the_papers_equation(reduction, monkeypatch):
    method = build(reduction=reduction, patches=12)
    drawn = record_ids(method, monkeypatch)
    images, reconstruction = discs(2), discs(2, seed=1)
    with torch.no_grad():
        loss = method.patch_loss(images, reconstruction)
        expected = literal_patch_loss(method, images, reconstruction, drawn)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("foreground_only", [False, True])
def test_each_layer_draws_distinct_positions_at_most_as_many_as_it_has(
    foreground_only, monkeypatch
):
    method = build(foreground_only=foreground_only, patches=32)
    drawn = record_ids(method, monkeypatch)
    images = discs(3)
    method.patch_loss(images, images)
    assert [ids.shape[-1] for ids in drawn] == [32, 32, 32, 16]  # the last map is 4 x 4
    for ids in drawn:
        for row in ids.reshape(-1, ids.shape[-1]).tolist():
            assert len(set(row)) == len(row)


def test_both_sides_use_the_same_positions(monkeypatch):
    method = build(patches=8)
    seen = []
    monkeypatch.setattr(
        "medad_fast.methods.patchcl_ae.rows_at",
        lambda features, ids: seen.append(ids) or rows_at(features, ids),
    )
    method.patch_loss(discs(2), discs(2, seed=1))
    assert len(seen) == 8
    assert all(torch.equal(a, b) for a, b in zip(seen[:4], seen[4:], strict=True))


def test_foreground_positions_come_first_where_asked():
    method = build(foreground_only=True, patches=20)
    images = discs(4)
    ids = method._sample(images, images)
    assert rows_at(foreground(images).float(), ids).min() == 1
    assert not torch.equal(ids[0].sort().values, ids[1].sort().values)


@pytest.mark.parametrize("loss", ["contrastive", "cosine", "mse"])
@pytest.mark.parametrize("detach", [True, False])
def test_keys_carry_a_gradient_only_where_they_are_not_detached(loss, detach):
    method = build(detach_key=detach, patch_loss=loss)
    images = discs(2).requires_grad_()
    reconstruction = discs(2, seed=1).requires_grad_()
    method.patch_loss(images, reconstruction).backward()
    assert reconstruction.grad.abs().sum() > 0
    assert (images.grad is None) == detach


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", ["cosine", "mse"])
def test_the_losses_without_negatives_are_those_of_table_8(kind, reduction, monkeypatch):
    method = build(patch_loss=kind, reduction=reduction, patches=12)
    drawn = record_ids(method, monkeypatch)
    images, reconstruction = discs(3), discs(3, seed=1)
    with torch.no_grad():
        loss = method.patch_loss(images, reconstruction)
        original, rebuilt = method.encoder(images), method.encoder(reconstruction)
        expected = 0
        for layer, head, ids in zip(method.config.layers, method.heads, drawn, strict=True):
            z, z_hat = (head(rows_at(maps[layer - 1], ids)) for maps in (original, rebuilt))
            far = 1 - F.cosine_similarity(z, z_hat, dim=2)
            if kind == "mse":
                far = (z - z_hat).square().sum(2)
            expected += getattr(far, reduction)(dim=1).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


ABLATIONS = {
    # Table 7
    "pixel": {"patch_weight": 0, "pixel_weight": 1, "adversarial_weight": 0, "score": "pixel"},
    "pixel and adversarial": {"patch_weight": 0, "pixel_weight": 1, "score": "pixel"},
    "pixel score": {"score": "pixel"},
    "patch score": {"score": "patch"},
    # Table 8
    "cosine": {"patch_loss": "cosine"},
    "mse": {"patch_loss": "mse"},
    # not in the paper's tables
    "no adversarial": {"adversarial_weight": 0},
    "cosine, no adversarial": {"patch_loss": "cosine", "adversarial_weight": 0},
    "mse, no adversarial": {"patch_loss": "mse", "adversarial_weight": 0},
}


@pytest.mark.parametrize("settings", ABLATIONS.values(), ids=ABLATIONS)
def test_every_ablation_trains_its_own_terms_and_scores(settings):
    method = build(**settings)
    before = {name: value.clone() for name, value in method.named_parameters()}
    train(method, discs(4), max_steps=2, device="cpu")
    moved = {
        name.split(".")[0]
        for name, value in method.named_parameters()
        if not torch.equal(value, before[name])
    }
    expected = {"encoder", "decoder"}
    if settings.get("patch_weight", 1):
        expected |= {"heads"}
    if settings.get("adversarial_weight", 1):
        expected |= {"discriminator"}
    assert moved == expected
    score, anomaly_map = method.predict(discs(2))
    assert score.isfinite().all()
    if settings.get("score") == "pixel":
        images = discs(2)
        error = (images - method.decoder(method.encoder(images)[-1])).abs().mean(1, keepdim=True)
        torch.testing.assert_close(anomaly_map, error)


@pytest.mark.parametrize(("kind", "power"), [("l1", 1), ("mse", 2)])
def test_the_pixel_loss_is_the_mean_error_of_the_corrupted_images_reconstruction(kind, power):
    weights = {"patch_weight": 0, "adversarial_weight": 0, "pixel_weight": 3.0}
    method = build(pixel_loss=kind, noise_sigma=0.0, **weights)
    images = discs(3)
    error = (method.decoder(method.encoder(images)[-1]) - images).abs().pow(power).mean()
    torch.testing.assert_close(method.generator_loss(images), 3 * error)


def test_the_losses_add_up_with_their_weights():
    images = discs(3)

    def loss(patch, pixel, adversarial):
        method = build(patch_weight=patch, pixel_weight=pixel, adversarial_weight=adversarial)
        torch.manual_seed(0)
        return method.generator_loss(images).item()

    parts = 2 * loss(1, 0, 0) + 3 * loss(0, 1, 0) + 4 * (loss(1, 0, 1) - loss(1, 0, 0))
    assert loss(2, 3, 4) == pytest.approx(parts, rel=1e-4)


def test_the_cosine_loss_of_equal_images_is_zero_and_the_contrastive_is_not():
    images = discs(2)
    for loss, zero in (("cosine", True), ("mse", True), ("contrastive", False)):
        method = build(patch_loss=loss)
        assert (method.patch_loss(images, images).item() == 0) == zero


def test_the_discriminator_moves_first_and_both_see_one_reconstruction(monkeypatch):
    method = build()
    (stage,) = method.stages()
    assert [update.name for update in stage.updates] == ["discriminator", "generator"]
    passes = []
    method.decoder.register_forward_hook(lambda *_: passes.append(1))
    images = discs(4)
    for update in stage.updates:
        update.loss(images)
    assert len(passes) == 1
    stage.updates[1].loss(images)
    assert len(passes) == 2


def test_the_discriminators_loss_gives_the_autoencoder_no_gradient():
    method = build()
    method.discriminator_loss(discs(2)).backward()
    assert all(parameter.grad is None for parameter in method.encoder.parameters())
    assert all(parameter.grad is None for parameter in method.decoder.parameters())


@pytest.mark.parametrize("kind", ["non_saturating", "saturating", "least_squares"])
def test_every_adversarial_loss_asks_for_reconstructions_that_look_real(kind):
    method = build(adversarial=kind, patch_weight=0.0)
    doubted = discs(2).requires_grad_()
    loss = generator_loss(kind, method.discriminator(doubted))
    (slope,) = torch.autograd.grad(loss, doubted)
    better = (doubted - 1e-2 * slope / slope.norm()).detach()
    assert (method.discriminator(better) > method.discriminator(doubted)).all()


def test_huge_logits_leave_the_losses_finite():
    method = build()
    with torch.no_grad():
        method.discriminator.to_logit[-1].bias.fill_(1e4)
    for loss in (method.discriminator_loss, method.generator_loss):
        assert torch.isfinite(loss(discs(2)))


def test_without_adversarial_weight_there_is_no_discriminator():
    method = build(adversarial_weight=0)
    (stage,) = method.stages()
    assert [update.name for update in stage.updates] == ["generator"]
    assert method.discriminator is None


@pytest.mark.parametrize("resolution", [(), (4,), (2, 4, 8)])
def test_noise_has_the_resolution_that_was_asked_for_and_keeps_the_range(resolution):
    method = build(noise_sigma=0.2, noise_resolution=resolution)
    grey = torch.zeros(256, 1, 32, 32)
    noise = method._corrupt(grey)
    step = (noise[..., 1:] - noise[..., :-1]).square().mean().sqrt() / noise.std()
    assert (step < 0.7) == bool(resolution)
    assert noise.std().item() == pytest.approx(0.2 if not resolution else 0.14, rel=0.2)
    assert method._corrupt(torch.ones(1, 1, 32, 32)).max() <= 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layers", ()),
        ("layers", (0, 1)),
        ("layers", (2, 1)),
        ("layers", (6,)),
        ("temperature", 0.0),
        ("noise_resolution", (0,)),
        ("noise_sigma", -0.1),
        ("adversarial", "wgan"),
        ("patches", 0),
        ("projection_dim", True),
        ("score", "patch+pixel"),
        ("pixel_loss", "huber"),
        ("pixel_weight", -1.0),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(InputError, match=f"^{field} must be .*, got "):
        create("patchcl-ae", **{field: value})


def test_a_model_without_any_loss_is_refused():
    with pytest.raises(InputError, match="patch_weight must be above 0 where the other"):
        create("patchcl-ae", patch_weight=0, adversarial_weight=0)
