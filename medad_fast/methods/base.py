"""The one shape that all methods have: what to optimise, what to fit afterwards, how to score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from medad_fast.errors import CheckpointError

__all__ = ["Data", "Mapped", "Method", "Prediction", "RowBank", "Stage", "Update", "evaluating"]


Data = Literal["normal", "normal+unlabeled"]
"""Which of the training images a stage sees."""


class Prediction(NamedTuple):
    """What a method says of a batch of ``B`` images; larger is more anomalous."""

    anomaly_score: Tensor
    """``(B)`` float32."""
    anomaly_map: Tensor
    """``(B, 1, H, W)`` float32, on the grid of the images that were given."""


@dataclass(frozen=True)
class Update:
    """One optimiser and the loss it lowers; adversarial stages have two."""

    name: str
    parameters: Callable[[], Iterable[nn.Parameter]]
    loss: Callable[[Tensor], Tensor]
    """Images ``(B, C, H, W)`` in [-1, 1], or what ``Stage.prepare`` made of them, to a scalar;
    ``(orders, B, ...)`` where the stage has several orders."""
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    schedule: Callable[[Optimizer, int], LRScheduler] | None = None
    """Called with the optimiser and the stage's number of steps; stepped after each step."""
    every: int = 1
    """Run on each ``every``-th batch only."""


@dataclass(frozen=True)
class Stage:
    """One optimisation that ``fit`` runs to its end before the next begins."""

    name: str
    updates: tuple[Update, ...]
    """Run in this order on each batch."""
    data: Data = "normal"
    epochs: int = 100
    batch_size: int = 16
    orders: int | None = None
    """For ensembles: how many members see the images, each in a random order of its own."""
    drop_last: bool = False
    """Leave out an epoch's last batch if it is short, unless it is the only one."""
    steps: int | None = None
    """Batches in all, instead of ``epochs``."""
    prepare: Callable[[Iterator[Tensor]], Tensor] | None = None
    """Turns the stage's images, in batches, into the rows that its losses get instead of images.

    Called before the first step and again when the stage is resumed, so it must give the same both
    times: from weights that the stage does not change, without random numbers.
    """


class Method(nn.Module, ABC):
    """An anomaly detector that learns from normal images."""

    config: Any
    """Frozen settings. All have ``image_size`` (side of the square images, a multiple of 16 from 32
    to 512), ``channels`` (1 or 3), and what :func:`~medad_fast.methods.parts.score.as_prediction`
    reads."""

    baseline: ClassVar[bool] = False
    """Whether it is there for comparison only."""

    @property
    def device(self) -> torch.device:
        """Where its weights are, or its buffers where it has no weights."""
        return next(chain(self.parameters(), self.buffers())).device

    @property
    def uses_unlabeled(self) -> bool:
        """Whether a stage asks for ``normal+unlabeled``; else unlabeled images are not loaded."""
        return False

    @property
    def tunes(self) -> bool:
        """Whether :meth:`finish` fits something to the held-out normal images.

        They are then not as new to the method as those that it will score, and others must set the
        thresholds.
        """
        return False

    def begin(self, *, unlabeled: bool) -> None:
        """Learn, before the first stage, whether there are unlabeled images.

        A method that needs them may warn and become one that does not, in ``config`` too.
        """

    def initialize(self) -> None:
        """Take over what training starts from, such as published weights.

        Called once, before the first stage; not when a run is resumed or loaded.
        """

    @abstractmethod
    def stages(self) -> Iterator[Stage]:
        """The optimisations to run, in order. Yielded lazily: a stage may depend on the last."""

    def finish(self, train_normal: Iterable[Tensor], validation_normal: Iterable[Tensor]) -> None:
        """Fit what has a closed form (densities, score normalisers), once, after the last stage.

        Both arguments can be iterated more than once and give batches ``(B, C, H, W)``.
        """

    def make_room(self, tensors: Mapping[str, Tensor]) -> None:
        """Resize the buffers whose size came from the images, for a state about to be loaded.

        Raises:
            CheckpointError: a tensor cannot be such a buffer's.
        """
        for place, part in self.named_modules():
            if isinstance(part, RowBank) and f"{place}.{part.rows}" in tensors:
                part.make_room(tensors[f"{place}.{part.rows}"])

    @abstractmethod
    def predict(self, images: Tensor) -> Prediction:
        """Score images ``(B, C, H, W)`` in [-1, 1]; no gradient, randomness or batch effects."""


class RowBank(nn.Module):
    """A part of a method with a buffer ``(N, D)`` whose N came from the images."""

    rows: ClassVar[str]
    """The buffer's name."""

    def make_room(self, rows: Tensor) -> None:
        """Have as many rows as a state that is about to be loaded."""
        own: Tensor = self.get_buffer(self.rows)
        if rows.dim() != 2 or len(rows) < 1 or rows.shape[1] != own.shape[1]:
            wanted = f"(N, {own.shape[1]})"
            raise CheckpointError(f"{self.rows} of {wanted} expected, got {tuple(rows.shape)}")
        setattr(self, self.rows, own.new_zeros(rows.shape))


@dataclass(frozen=True)
class Mapped:
    """What a function makes of batches, as often as they are iterated."""

    function: Callable[[Tensor], Tensor]
    batches: Iterable[Tensor]

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.function, self.batches)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """``module`` in evaluation mode, and back: its batch norms use what they have learned."""
    before = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(before)
