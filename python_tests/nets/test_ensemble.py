"""The wide ensembles of DDAD against their members one by one, and its refinement network."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from medad_fast.nets.ensemble import EnsembleAutoencoder
from medad_fast.nets.refinement import RefinementNet, focal_loss
from python_tests.methods.counting import Counting
from python_tests.methods.ddad.plain import PlainAutoencoder

BACKBONES = ["ae", "ae-u", "memae"]


def build(members=3, size=32, channels=1, **settings):
    torch.manual_seed(0)
    settings = {"width": 2, "hidden_dim": 8, "latent_dim": 4, "memory_slots": 5, **settings}
    ensemble = EnsembleAutoencoder(members, size, channels, **settings).double()
    for name, tensor in ensemble.state_dict().items():  # norms that do something
        if "norm" in name:
            tensor += 0.3 * torch.rand_like(tensor)
    return ensemble


def batches(members=3, count=5, size=32, channels=1):
    return torch.randn(members, count, channels, size, size, dtype=torch.float64)


def together(monkeypatch):
    """As on a GPU: all members in one grouped convolution."""
    monkeypatch.setattr(
        EnsembleAutoencoder, "_turns", lambda self, device: iter([slice(0, self.members)])
    )


@pytest.fixture(params=["in turn", "together"])
def form(request, monkeypatch):
    if request.param == "together":
        together(monkeypatch)


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("backbone", "more"), [("ae", 0), ("ae-u", 16 * 16), ("memae", 25 * 16)])
def test_a_member_has_the_papers_parameters(backbone, more):
    with torch.device("meta"):
        one = parameters(EnsembleAutoencoder(1, 64, 1, backbone=backbone))
        assert parameters(EnsembleAutoencoder(3, 64, 1, backbone=backbone)) == 3 * one
    assert one == 4_487_248 + more


def test_a_member_with_a_narrower_bottleneck_has_the_parameters_of_the_authors_benchmark():
    """MedIAnomaly's AE: 2.351 M."""
    with torch.device("meta"):
        assert parameters(EnsembleAutoencoder(1, 64, 1, hidden_dim=1024)) == 2_351_184


def test_the_refinement_has_the_papers_parameters():
    assert [parameters(RefinementNet(maps)) for maps in (2, 1)] == [152_834, 151_682]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_members_train_as_networks_of_torchs_own_layers_do(form, backbone, channels):
    ensemble = build(channels=channels, backbone=backbone, shrinkage=0.15)
    plain = [PlainAutoencoder(ensemble, k) for k in range(3)]
    given = batches(channels=channels)
    rebuilt = ensemble(given)
    for k, member in enumerate(plain):
        decoded, attention = member(given[k])
        torch.testing.assert_close(rebuilt.images[k], decoded[:, :channels])
        if backbone == "ae-u":
            torch.testing.assert_close(rebuilt.log_variance[k], decoded[:, channels:])
        if backbone == "memae":
            torch.testing.assert_close(rebuilt.attention[k], attention)
        # The statistics moved alike too.
        for own, other in member.twin_weights(ensemble, k):
            torch.testing.assert_close(own, other)
    assert (rebuilt.log_variance is None) == (backbone != "ae-u")
    assert (rebuilt.attention is None) == (backbone != "memae")


@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_folded_norms_equal_norms_with_running_statistics(form, backbone, size):
    ensemble = build(backbone=backbone, size=size)
    images = batches(size=size)[0]
    rebuilt = ensemble.reconstruct(images)
    for k in range(3):
        decoded, _ = PlainAutoencoder(ensemble, k).eval()(images)
        torch.testing.assert_close(rebuilt.images[k], decoded[:, :1])
    assert not rebuilt.images.requires_grad


def test_the_gradient_is_that_of_each_member_alone_but_for_biases_before_norms(form):
    ensemble = build()
    given, weights = batches(), batches()
    plain = [PlainAutoencoder(ensemble, k) for k in range(3)]
    (ensemble(given).images * weights).sum().backward()
    hidden = {ensemble.to_hidden.bias, ensemble.from_latent.bias}
    for k, member in enumerate(plain):
        (member(given[k])[0] * weights[k]).sum().backward()
        torch.testing.assert_close(
            ensemble.to_hidden.weight.grad[k].T, member.encode[13].weight.grad
        )
        torch.testing.assert_close(ensemble.encoder[0].weight.grad[k], member.encode[0].weight.grad)
        torch.testing.assert_close(
            ensemble.decoder[3].weight.grad[k], member.decode[-1].weight.grad
        )
        for bias in (member.encode[13].bias, member.decode[0].bias):
            assert bias.grad.abs().max() < 1e-12
    assert all(bias.grad is None for bias in hidden)
    assert all(p.grad is not None for p in ensemble.parameters() if p not in hidden)


def test_a_member_does_not_feel_the_others_batches(form):
    ensemble = build()
    given = batches()
    before = ensemble(given).images.detach()
    given[0] = 0
    after = ensemble(given).images
    assert not torch.equal(before[0], after[0])
    torch.testing.assert_close(before[1:], after[1:])
    after[1].sum().backward()
    assert all(not p.grad[0].any() for p in ensemble.parameters() if p.grad is not None)


