"""The centre of SALAD's codes, and codes that collapse into one."""

from __future__ import annotations

import pytest
import torch

from medad_fast.methods.parts.latent_centre import LatentCentre, spread_loss, variation_kept
from medad_fast.training.loop import train
from python_tests.methods.salad.small import build, only
from python_tests.methods.small import discs


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
