"""A method of two small stages, and how its training is run, stopped and compared."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import torch
from torch import nn

from medad_fast.methods.base import Method, Prediction, Stage, Update
from medad_fast.methods.parts.optimization import adam, schedule
from medad_fast.training.loop import train


class TwoStages(Method):
    """Two stages, of which the second has two updates, one of them on every second batch."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.a = nn.Linear(16, 4)
            self.b = nn.Linear(16, 4)
        self.seen: list[int] = []

    def stages(self) -> Iterator[Stage]:
        def update(name: str, module: nn.Module, every: int = 1) -> Update:
            def loss(images: torch.Tensor) -> torch.Tensor:
                self.seen.append(len(images))
                noise = torch.randn(4)  # a loss that draws
                return (module(images.flatten(1)) - noise).square().mean()

            plan = schedule("cosine")
            return Update(name, module.parameters, loss, adam(0.1, (0.9, 0.9), 1e-8), plan, every)

        yield Stage("first", (update("a", self.a),), epochs=2, batch_size=4)
        both = (update("b", self.b), update("a again", self.a, every=2))
        yield Stage("second", both, "normal+unlabeled", epochs=3, batch_size=4)

    def predict(self, images: torch.Tensor) -> Prediction:
        return Prediction(images.mean((1, 2, 3)), images)


IMAGES = torch.rand(10, 1, 4, 4, generator=torch.Generator().manual_seed(1))

UNLABELED = IMAGES[:3] + 1


def run_two_stages(folder, **options):
    method = TwoStages()
    options = {"state": folder / "state", "log": folder / "log.jsonl", "seed": 7, **options}
    train(method, IMAGES, UNLABELED, device="cpu", **options)
    return method


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))


def stop_at(total, number=signal.SIGTERM):
    """A progress callback that sends a signal during the ``total``-th step of the run."""
    count = [0]

    def progress(step):
        count[0] += 1
        if count[0] == total:
            os.kill(os.getpid(), number)

    return progress