def test_a_layer_is_one_launch_whatever_the_number_of_members(monkeypatch):
    together(monkeypatch)
    seen = []
    for members in (1, 2, 5):
        ensemble = build(members)
        with Counting() as counting:
            ensemble(batches(members)).images.sum().backward()
        seen.append(counting.calls)
    assert seen[0]["convolution"] == 8
    assert seen[0]["convolution_backward"] == 8
    assert seen[0]["baddbmm"] == 4
    assert seen[1] == seen[2]
    for op in ("convolution", "convolution_backward", "baddbmm", "bmm"):
        assert seen[0][op] == seen[1][op]


def test_weights_are_drawn_as_torch_draws_them():
    torch.manual_seed(0)
    ensemble = EnsembleAutoencoder(2, 64, 1, hidden_dim=64)
    twins = {
        ensemble.encoder[1]: torch.nn.Conv2d(16, 32, 4),
        ensemble.decoder[1]: torch.nn.ConvTranspose2d(64, 32, 4),
        ensemble.to_latent: torch.nn.Linear(64, 16),
    }
    for layer, twin in twins.items():
        largest = twin.weight.abs().max().item()
        for k in range(2):
            assert layer.weight[k].abs().max().item() == pytest.approx(largest, rel=0.01)
        assert not torch.equal(layer.weight[0], layer.weight[1])
    assert ensemble.to_latent.bias.abs().max() <= 1 / 8
    memory = EnsembleAutoencoder(2, 32, 1, hidden_dim=8, backbone="memae").memory
    assert memory.shape == (2, 25, 16)
    assert 0.24 < memory.abs().max() <= 0.25


def test_shrinkage_silences_weak_slots_and_the_rest_add_up_to_one():
    quiet = build(backbone="memae", shrinkage=0.2)(batches()).attention
    assert (quiet == 0).any()
    torch.testing.assert_close(quiet.sum(2), torch.ones_like(quiet[:, :, 0]))
    full = build(backbone="memae")(batches()).attention
    assert (full > 0).all()


@pytest.mark.parametrize("maps", [1, 2])
def test_the_collapsed_head_and_folded_norms_equal_the_softmax(maps):
    torch.manual_seed(1)
    net = RefinementNet(maps, 8)
    net(torch.rand(4, maps, 16, 16))  # moves the statistics
    with torch.no_grad():
        net.first_norm.weight.uniform_(0.5, 2)
    net.eval()
    given = torch.rand(3, maps, 20, 12)
    expected = net(given).softmax(1)[:, 1:]
    got = net.probability(given)
    assert got.shape == (3, 1, 20, 12)
    assert not got.requires_grad
    torch.testing.assert_close(got, expected)


def literal_focal(logits, target, gamma, epsilon):
    """With one-hot labels, clamped, as the code has it."""
    one_hot = torch.cat([~target, target], 1).to(logits.dtype).clamp(epsilon, 1 - epsilon)
    likely = (one_hot * logits.softmax(1)).sum(1) + epsilon
    return -((1 - likely) ** gamma * likely.log()).mean()


def focal_case():
    rng = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(2, 2, 4, 5, generator=rng, dtype=torch.float64)
    return logits, torch.rand(2, 1, 4, 5, generator=rng) < 0.4


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("epsilon", [1e-5, 0.1])
def test_the_focal_loss_is_that_of_clamped_labels(gamma, epsilon):
    logits, target = focal_case()
    got = focal_loss(logits, target, gamma=gamma, epsilon=epsilon)
    expected = literal_focal(logits, target, gamma, epsilon)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


def test_the_gradient_of_the_focal_loss_is_the_closed_form_and_that_of_finite_differences():
    logits, target = focal_case()
    logits.requires_grad_()
    focal_loss(logits, target).backward()
    e = 1e-5
    with torch.no_grad():
        p = torch.where(target, logits.softmax(1)[:, 1:], logits.softmax(1)[:, :1])
        pt = p * (1 - 2 * e) + 2 * e
        slope = (1 - 2 * e) * p * (1 - p) * (2 * (1 - pt) * pt.log() - (1 - pt) ** 2 / pt)
        slope = slope / target.numel()
        abnormal = torch.where(target, slope, -slope)
    torch.testing.assert_close(logits.grad, torch.cat([-abnormal, abnormal], 1))
    assert torch.autograd.gradcheck(lambda z: focal_loss(z, target), logits)


def test_a_pixel_that_is_surely_wrong_costs_what_the_clamped_label_allows():
    logits = torch.tensor([200.0, -200.0], dtype=torch.float64).view(1, 2, 1, 1).requires_grad_()
    loss = focal_loss(logits, torch.ones(1, 1, 1, 1, dtype=torch.bool))
    assert loss.item() == pytest.approx(-((1 - 2e-5) ** 2) * math.log(2e-5), rel=1e-12)
    loss.backward()
    assert torch.isfinite(logits.grad).all()


def test_the_focal_loss_is_computed_in_float32_at_least():
    logits, target = focal_case()
    loss = focal_loss(logits.bfloat16(), target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, focal_loss(logits.bfloat16().float(), target))
    zero = focal_loss(logits.float(), target, gamma=0.0, epsilon=1e-9)
    torch.testing.assert_close(zero, F.cross_entropy(logits.float(), target[:, 0].long()))
