"""Optimisers and learning rate schedules by name, for the methods' stages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

Schedule = Literal["constant", "linear", "cosine", "warmup_cosine", "steps"]

WARMUP = 0.05  # share of a stage


def _cosine(done: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * done))


FACTORS: dict[str, Callable[[float], float]] = {
    "linear": lambda done: min(1.0, 2.0 * (1.0 - done)),
    "cosine": _cosine,
    "warmup_cosine": lambda done: min(done / WARMUP, _cosine((done - WARMUP) / (1.0 - WARMUP))),
    "steps": lambda done: 0.1 ** int(3.0 * done),
}


def parameters_of(*nets: nn.Module | None) -> Callable[[], list[nn.Parameter]]:
    """The parameters of those nets that there are, for an update."""
    return lambda: [each for net in nets if net is not None for each in net.parameters()]


def adam(
    learning_rate: float,
    betas: tuple[float, float],
    eps: float,
    *,
    weight_decay: float = 0.0,
    decay_vectors: bool = True,
    clip: float | None = None,
    fused: bool = False,
) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    """Adam, still to be given its parameters.

    Args:
        learning_rate: of all parameters.
        betas: of the two running means.
        eps: added to the denominator.
        weight_decay: added to the gradient as this times the parameter.
        decay_vectors: whether that holds for biases and norms too.
        clip: largest norm of all gradients together.
        fused: one pass over each parameter, several times as fast on a CPU and rounded otherwise.
    """

    def build(parameters: Iterable[nn.Parameter]) -> Optimizer:
        chosen = list(parameters)
        groups: Any = chosen
        if weight_decay and not decay_vectors:
            vectors = [each for each in chosen if each.ndim < 2]
            groups = [
                {"params": [each for each in chosen if each.ndim >= 2]},
                {"params": vectors, "weight_decay": 0.0},
            ]

        def clipped(*unused: Any) -> None:
            nn.utils.clip_grad_norm_(chosen, clip or 0.0)

        optimizer = torch.optim.Adam(
            groups,
            lr=learning_rate,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            fused=True if fused else None,  # None leaves torch's own choice
        )
        if clip is not None:
            optimizer.register_step_pre_hook(clipped)
        return optimizer

    return build


def sgd(
    learning_rate: float, momentum: float, weight_decay: float
) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    """Stochastic gradient descent with momentum, still to be given its parameters."""
    return lambda parameters: torch.optim.SGD(
        parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay
    )


def schedule(
    kind: Schedule, *, levels: int | None = None
) -> Callable[[Optimizer, int], LRScheduler] | None:
    """How the learning rate falls over a stage.

    ``constant``; ``linear``: constant for the first half, then straight to 0; ``cosine``: to 0;
    ``warmup_cosine``: the same after a rise from 0 over the first 5 %; ``steps``: a tenth after
    each third. With ``levels``, it changes only at so many equal shares of the stage, as a schedule
    that is stepped once per epoch does.
    """
    if kind == "constant":
        return None

    def at(step: int, steps: int) -> float:
        done = step / max(steps, 1)
        return FACTORS[kind](done if levels is None else math.floor(done * levels) / levels)

    return lambda optimizer, steps: LambdaLR(optimizer, lambda step: at(step, steps))
