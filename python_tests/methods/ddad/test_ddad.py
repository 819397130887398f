"""The laws of DDAD: its stages, settings and unlabeled images."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn

from medad_fast.errors import InputError
from medad_fast.methods import create
from medad_fast.methods.ddad import DDADConfig
from medad_fast.training import loop as training
from medad_fast.training.loop import train
from python_tests.methods.ddad.small import BACKBONES, build, same
from python_tests.methods.small import discs


def stop_at(wanted):
    """Ends the training at a step of a stage, as a signal does."""

    def progress(step):
        if (step.stage, step.step) == wanted:
            raise KeyboardInterrupt

    return progress


def test_defaults_are_those_of_the_published_code():
    c = DDADConfig()
    assert (c.image_size, c.members, c.width, c.hidden_dim, c.latent_dim) == (64, 3, 16, 2048, 16)
    assert (c.learning_rate, c.betas, c.eps, c.schedule) == (5e-4, (0.5, 0.999), 1e-8, "constant")
    assert (c.epochs, c.batch_size) == (250, 64)
    assert (c.memory_slots, c.shrinkage, c.entropy_weight) == (25, 0.0, 2e-4)
    assert (c.refinement_epochs, c.refinement_batch_size, c.refinement_width) == (100, 8, 128)
    assert (c.refinement_learning_rate, c.refinement_weight_decay) == (1e-4, 1e-4)
    assert (c.focal_gamma, c.focal_epsilon) == (2.0, 1e-5)
    assert (c.score, c.image_score, c.map_smoothing, c.mask_background) == (
        "R_dual",
        "mean",
        1,
        False,
    )
    assert not c.refinement_error


def test_stages_are_as_published():
    stages = list(create("ddad", width=2, hidden_dim=8, refinement_width=4).stages())
    got = [(s.name, s.data, s.epochs, s.batch_size, s.orders, s.drop_last) for s in stages]
    assert got == [
        ("normal", "normal", 250, 64, 3, True),
        ("unknown", "normal+unlabeled", 250, 64, 3, True),
        ("refinement", "normal", 100, 8, None, True),
    ]
    weight = [nn.Parameter(torch.zeros(1))]
    groups = [s.updates[0].optimizer(weight).param_groups[0] for s in stages]
    assert [(g["lr"], g["betas"], g["weight_decay"]) for g in groups] == [
        (5e-4, (0.5, 0.999), 0),
        (5e-4, (0.5, 0.999), 0),
        (1e-4, (0.5, 0.999), 1e-4),
    ]


def test_only_the_unknown_ensemble_sees_unlabeled_images():
    trained = []
    for seed in (1, 2):
        method = build(epochs=1, refinement_epochs=1)
        train(method, discs(9), discs(6, seed=seed) - 0.1, device="cpu")
        trained.append(method)
    assert same(trained[0].normal, trained[1].normal)
    assert not same(trained[0].unknown, trained[1].unknown)


def test_without_unlabeled_images_it_warns_and_uses_the_normal_ensemble_alone():
    for score, instead in (("R_dual", "R_intra"), ("A_inter", "A_intra")):
        method = build(score=score, epochs=1, refinement_epochs=1)
        stages = []
        with pytest.warns(UserWarning, match=f"no unlabeled images.*scores {instead}"):
            train(
                method,
                discs(8),
                device="cpu",
                progress=lambda step, stages=stages: stages.append(step.stage),
            )
        assert "unknown" not in stages
        assert method.config.score == instead
        assert not any(name.startswith("unknown") for name in method.state_dict())
        # A new one of the configuration that is saved takes the weights.
        other = build(score=instead)
        other.load_state_dict(method.state_dict())
        images = discs(3)
        assert torch.equal(
            other.eval().predict(images).anomaly_map, method.predict(images).anomaly_map
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            method.begin(unlabeled=False)


@pytest.mark.parametrize("score", ["R_intra", "A_intra", "A_rec"])
def test_scores_without_the_unknown_ensemble_do_not_ask_for_unlabeled_images(score):
    method = build(score=score, epochs=1, refinement_epochs=1)
    train(method, discs(8), device="cpu")
    assert method.config.score == score


def test_unlabeled_images_that_are_not_needed_change_nothing():
    methods = [build(score="R_intra", epochs=1, refinement_epochs=1) for _ in range(2)]
    train(methods[0], discs(8), device="cpu")
    train(methods[1], discs(8), discs(5, seed=3), device="cpu")
    assert same(*methods)


@pytest.mark.parametrize(
    ("cut", "unlabeled"),
    [
        (("normal", 3), True),
        (("unknown", 2), True),
        (("refinement", 1), True),
        (("normal", 3), False),
        (("refinement", 1), False),
    ],
)
@pytest.mark.filterwarnings("ignore:there are no unlabeled")
def test_a_stopped_training_ends_bit_for_bit_like_one_that_was_not(
    cut, unlabeled, tmp_path, monkeypatch
):
    normal, others = discs(8), discs(4, seed=3) if unlabeled else None
    settings = {"epochs": 2, "refinement_epochs": 1, "schedule": "cosine"}
    whole = build(**settings)
    train(whole, normal, others, device="cpu", seed=4)
    stopped = build(**settings)
    monkeypatch.setattr(training, "SAVE_EVERY_SECONDS", -1.0)
    options = {"device": "cpu", "seed": 4, "state": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        train(stopped, normal, others, progress=stop_at(cut), **options)
    resumed = build(**settings, seed=9)
    train(resumed, normal, others, resume=True, **options)
    assert same(whole, resumed)


def test_a_batch_of_one_image_is_refused():
    with pytest.raises(InputError, match="at least 2 images in a training batch, got 1"):
        train(build(score="A_rec"), discs(1), device="cpu")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("members", 1),
        ("members", 0),
        ("batch_size", 1),
        ("refinement_batch_size", 1),
        ("hidden_dim", 0),
        ("latent_dim", 0),
        ("memory_slots", 0),
        ("refinement_width", 0),
        ("refinement_epochs", 0),
        ("refinement_learning_rate", 0.0),
        ("refinement_weight_decay", -1.0),
        ("shrinkage", -0.1),
        ("entropy_weight", -1.0),
        ("focal_gamma", 0.5),
        ("focal_epsilon", 0.5),
        ("focal_epsilon", 0.0),
        ("score", "R_inter"),  # which the published code does not have either
        ("backbone", "vae"),
    ],
)
def test_a_setting_of_its_own_that_is_out_of_range_is_refused(field, value):
    with pytest.raises(InputError, match=f"^{field} must be .*, got "):
        create("ddad", **{field: value})


@pytest.mark.parametrize("score", ["R_dual", "R_intra", "A_intra"])
def test_a_spread_needs_two_members_and_other_scores_do_not(score):
    with pytest.raises(InputError, match=f"^members must be at least 2 for {score}"):
        create("ddad", members=1, score=score)
    for other in ("A_inter", "A_rec"):
        assert build(members=1, score=other).predict(discs(2)).anomaly_score.isfinite().all()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_it_trains_in_bfloat16_and_keeps_the_maps_in_float32(backbone):
    method = build(backbone=backbone)
    train(method, discs(8), discs(4), max_steps=1, device="cpu", precision="bfloat16")
    assert all(value.isfinite().all() for value in method.state_dict().values())
    images = discs(2)
    plain = method.discrepancies(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = method.discrepancies(images)
    assert all(map(torch.equal, plain, under))


def test_the_entropy_of_the_attention_counts_as_much_as_it_should():
    images = torch.stack([discs(4), discs(4, seed=1), discs(4, seed=2)])
    losses = []
    for weight in (0.0, 1.0, 2.0):
        method = build(backbone="memae", entropy_weight=weight, score="A_rec")
        losses.append(method.reconstruction_loss(method.normal, images).item())
    assert losses[1] - losses[0] == pytest.approx(losses[2] - losses[1], rel=1e-4)
    # Random slots get about equal attention: each member's entropy is near its maximum.
    assert losses[1] - losses[0] == pytest.approx(3 * math.log(25), rel=0.05)
