"""The adversarial losses against their textbook form."""

from __future__ import annotations

import pytest
import torch

from medad_fast.methods.parts.adversarial import discriminator_loss, generator_loss

REAL, FAKE = torch.tensor([2.0, -1.0, 0.3]).double(), torch.tensor([0.5, -3.0, 1.0]).double()


@pytest.mark.parametrize("kind", ["non_saturating", "saturating"])
def test_logits_are_of_probabilities(kind):
    expected = -(REAL.sigmoid().log() + (1 - FAKE.sigmoid()).log()).mean()
    torch.testing.assert_close(discriminator_loss(kind, REAL, FAKE), expected)
    wanted = -FAKE.sigmoid().log() if kind == "non_saturating" else (1 - FAKE.sigmoid()).log()
    torch.testing.assert_close(generator_loss(kind, FAKE), wanted.mean())


def test_least_squares_asks_for_one_and_zero():
    expected = ((REAL - 1) ** 2 + FAKE**2).mean()
    torch.testing.assert_close(discriminator_loss("least_squares", REAL, FAKE), expected)
    torch.testing.assert_close(generator_loss("least_squares", FAKE), ((FAKE - 1) ** 2).mean())


@pytest.mark.parametrize("kind", ["non_saturating", "saturating", "least_squares"])
def test_both_sides_ask_for_the_opposite(kind):
    logits = torch.randn(5, requires_grad=True)
    (to_fool,) = torch.autograd.grad(generator_loss(kind, logits), logits)
    (to_judge,) = torch.autograd.grad(discriminator_loss(kind, torch.zeros(5), logits), logits)
    inside = (logits > 0) & (logits < 1) if kind == "least_squares" else slice(None)
    assert (to_fool[inside] < 0).all()
    assert (to_judge[inside] > 0).all()
