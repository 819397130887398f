"""The laws of DDAD."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import nn

from medad_fast import training
from medad_fast.errors import InputError
from medad_fast.methods import create
from medad_fast.methods.ddad import DDADConfig
from medad_fast.methods.scoring import foreground, smooth
from medad_fast.nets.ensemble import EnsembleAutoencoder, Reconstruction
from medad_fast.ops import AnatomyPasteParams
from medad_fast.training import _Loop, train
from python_tests.methods.counting import Counting
from python_tests.methods.plain_ddad import PlainAutoencoder, alone
from python_tests.methods.small import discs, small

BACKBONES = ["ae", "ae-u", "memae"]


def build(**overrides):
    return small("ddad", **{"members": 3, "width": 2, "hidden_dim": 8, **overrides})


def ready(**overrides):
    """With statistics and weights that differ from those at the start."""
    method = build(**overrides)
    train(method, discs(12, seed=8), discs(4, seed=9), max_steps=3, device="cpu")
    return method


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))


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


@pytest.mark.parametrize("backbone", BACKBONES)
def test_members_trained_together_end_where_each_alone_on_its_order_does(backbone):
    """Twenty steps in float64, where rounding does not hide a difference of 1e-5."""
    method = build(backbone=backbone, score="A_intra", epochs=5, shrinkage=0.02).double()
    images = discs(17, seed=1).double()
    plain = [PlainAutoencoder(method.normal, k) for k in range(3)]
    with torch.no_grad():
        start = torch.cat([own.flatten() for own, _ in plain[0].twin_weights(method.normal, 0)])
    train(method, images, seed=11, device="cpu")
    loop = _Loop(method, 11, torch.device("cpu"), "float32", None, None, None, [])
    for k, member in enumerate(plain):
        optimizer = torch.optim.Adam(member.parameters(), lr=5e-4, betas=(0.5, 0.999))
        for epoch in range(5):
            order = loop._order(1, epoch, 17, 3)[k]
            for chosen in order[:16].split(4):  # the seventeenth is left out
                x = images[chosen]
                decoded, attention = member(x)
                loss = (decoded[:, :1] - x).square()
                if backbone == "ae-u":
                    loss = (-decoded[:, 1:]).exp() * loss + decoded[:, 1:]
                loss = loss.mean()
                if backbone == "memae":
                    entropy = -(attention * (attention + 1e-12).log()).sum(1)
                    loss = loss + 2e-4 * entropy.mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        for own, together in member.twin_weights(method.normal, k):
            torch.testing.assert_close(own, together, rtol=0, atol=1e-5)
    moved = torch.cat([own.flatten() for own, _ in plain[0].twin_weights(method.normal, 0)])
    assert (moved - start).abs().max() > 1e-3


@pytest.mark.parametrize("backbone", BACKBONES)
def test_members_together_equal_members_alone_in_float32_too(backbone):
    # Tensors of 16 numbers' multiples, as all of the paper's are: what Adam's kernel leaves over at
    # the end it rounds otherwise, and training widens any difference.
    sizes = {"width": 16, "hidden_dim": 32, "latent_dim": 16}
    method = build(backbone=backbone, score="A_intra", epochs=5, **sizes)
    images = discs(16, seed=1)
    ones = [alone(method.normal, k) for k in range(3)]
    train(method, images, seed=11, device="cpu")
    loop = _Loop(method, 11, torch.device("cpu"), "float32", None, None, None, [])
    for k, ensemble in enumerate(ones):
        optimizer = torch.optim.Adam(ensemble.parameters(), lr=5e-4, betas=(0.5, 0.999), fused=True)
        for epoch in range(5):
            for chosen in loop._order(1, epoch, 16, 3)[k].split(4):
                optimizer.zero_grad()
                method.reconstruction_loss(ensemble, images[chosen][None]).backward()
                optimizer.step()
        for own, together in zip(
            ensemble.state_dict().values(), method.normal.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(own[0], together[k], rtol=0, atol=1e-5)


def test_only_the_unknown_ensemble_sees_unlabeled_images():
    trained = []
    for seed in (1, 2):
        method = build(epochs=1, refinement_epochs=1)
        train(method, discs(9), discs(6, seed=seed) - 0.1, device="cpu")
        trained.append(method)
    assert same(trained[0].normal, trained[1].normal)
    assert not same(trained[0].unknown, trained[1].unknown)


def test_the_refinement_leaves_the_ensembles_as_they_are():
    method = ready(refinement_epochs=2)
    before = copy.deepcopy(method)
    *_, stage = method.stages()
    assert stage.name == "refinement"
    method.train().zero_grad()
    loss = method.refinement_loss(discs(4))
    loss.backward()
    for ensemble, old in ((method.normal, before.normal), (method.unknown, before.unknown)):
        assert same(ensemble, old)
        assert all(parameter.grad is None for parameter in ensemble.parameters())
    assert method.refinement.first.weight.grad.any()
    assert set(stage.updates[0].parameters()) == set(method.refinement.parameters())


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


def test_the_refined_map_is_the_softmax_of_inter_and_intra_in_this_order():
    method = ready()
    images = discs(3)
    maps = method.discrepancies(images)
    expected = method.refinement.eval()(torch.cat([maps.inter, maps.intra], 1)).softmax(1)[:, 1:]
    torch.testing.assert_close(method.predict(images).anomaly_map, expected)
    alone = ready(score="R_intra")
    intra = alone.discrepancies(images).intra
    expected = alone.refinement.eval()(intra).softmax(1)[:, 1:]
    torch.testing.assert_close(alone.predict(images).anomaly_map, expected)
    assert alone.unknown is None
    assert not alone.uses_unlabeled


def test_prediction_runs_no_norms_and_one_channel_of_the_head():
    method = ready()
    with Counting() as counting:
        method.predict(discs(3))
    assert not [name for name in counting.calls if "batch_norm" in name or "softmax" in name]
    convolutions = counting.shapes["convolution"]
    assert len(convolutions) == 2 * 3 * 8 + 3
    assert convolutions[-1] == (3, 1, 32, 32)


def test_the_refinement_can_see_the_reconstruction_error_too():
    method = ready(refinement_error=True)
    assert method.refinement.first.weight.shape[1] == 3
    images = discs(3)
    inter, intra, rec = method.discrepancies(images)
    expected = method.refinement.eval()(torch.cat([inter, intra, rec.sqrt()], 1)).softmax(1)[:, 1:]
    torch.testing.assert_close(method.predict(images).anomaly_map, expected)


def test_equal_ensembles_do_not_differ_and_equal_members_do_not_spread():
    method = ready()
    method.unknown.load_state_dict(method.normal.state_dict())
    images = discs(3)
    assert not method.discrepancies(images).inter.any()
    assert method.discrepancies(images).intra.any()
    for tensor in method.normal.state_dict().values():
        tensor[:] = tensor[0].clone()
    assert method.discrepancies(images).intra.max() < 1e-6


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


def test_one_member_scores_as_a_single_network():
    method = build(members=1, score="A_rec", backbone="ae-u")
    images = discs(3)
    decoded = PlainAutoencoder(method.normal, 0).eval()(images)[0]
    expected = (-decoded[:, 1:]).exp() * (decoded[:, :1] - images) ** 2
    torch.testing.assert_close(method.predict(images).anomaly_map, expected, rtol=1e-4, atol=1e-6)


def pasted_of(method, images, monkeypatch):
    """The images that the refinement saw, and its target."""
    seen = {}
    maps, loss = type(method)._refined_maps, "medad_fast.methods.ddad.focal_loss"

    def note_images(self, given):
        seen["images"] = given
        return maps(self, given)

    def note_target(logits, target, **settings):
        seen["target"], seen["settings"] = target, settings
        return logits.sum()

    monkeypatch.setattr(type(method), "_refined_maps", note_images)
    monkeypatch.setattr(loss, note_target)
    method.refinement_loss(images)
    return seen


def test_foreign_patches_are_squares_of_other_images_in_half_of_the_images(monkeypatch):
    method = build(image_size=64, focal_gamma=1.0, focal_epsilon=0.01)
    torch.manual_seed(4)
    images = torch.rand(200, 1, 64, 64) * 2 - 1
    monkeypatch.setattr(EnsembleAutoencoder, "reconstruct", _cheap)
    seen = pasted_of(method, images, monkeypatch)
    target, got = seen["target"], seen["images"]
    assert target.dtype == torch.bool
    assert target.shape == (200, 1, 64, 64)
    assert seen["settings"] == {"gamma": 1.0, "epsilon": 0.01}
    assert torch.equal(torch.where(target, images, got), images)  # nothing outside
    changed = target.any(3).any(2).any(1)
    assert 70 < changed.sum() < 130
    for b in changed.nonzero().flatten().tolist():
        rows, columns = target[b, 0].any(1).nonzero(), target[b, 0].any(0).nonzero()
        top, left = rows.min().item(), columns.min().item()
        height, width = len(rows), len(columns)
        assert target[b, 0, top : top + height, left : left + width].all()
        assert target[b].sum() == height * width  # one box
        assert max(height, width) <= 24
        # A square of even side 6 to 24, unless the border cuts it.
        if min(top, left, 64 - top - height, 64 - left - width) > 0:
            assert height == width
            assert 6 <= height <= 24
            assert height % 2 == 0
        # One other image, mixed in by one factor.
        part = target[b, 0]
        own, result = images[b, 0][part], got[b, 0][part]
        shares = []
        for other in images[:, 0, part]:
            alpha = ((result - own) * (other - own)).sum() / ((other - own) ** 2).sum()
            shares.append(((own + alpha * (other - own) - result).abs().max().item(), alpha.item()))
        error, alpha = min(share for b2, share in enumerate(shares) if b2 != b)
        assert error < 1e-4
        assert 0 < alpha <= 1


def _cheap(self, images):
    return Reconstruction(torch.zeros(3, *images.shape), None, None)


def test_images_of_a_batch_are_equally_likely_sources():
    torch.manual_seed(0)
    params = AnatomyPasteParams.sample(4000, 64, kind="foreign_patch")
    apart = (params.source_index - torch.arange(4000)) % 4000
    assert (apart > 0).all()
    assert 1900 < apart.double().mean() < 2100


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


def test_the_map_can_be_smoothed_and_masked():
    images = discs(2)
    raw = build().predict(images).anomaly_map
    smoothed = build(map_smoothing=5).predict(images).anomaly_map
    masked = build(mask_background=True).predict(images).anomaly_map
    torch.testing.assert_close(smoothed, smooth(raw, 5))
    assert torch.equal(masked, raw * foreground(images))


def test_the_entropy_of_the_attention_counts_as_much_as_it_should():
    images = torch.stack([discs(4), discs(4, seed=1), discs(4, seed=2)])
    losses = []
    for weight in (0.0, 1.0, 2.0):
        method = build(backbone="memae", entropy_weight=weight, score="A_rec")
        losses.append(method.reconstruction_loss(method.normal, images).item())
    assert losses[1] - losses[0] == pytest.approx(losses[2] - losses[1], rel=1e-4)
    # Random slots get about equal attention: each member's entropy is near its maximum.
    assert losses[1] - losses[0] == pytest.approx(3 * math.log(25), rel=0.05)
