"""The laws of CRADL: its losses, densities, stages and settings."""

from __future__ import annotations

import math
import os
import signal

import pytest
import torch
from torch import nn

from medad_fast.errors import InputError
from medad_fast.methods import create
from medad_fast.methods.parts.mixture import choose_mixture
from medad_fast.training.interrupts import Interrupted
from medad_fast.training.loop import train
from python_tests.methods.cradl.small import FLOW, build, fitted
from python_tests.methods.small import discs


def literal_nt_xent(first, second, temperature):
    """SimCLR's equation 1, pair by pair."""
    rows = [row / row.norm() for row in torch.cat([first, second]).double()]
    half, losses = len(first), []
    for i, row in enumerate(rows):
        similar = [math.exp(row @ other / temperature) for other in rows]
        partner = similar[(i + half) % len(rows)]
        losses.append(-math.log(partner / (sum(similar) - similar[i])))
    return sum(losses) / len(losses)


def test_the_contrastive_loss_is_simclrs_equation_on_two_views(monkeypatch):
    method = build(temperature=0.3)
    views, original = [], type(method)._view
    monkeypatch.setattr(
        type(method), "_view", lambda *args: views.append(original(*args)) or views[-1]
    )
    with torch.no_grad():
        loss = method.contrastive_loss(discs(5))
        assert len(views) == 2
        assert not torch.equal(*views)
        projected = [method.head(method.encoder(view)) for view in views]
    assert loss.item() == pytest.approx(literal_nt_xent(*projected, 0.3), rel=1e-5)


def test_views_are_drawn_as_the_configuration_says(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "medad_fast.methods.cradl.random_view",
        lambda images, **options: asked.append(options) or images,
    )
    monkeypatch.setattr(
        "medad_fast.methods.cradl.cover_squares",
        lambda images, most, largest: asked.append((most, largest)) or images,
    )
    changed = {
        "mirror": False,
        "rotation": 0.2,
        "scale": (0.5, 2.0),
        "shift": 0.1,
        "brightness": (0.8, 1.2),
        "noise_sigma": 0.07,
    }
    images = discs(2)
    build(**changed, squares=4, square_side=0.3)._view(images)
    assert asked == [changed, (4, 0.3)]
    asked.clear()
    build(compat=True)._view(images)
    assert asked[1:] == [(2, 0.5), (2, 0.5)]
    asked.clear()
    build(pretext="reconstruction").reconstruction_loss(images)
    assert len(asked) == 1


def test_the_gradient_reaches_encoder_and_head_and_each_pretext_has_its_own_parts():
    for pretext, stage_name, part in (
        ("contrastive", "contrast", "head"),
        ("reconstruction", "reconstruct", "decoder"),
    ):
        method = build(pretext=pretext)
        (stage,) = method.stages()
        (update,) = stage.updates
        assert stage.name == stage_name
        assert (method.head is None) == (part != "head")
        assert (method.decoder is None) == (part != "decoder")
        update.loss(discs(4)).backward()
        wanted = {
            id(p) for module in (method.encoder, getattr(method, part)) for p in module.parameters()
        }
        assert {id(p) for p in update.parameters()} == wanted
        assert all(p.grad is not None for p in update.parameters())


def test_the_reconstruction_loss_is_the_mean_squared_error_of_the_view():
    method = build(
        pretext="reconstruction",
        mirror=False,
        rotation=0.0,
        scale=(1.0, 1.0),
        brightness=(1.0, 1.0),
        noise_sigma=0.0,
    )
    images = discs(4)
    with torch.no_grad():
        expected = (method.decoder(method.encoder(images)) - images).square().mean()
        assert method.reconstruction_loss(images).item() == pytest.approx(expected.item(), rel=1e-4)


def test_finish_is_repeatable_and_all_that_it_fits_is_saved():
    first, second = fitted(), fitted()
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
    fresh = build(seed=9).eval()
    fresh.load_state_dict(first.state_dict())
    images = discs(4, seed=3)
    assert all(map(torch.equal, fresh.predict(images), first.predict(images)))
    untouched = build().state_dict()
    changed = {
        name
        for name, value in first.state_dict().items()
        if not torch.equal(value, untouched[name])
    }
    assert {"latent_mean", "latent_spread", "mixture.means", "mixture.whitening"} <= changed


def test_the_number_of_components_is_that_of_the_highest_held_out_likelihood():
    chosen = fitted(components=(1, 2, 4))
    used = int((chosen.mixture.log_weights > -1e9).sum())
    held_out = discs(8, seed=2)
    scores = {
        k: fitted(components=(k,)).predict(held_out).anomaly_score.mean().item() for k in (1, 2, 4)
    }
    assert used == min(scores, key=scores.__getitem__)
    lone = build(components=(2, 1)).eval()
    lone.finish([discs(8)], [])
    assert int((lone.mixture.log_weights > -1e9).sum()) == 1


