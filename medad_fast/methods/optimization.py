"""Optimisers and learning rate schedules by name, for the methods' stages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

__all__ = ["Schedule", "adam", "schedule"]

Schedule = Literal["constant", "linear", "cosine"]

FACTORS: dict[str, Callable[[float], float]] = {
    "linear": lambda done: min(1.0, 2.0 * (1.0 - done)),
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}


def adam(
    learning_rate: float, betas: tuple[float, float], eps: float
) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    """Adam, still to be given its parameters."""
    return lambda parameters: torch.optim.Adam(parameters, lr=learning_rate, betas=betas, eps=eps)


def schedule(kind: Schedule) -> Callable[[Optimizer, int], LRScheduler] | None:
    """How the learning rate falls over a stage.

    ``constant``; ``linear``: constant for the first half, then straight to 0; ``cosine``: to 0.
    """
    if kind == "constant":
        return None
    factor = FACTORS[kind]
    return lambda optimizer, steps: LambdaLR(optimizer, lambda step: factor(step / max(steps, 1)))
