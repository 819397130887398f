"""DDAD's refinement: what it sees, what it is taught, what it leaves alone."""

from __future__ import annotations

import copy

import torch

from medad_fast.nets.ensemble import EnsembleAutoencoder, Reconstruction
from medad_fast.ops import AnatomyPasteParams
from python_tests.methods.ddad.small import build, ready, same
from python_tests.methods.small import discs


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


def test_the_refinement_can_see_the_reconstruction_error_too():
    method = ready(refinement_error=True)
    assert method.refinement.first.weight.shape[1] == 3
    images = discs(3)
    inter, intra, rec = method.discrepancies(images)
    expected = method.refinement.eval()(torch.cat([inter, intra, rec.sqrt()], 1)).softmax(1)[:, 1:]
    torch.testing.assert_close(method.predict(images).anomaly_map, expected)


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
