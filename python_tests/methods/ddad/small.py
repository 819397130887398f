"""DDAD small enough to train in a test."""

from __future__ import annotations

import torch
from torch import nn

from medad_fast.training.loop import train
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
