"""The laws of SALAD: its losses and its training."""

from __future__ import annotations

import math
import os
import signal

import pytest
import torch
from torch.nn import functional as F

from medad_fast.errors import InputError
from medad_fast.methods import create
from medad_fast.methods.salad import AFTER_WARMUP, LOSSES, TERMS, SALADConfig
from medad_fast.ops import ssim
from medad_fast.training.interrupts import Interrupted
from medad_fast.training.loop import train
from python_tests.methods.salad.small import ALL_ON, build, only
from python_tests.methods.small import discs


def literal_losses(method, images):
    """Every term without a random draw, written out."""
    c = method.config
    z = method.encoder(images)
    rebuilt = method.decoder(z)
    centre = method.centre()
    logits = method.discriminator(rebuilt)
    fooled = method.latent_discriminator(z)
    return {
        "adversarial": torch.log1p(torch.exp(-logits)).mean(),
        "latent_adversarial": torch.log1p(torch.exp(-fooled)).mean(),
        "reconstruction": (images - rebuilt).abs().mean(),
        "structure": 1 - ssim(images, rebuilt, data_range=2.0),
        "consistency": ((method.encoder(rebuilt) - z) ** 2).sum(1).mean() / z.shape[1],
        "centre": ((z - centre) ** 2).sum(1).mean() / z.shape[1],
        "spread": (1 - z.std(0, correction=0) / c.spread_floor).clamp(min=0).mean(),
    }


# Losses


