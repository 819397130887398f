"""DDAD's ensembles: members trained together are what each alone would be."""

from __future__ import annotations

import pytest
import torch

from medad_fast.training.loop import _Loop, train
from python_tests.methods.ddad.plain import PlainAutoencoder, alone
from python_tests.methods.ddad.small import BACKBONES, build, ready
from python_tests.methods.small import discs


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


def test_equal_ensembles_do_not_differ_and_equal_members_do_not_spread():
    method = ready()
    method.unknown.load_state_dict(method.normal.state_dict())
    images = discs(3)
    assert not method.discrepancies(images).inter.any()
    assert method.discrepancies(images).intra.any()
    for tensor in method.normal.state_dict().values():
        tensor[:] = tensor[0].clone()
    assert method.discrepancies(images).intra.max() < 1e-6


def test_one_member_scores_as_a_single_network():
    method = build(members=1, score="A_rec", backbone="ae-u")
    images = discs(3)
    decoded = PlainAutoencoder(method.normal, 0).eval()(images)[0]
    expected = (-decoded[:, 1:]).exp() * (decoded[:, :1] - images) ** 2
    torch.testing.assert_close(method.predict(images).anomaly_map, expected, rtol=1e-4, atol=1e-6)
