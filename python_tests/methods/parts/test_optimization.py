"""Optimisers and schedules that methods choose from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medad_fast.methods.parts.optimization import adam, schedule, sgd


def test_weight_decay_can_leave_vectors_alone_and_gradients_can_be_clipped():
    layer = nn.Linear(3, 2)
    build = adam(0.1, (0.9, 0.999), 1e-8, weight_decay=0.5, decay_vectors=False, clip=2.0)
    optimizer = build(layer.parameters())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    assert [group["params"][0] for group in optimizer.param_groups] == [layer.weight, layer.bias]
    layer.weight.grad, layer.bias.grad = torch.full((2, 3), 3.0), torch.full((2,), 3.0)
    optimizer.step()
    norm = torch.cat([layer.weight.grad.flatten(), layer.bias.grad]).norm()
    assert norm.item() == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "factors"),
    [
        ("linear", [1, 1, 1, 0.5]),
        ("cosine", [1, 0.854, 0.5, 0.146]),
        ("warmup_cosine", [0, 0.8946, 0.5413, 0.1614]),
        ("steps", [1, 1, 0.1, 0.01]),
    ],
)
def test_schedules_fall_as_their_names_say(kind, factors):
    layer = nn.Linear(1, 1)
    optimizer = adam(1.0, (0.9, 0.999), 1e-8)(layer.parameters())
    plan = schedule(kind)(optimizer, 40)
    rates = []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        plan.step()
    assert rates[::10] == pytest.approx(factors, abs=1e-3)


def test_a_schedule_can_change_at_so_many_places_only():
    layer = nn.Linear(1, 1)
    optimizer = sgd(1.0, momentum=0.9, weight_decay=0.0)(layer.parameters())
    plan = schedule("cosine", levels=4)(optimizer, 40)
    rates = []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        plan.step()
    expected = [1, 0.8536, 0.5, 0.1464]
    assert rates == pytest.approx([rate for rate in expected for _ in range(10)], abs=1e-3)
