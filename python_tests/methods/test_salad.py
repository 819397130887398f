"""The laws of SALAD."""

from __future__ import annotations

import itertools
import math
import os
import signal

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medad_fast.errors import InputError
from medad_fast.methods import create
from medad_fast.methods.latent_centre import LatentCentre, spread_loss, variation_kept
from medad_fast.methods.normals import NormalTerms
from medad_fast.methods.salad_config import AFTER_WARMUP, LOSSES, TERMS, SALADConfig
from medad_fast.methods.scoring import foreground
from medad_fast.nets.latent import (
    ImageDiscriminator,
    LatentDecoder,
    LatentDiscriminator,
    LatentEncoder,
    stage_sides,
)
from medad_fast.ops import ssim
from medad_fast.training import Interrupted, train
from python_tests.methods.small import discs, small

ALL_ON = {f"{name}_weight": 1.0 for name in LOSSES}


def build(**overrides):
    return small("salad", **overrides)


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def only(*names, **weights):
    """Weights of 0 for every loss but some."""
    return {**{f"{name}_weight": float(name in names) for name in LOSSES}, **weights}


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


# Networks


def test_networks_at_the_default_size_have_the_parameters_of_their_arithmetic():
    widths = [1, 32, 64, 128, 256, 512, 512]
    stages = sum(
        16 * a * b + b + 2 * b for a, b in itertools.pairwise(widths)
    )  # 4x4 kernels, biases, two numbers per normed channel
    encoder, decoder = LatentEncoder(256, 1, 32, 128), LatentDecoder(256, 1, 32, 128)
    assert parameters(encoder) == stages + 128 * 512 * 16 + 128 == 8_033_312
    ups = sum(16 * a * b + a + 2 * a for a, b in itertools.pairwise(widths[1:]))
    expected = (128 * 512 * 16 + 512 + 2 * 512) + ups + (16 * 32 + 1)
    assert parameters(decoder) == expected == 8_033_185
    assert parameters(ImageDiscriminator(256, 1, 32)) == stages + 512 * 16 + 1
    assert parameters(LatentDiscriminator(128)) == 128 * 512 + 512 + 512 + 1


@pytest.mark.parametrize("size", range(32, 513, 16))
def test_every_size_ends_at_two_to_four_and_comes_back(size):
    sides = stage_sides(size)
    assert 2 <= sides[-1] <= 4
    encoder, decoder = LatentEncoder(size, 1, 1, 2), LatentDecoder(size, 1, 1, 2)
    with torch.no_grad():
        z = encoder(torch.zeros(2, 1, size, size))
        images = decoder(z)
    assert z.shape == (2, 2)
    assert images.shape == (2, 1, size, size)
    assert images.abs().max() <= 1


@pytest.mark.parametrize(("size", "side", "places"), [(64, 8, 64), (48, 8, 36), (80, 7, 25)])
def test_codes_may_have_places(size, side, places):
    encoder, decoder = LatentEncoder(size, 1, 4, 3, side), LatentDecoder(size, 1, 4, 3, side)
    z = encoder(torch.zeros(1, 1, size, size))
    assert z.shape == (1, 3 * places) == (1, encoder.latent_size)
    assert decoder(z).shape == (1, 1, size, size)
    method = build(image_size=size, latent_side=side).eval()
    assert method.predict(discs(2, size=size)).anomaly_map.shape == (2, 1, size, size)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_each_norm_is_the_one_that_was_asked_for(norm):
    method = build(norm=norm)
    kinds = {"group": nn.GroupNorm, "batch": nn.BatchNorm2d}
    for net in (method.encoder, method.decoder, method.discriminator):
        found = {name for name, kind in kinds.items() for m in net.modules() if isinstance(m, kind)}
        assert found == {norm}


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


# Centre


def test_the_centre_is_a_running_mean_that_starts_unbiased():
    centre = LatentCentre(3, 0.0)
    batches = torch.randn(4, 5, 3).double() + 2
    for batch in batches:
        centre.follow(batch)
    weights = 0.99 ** torch.arange(3, -1, -1).double()
    expected = (weights[:, None] * batches.mean(1)).sum(0) / weights.sum()
    torch.testing.assert_close(centre(), expected.float(), rtol=1e-4, atol=1e-5)


def test_no_entry_of_the_centre_is_near_zero():
    centre = LatentCentre(4, 0.1)
    centre.follow(torch.tensor([[0.05, -0.05, 0.0, -3.0]]))
    torch.testing.assert_close(centre(), torch.tensor([0.1, -0.1, 0.1, -3.0]))


@pytest.mark.parametrize("update", ["fixed", "ema"])
def test_the_centre_moves_after_the_warm_up_only_where_asked(update):
    method = build(centre_update=update)
    method.warmup_loss(discs(4))
    before = method.centre()
    method.generator_loss(discs(4, seed=1))
    assert torch.equal(method.centre(), before) == (update == "fixed")


def test_the_centre_gets_no_gradient():
    method = build(**only("reconstruction", "centre"))
    method.warmup_loss(discs(4))
    assert not method.centre().requires_grad


# Collapse


def test_spread_loss_is_one_for_equal_codes_and_zero_for_varied_ones():
    assert spread_loss(torch.ones(4, 3), 0.1).item() == pytest.approx(1, abs=1e-6)
    varied = torch.tensor([[0.3], [-0.3]]).expand(2, 5)
    assert spread_loss(varied, 0.1).item() == 0
    assert spread_loss(varied, 0.6).item() == pytest.approx(0.5, abs=1e-6)
    codes = torch.full((4, 3), 0.5) + 1e-3 * torch.randn(4, 3)
    codes.requires_grad_()
    spread_loss(codes, 0.1).backward()
    step = codes.detach() - codes.grad
    assert (step.std(0) > codes.detach().std(0)).all()
    single = torch.randn(1, 3, requires_grad=True)
    spread_loss(single, 0.1).backward()
    assert torch.isfinite(single.grad).all()


def test_variation_kept_is_the_share_of_the_images_spread():
    images = torch.randn(12, 1, 4, 4)
    mean = images.mean(0)
    pairs = [(x, 0.25 * (x - mean) + 5) for x in images.split(5)]
    assert variation_kept(pairs) == pytest.approx(0.25, rel=1e-4)
    assert variation_kept([(images, torch.zeros_like(images))]) == 0
    assert variation_kept([(torch.ones(3, 1, 4, 4), images[:3])]) == 1


def collapsing(spread_weight):
    """Trained so that the pull to the centre is all that matters."""
    weights = only("reconstruction", "centre", centre_weight=1e4, spread_weight=spread_weight)
    method = build(**weights, spread_floor=0.5, epochs=15, learning_rate=0.003)
    train(method, discs(24), device="cpu")
    return method


def test_a_centre_that_wins_collapses_the_codes_and_finish_says_so():
    method = collapsing(0.0)
    assert method.terms(discs(24))["centre"].mean() < 0.01
    with pytest.warns(UserWarning, match="salad has collapsed: its reconstructions vary"):
        method.finish([discs(24)], [discs(8, seed=1)])


def test_the_spread_keeps_the_codes_apart_under_the_same_pull():
    method = collapsing(1e5)
    latent = method.encoder(discs(24))
    assert latent.std(0).mean() > 0.2
    method.finish([discs(24)], [discs(8, seed=1)])  # warns of nothing
    score = method.predict(discs(8, seed=2)).anomaly_score
    assert score.std() > 0.1


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


# Score and map


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
    _, _, rebuilt = method._there_and_back(images)
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