def test_the_flow_trains_on_standardised_latents_and_leaves_the_encoder_alone():
    images = discs(20, seed=1)
    method = build(**FLOW, epochs=1)
    pretext, flow = method.stages()
    assert (pretext.name, flow.name) == ("contrast", "flow")
    assert pretext.prepare is None
    rows = flow.prepare(iter(images.split(8)))
    assert rows.shape == (20, 6)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.std(0), torch.ones(6), atol=5e-3, rtol=0)
    encoder = {name: value.clone() for name, value in method.encoder.state_dict().items()}
    (update,) = flow.updates
    optimizer = update.optimizer(update.parameters())
    losses = []
    for _ in range(60):
        loss = update.loss(rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1
    for name, value in method.encoder.state_dict().items():
        assert torch.equal(value, encoder[name])
    assert all(parameter.grad is None for parameter in method.encoder.parameters())


def test_the_flows_training_loss_is_its_score_up_to_constants_and_halves_the_prior_in_compat():
    rows = torch.randn(5, 6)
    for compat, prior in ((False, 0.5), (True, 0.25)):
        method = build(**FLOW, flow_noise=0.0, compat=compat)
        with torch.no_grad():
            normal, log_determinant = method.flow(rows)
            expected = (prior * normal.square().sum(1) - log_determinant).mean()
            assert method.flow_loss(rows).item() == pytest.approx(expected.item(), rel=1e-5)
            if not compat:
                constant = 3 * math.log(2 * math.pi)
                density = -method.flow.log_density(rows).mean() - constant
                assert density.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("cut", [4, 7, 9])
def test_a_run_stopped_in_either_stage_resumes_bit_for_bit(cut, tmp_path):
    images = discs(12)
    settings = {**FLOW, "epochs": 2, "batch_size": 4, "flow_batch_size": 8, "flow_epochs": 3}

    def run(method, resume=False, progress=None, state=None):
        train(method, images, device="cpu", state=state, resume=resume, progress=progress)
        return method

    whole = run(build(**settings))
    steps = []

    def stop(step):
        steps.append(step)
        if len(steps) == cut:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        run(build(**settings), progress=stop, state=tmp_path)
    resumed = run(build(**settings, seed=9), resume=True, state=tmp_path)
    assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values()))


@pytest.mark.parametrize("settings", [{}, {"pretext": "reconstruction"}, FLOW])
def test_trains_in_bfloat16_and_with_a_single_image_left_over(settings):
    method = build(**settings, epochs=1, batch_size=4)
    train(method, discs(5), device="cpu", precision="bfloat16")
    method.finish([discs(5)], [])
    for part in method.predict(discs(2)):
        assert torch.isfinite(part).all()


def test_weight_decay_spares_biases_and_norms():
    method = build(weight_decay=0.1)
    (stage,) = method.stages()
    (update,) = stage.updates
    decayed, spared = update.optimizer(update.parameters()).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    norms = [m for m in method.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {id(m.weight) for m in norms} <= {id(p) for p in spared["params"]}
    assert all(p.ndim >= 2 for p in decayed["params"])


def test_images_of_another_size_are_refused():
    with pytest.raises(
        InputError, match=r"images: \(B, 1, 32, 32\) expected, got \(2, 1, 48, 48\)"
    ):
        build().eval().predict(discs(2, size=48))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("latent_dim", 1),
        ("pretext", "vae"),
        ("temperature", 0.0),
        ("rotation", -0.1),
        ("scale", (1.1, 1.2)),
        ("scale", (0.0, 1.2)),
        ("shift", 1.5),
        ("brightness", (1.1, 0.9)),
        ("squares", -1),
        ("square_side", 2.0),
        ("density", "kde"),
        ("components", ()),
        ("components", (0,)),
        ("components", (9,)),
        ("covariance_floor", 0.0),
        ("shrinkage", 1.1),
        ("flow_blocks", 0),
        ("flow_noise", -1.0),
        ("flow_learning_rate", 0.0),
        ("compat", 1),
        ("saliency", "guided"),
        ("weight_decay", -1.0),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(InputError, match=f"^{field} must be .*, got "):
        create("cradl", **{field: value})


def test_every_tensor_of_a_saved_run_is_finite():
    method = fitted(components=(1, 8))
    for name, value in method.state_dict().items():
        assert torch.isfinite(value).all(), name


def test_mixtures_are_fitted_as_the_configuration_says(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "medad_fast.methods.cradl.choose_mixture",
        lambda rows, held_out, components, **options: (
            asked.append((components, options))
            or choose_mixture(rows, held_out, components, **options)
        ),
    )
    fitted(components=(2, 3), covariance_floor=1e-3, shrinkage=0.2, compat=True)
    assert asked == [((2, 3), {"floor": 1e-3, "shrinkage": 0.2, "squared": True})]
    fitted(components=(1,))
    assert asked[1] == ((1,), {"floor": 1e-5, "shrinkage": 0.0, "squared": False})


def test_the_stages_are_as_the_configuration_says():
    method = build(**FLOW, flow_weight_decay=0.2, flow_batch_size=7, epochs=3, batch_size=5)
    pretext, flow = method.stages()
    assert (pretext.epochs, pretext.batch_size, pretext.drop_last) == (3, 5, True)
    assert (flow.epochs, flow.batch_size, flow.drop_last) == (6, 7, False)
    (update,) = flow.updates
    (group,) = update.optimizer(update.parameters()).param_groups
    assert (group["lr"], group["weight_decay"]) == (0.002, 0.2)


def test_the_flow_trains_on_noisy_latents():
    rows = torch.zeros(4, 6)
    quiet, noisy = build(**FLOW, flow_noise=0.0), build(**FLOW, flow_noise=0.5)
    assert torch.equal(quiet.flow_loss(rows), quiet.flow_loss(rows))
    assert not torch.equal(noisy.flow_loss(rows), noisy.flow_loss(rows))