def test_each_loss_is_its_formula():
    method = build(**ALL_ON)
    images = discs(5)
    method.centre.follow(method.encoder(discs(5, seed=1)))
    with torch.no_grad():
        expected = literal_losses(method, images)
        found = {name: loss().item() for name, loss in method.losses(images).items()}
    assert set(found) == set(LOSSES)
    assert set(LOSSES) - set(expected) == {"prior", "restore", "rotation"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value.item(), rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("name", LOSSES)
def test_each_weight_scales_its_own_loss(name):
    settings = only("reconstruction", spread_floor=10.0)
    plain, weighted = (build(**{**settings, f"{name}_weight": weight}) for weight in (1.0, 3.0))
    weighted.load_state_dict(plain.state_dict())
    images, values = discs(4), []
    for method in (plain, weighted):
        torch.manual_seed(1)
        values.append(method.generator_loss(images).item())
    torch.manual_seed(1)
    loss = plain.losses(images)[name]().item()
    assert loss > 0
    assert values[1] - values[0] == pytest.approx(2 * loss, rel=1e-3)


@pytest.mark.parametrize("name", AFTER_WARMUP)
def test_the_warm_up_knows_neither_centre_nor_adversary(name):
    images = discs(4)
    with_it, without = build(**only("reconstruction", name)), build(**only("reconstruction"))
    without.load_state_dict(with_it.state_dict(), strict=False)
    assert torch.equal(with_it.warmup_loss(images), without.warmup_loss(images))
    torch.manual_seed(0)
    assert with_it.generator_loss(images) > without.generator_loss(images)


def test_the_warm_up_comes_first_and_then_the_discriminators_move_first():
    warmup, translate = build(latent_adversarial_weight=1.0).stages()
    assert [update.name for update in warmup.updates] == ["warm-up"]
    assert [update.name for update in translate.updates] == ["discriminator", "generator"]
    assert (warmup.epochs, translate.epochs) == (2, 200)
    _, alone = build(adversarial_weight=0.0).stages()
    assert [update.name for update in alone.updates] == ["generator"]


def test_both_updates_of_a_batch_see_one_reconstruction():
    method = build(**only("adversarial", "reconstruction"))
    _, stage = method.stages()
    passes = []
    method.decoder.register_forward_hook(lambda *_: passes.append(1))
    images = discs(4)
    for update in stage.updates:
        update.loss(images)
    assert len(passes) == 1
    stage.updates[1].loss(images)
    assert len(passes) == 2


def test_gradients_reach_what_each_update_moves_and_nothing_else():
    method = build(**ALL_ON, corruption_probability=1.0)
    _, stage = method.stages()
    discriminator, generator = stage.updates
    judges = [*method.discriminator.parameters(), *method.latent_discriminator.parameters()]
    assert set(discriminator.parameters()) == set(judges)
    movers = [method.encoder, method.decoder, method.rotation_head]
    assert set(generator.parameters()) == {p for net in movers for p in net.parameters()}
    discriminator.loss(discs(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in judges)
    assert all(p.grad is None for p in generator.parameters())
    generator.loss(discs(4)).backward()
    assert all(p.grad.abs().sum() > 0 for p in generator.parameters())


def test_huge_logits_leave_the_losses_finite():
    method = build(**ALL_ON)
    with torch.no_grad():
        method.discriminator.encoder.to_latent.bias.fill_(1e4)
        method.latent_discriminator.layers[-1].bias.fill_(-1e4)
    for loss in (method.discriminator_loss, method.generator_loss):
        assert torch.isfinite(loss(discs(2)))


def test_a_head_that_knows_the_turn_has_no_rotation_loss_and_a_wrong_one_has(monkeypatch):
    method = build(**only("reconstruction", "rotation"))
    images = discs(6)

    def logits(turned, off):
        labels = [
            next(
                k
                for k in range(4)
                if any(torch.equal(t, torch.rot90(i, k, (1, 2))) for i in images)
            )
            for t in turned
        ]
        return 100.0 * F.one_hot((torch.tensor(labels) + off) % 4, 4).float()

    for off, expected in ((0, 0.0), (1, 100.0)):
        monkeypatch.setattr(method, "_rotation_logits", lambda turned, off=off: logits(turned, off))
        assert method._rotation_loss(images).item() == pytest.approx(expected, abs=1e-3)


def test_the_prior_loss_is_of_random_codes_not_of_the_images():
    method = build(**only("reconstruction", "prior"))
    values = []
    for seed in (0, 1):
        losses = method.losses(discs(3, seed=seed))
        torch.manual_seed(2)
        values.append(losses["prior"]().item())
    torch.manual_seed(2)
    drawn = torch.randn(3, 16)
    expected = (method.encoder(method.decoder(drawn)) - drawn).square().mean().item()
    assert values == pytest.approx([expected, expected])


def test_restoring_is_copying_where_nothing_is_damaged():
    method = build(corruption_probability=0.0)
    images = discs(3)
    losses = method.losses(images)
    torch.testing.assert_close(losses["restore"](), losses["reconstruction"]())
    damaged = build(corruption_probability=1.0)
    damaged.load_state_dict(method.state_dict())
    assert damaged.losses(images)["restore"]() != losses["restore"]()


# Training


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("latent_side", [1, 4])
def test_one_step_of_every_stage_with_every_loss_on(precision, latent_side):
    method = build(**ALL_ON, latent_side=latent_side, centre_update="ema", channels=3)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    train(method, discs(4, channels=3), max_steps=1, device="cpu", precision=precision)
    moved = {
        name for name, value in method.state_dict().items() if not torch.equal(value, before[name])
    }
    assert {name.split(".")[0] for name in moved} == {
        *("encoder", "decoder", "rotation_head", "discriminator", "latent_discriminator"),
        "centre",
    }
    assert all(value.isfinite().all() for value in method.state_dict().values())


@pytest.mark.parametrize("cut", [1, 3, 6])
def test_a_stopped_training_goes_on_bit_for_bit(cut, tmp_path):
    settings = {"epochs": 3, "centre_update": "ema", "schedule": "cosine"}
    images, whole = discs(8), build(**settings)
    train(whole, images, device="cpu")
    seen = []

    def stop(step):
        seen.append(step)
        if len(seen) == cut:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(build(**settings), images, device="cpu", state=tmp_path, progress=stop)
    resumed = build(**settings, seed=9)
    train(resumed, images, device="cpu", state=tmp_path, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_training_lowers_the_reconstruction_error():
    method = build(epochs=12, width=8, learning_rate=0.002)
    images = discs(16)
    before = method.terms(images)
    train(method, images, device="cpu")
    after = method.terms(images)
    assert after["reconstruction"].mean() < 0.5 * before["reconstruction"].mean()
    assert after["structure"].mean() < before["structure"].mean()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("latent_dim", 0),
        ("latent_side", 0),
        ("latent_side", 200),
        ("norm", "instance"),
        ("adversarial", "wgan"),
        ("centre_weight", -0.1),
        ("score_centre", -1.0),
        ("corruptions", ("blur",)),
        ("corruption_probability", 1.5),
        ("warmup_epochs", 0),
        ("centre_update", "free"),
        ("centre_margin", -0.1),
        ("spread_floor", 0.0),
        ("map_error", "l2"),
        ("normal_margin", -1.0),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(InputError, match=f"^{field} must be .*, got "):
        create("salad", **{field: value})


def test_settings_that_leave_nothing_to_learn_or_score_are_refused():
    for settings, field in (
        ({"reconstruction_weight": 0.0, "structure_weight": 0.0}, "reconstruction_weight"),
        ({f"score_{name}": 0.0 for name in TERMS}, "score_reconstruction"),
        ({"rotation_weight": 0.0, "score_rotation": 1.0}, "score_rotation"),
    ):
        with pytest.raises(InputError, match=f"^{field} must be"):
            SALADConfig(**settings)


def test_every_loss_and_every_term_has_its_weight():
    config = SALADConfig()
    assert all(math.isfinite(getattr(config, f"{name}_weight")) for name in LOSSES)
    assert config.score_weights() == [getattr(config, f"score_{name}") for name in TERMS]
