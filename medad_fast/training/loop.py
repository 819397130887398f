"""The only training loop: a method's stages, on tensors, from seeds that make it repeatable.

All randomness of a step comes from ``(seed, stage, step)``, and the order of the images from
``(seed, stage, epoch)``, for an ensemble from ``(seed, stage, epoch, member)``. So a run that was
stopped goes on bit for bit without any saved generator state, on the same machine, build and thread
count.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from medad_fast.errors import DeviceError, InputError
from medad_fast.methods.base import Method, Stage, Update
from medad_fast.training.interrupts import Interrupted, caught_signals
from medad_fast.training.state import JsonLines, Moment, StateFolder

Precision = Literal["float32", "bfloat16"]

SAVE_EVERY_SECONDS = 60.0
PREPARED_AT_ONCE = 16  # images


@dataclass(frozen=True)
class Step:
    """Where training is, for a progress display."""

    stage: str
    stage_number: int
    """From 1; ``stage_count`` is not known, since stages may depend on earlier ones."""
    step: int
    """Steps done in this stage."""
    steps: int
    """Steps that this stage will have."""
    losses: dict[str, float]
    """The latest loss of each update."""


OnStep = Callable[[Step], None]


@dataclass
class Running:
    """One update of the stage that runs: its optimiser, schedule and losses since the last line."""

    update: Update
    parameters: list[nn.Parameter]
    optimizer: Optimizer
    schedule: LRScheduler | None
    total: float = 0.0
    count: int = 0
    latest: dict[str, float] = field(default_factory=dict)


def seed_for(seed: int, *place: object) -> int:
    """A seed for one place of a run (``"weights"``, or a stage and a step), from the run's seed."""
    text = "/".join(str(part) for part in (seed, *place))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:<number>``.

    Raises:
        DeviceError: a GPU is asked for that is not there.
        InputError: another kind of device.
    """
    name = str(device)
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise InputError(f"device must be auto, cpu, cuda or cuda:<number>, got {name!r}")
    if kind == "cuda" and not available:
        raise DeviceError(f"device {name!r} was asked for, but torch finds no CUDA GPU; use cpu")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise DeviceError(
            f"device {name!r} was asked for, but there are {torch.cuda.device_count()} GPUs"
        )
    return torch.device(name)


def train(
    method: Method,
    normal: Tensor,
    unlabeled: Tensor | None = None,
    *,
    seed: int = 0,
    max_steps: int | None = None,
    device: str | torch.device = "auto",
    precision: Precision = "float32",
    state: Path | None = None,
    resume: bool = False,
    log: Path | None = None,
    progress: OnStep | None = None,
) -> None:
    """Run all stages of ``method``, in place. ``finish`` is left to the caller.

    Args:
        method: moved to ``device``.
        normal: images ``(N, C, H, W)`` float32 in [-1, 1]; they stay where they are, batches move.
        unlabeled: the same, for stages that ask for them; treated as normal there.
        seed: of data order and of all that the losses draw.
        max_steps: at most this many steps in each stage.
        device: see :func:`pick_device`.
        precision: ``bfloat16`` runs the losses under ``torch.autocast``.
        state: folder for resumable state, written every minute, at the end of each stage and when
            a signal stops the run; None keeps none.
        resume: go on from ``state``, where it holds one.
        log: file that gets a line of JSON per epoch with the mean losses.
        progress: called after each step.

    Raises:
        InputError: a loss that is not finite; names stage, step and update.
        CheckpointError: the state is damaged.
        DeviceError: no such device, or too little memory on it.
        Interrupted: SIGINT or SIGTERM; the state is saved first.
    """
    place = pick_device(device)
    devices = [place] if place.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed_for(seed, "begin"))
        method.begin(unlabeled=unlabeled is not None and len(unlabeled) > 0)
    method.to(place).train()
    folder = StateFolder(state) if state is not None else None
    start = folder.read() if folder is not None and resume else None
    if start is not None:
        start.restore_model(method)
    else:
        method.initialize()
    lines = JsonLines(log, start.lines if start is not None else 0)
    with torch.random.fork_rng(devices=devices), caught_signals() as caught:
        loop = _Loop(method, seed, place, precision, folder, lines, progress, caught)
        try:
            for number, stage in enumerate(method.stages(), start=1):
                if start is not None and number < start.stage:
                    continue
                at = start if start is not None and number == start.stage else None
                images = _images_for(stage, normal, unlabeled, place)
                loop.run(stage, number, images, max_steps, at)
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"out of memory on {place}: use a smaller batch_size, width or image_size"
            ) from error
    method.eval()


@dataclass
class _Loop:
    method: Method
    seed: int
    device: torch.device
    precision: Precision
    folder: StateFolder | None
    log: JsonLines
    progress: OnStep | None
    caught: list[int]
    saved: float = field(default_factory=time.monotonic)

    def run(
        self, stage: Stage, number: int, images: Tensor, max_steps: int | None, at: Moment | None
    ) -> None:
        per_epoch = math.ceil(len(images) / stage.batch_size)
        if stage.drop_last and per_epoch > 1:
            per_epoch = len(images) // stage.batch_size
        steps = stage.epochs * per_epoch if stage.steps is None else stage.steps
        if max_steps is not None:
            steps = min(steps, max_steps)
        running = [_start(update, steps) for update in stage.updates]
        first = 0
        if at is not None:
            at.restore_updates(running)
            first = at.step
        order = torch.empty(0, dtype=torch.int64)
        for step in range(first, steps):
            epoch, batch = divmod(step, per_epoch)
            if batch == 0 or step == first:
                order = self._order(number, epoch, len(images), stage.orders)
            chosen = order[..., batch * stage.batch_size : (batch + 1) * stage.batch_size]
            torch.manual_seed(seed_for(self.seed, "step", number, step))
            self._step(stage, running, images[chosen].to(self.device), step)
            done = step + 1
            if done % per_epoch == 0 or done == steps:
                self._write_line(stage, running, epoch, done)
            self._save_if_due(number, done, steps, running, f"at step {done} of {stage.name}")
            if self.progress is not None:
                losses = {name: loss for each in running for name, loss in each.latest.items()}
                self.progress(Step(stage.name, number, done, steps, losses))

    def _order(self, stage: int, epoch: int, count: int, orders: int | None = None) -> Tensor:
        """Numbers of the images, ``(count)`` or ``(orders, count)``."""
        places = [()] if orders is None else [(member,) for member in range(orders)]
        drawn = [
            torch.randperm(count, generator=torch.Generator().manual_seed(seed))
            for seed in (seed_for(self.seed, "order", stage, epoch, *place) for place in places)
        ]
        return drawn[0] if orders is None else torch.stack(drawn)

    def _step(self, stage: Stage, running: list[Running], batch: Tensor, step: int) -> None:
        for each in running:
            if step % each.update.every:
                continue
            half = self.precision != "float32"
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
                loss = each.update.loss(batch)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise InputError(
                    f"the loss of update {each.update.name!r} became {value} at step {step + 1} of "
                    f"stage {stage.name!r}: a lower learning_rate may help"
                )
            each.optimizer.zero_grad(set_to_none=True)
            # Only the gradients this update uses: an adversary's own weights need none here.
            torch.autograd.backward(loss, inputs=each.parameters)
            each.optimizer.step()
            if each.schedule is not None:
                each.schedule.step()
            each.total += value
            each.count += 1
            each.latest = {each.update.name: value}

    def _write_line(self, stage: Stage, running: list[Running], epoch: int, done: int) -> None:
        losses = {each.update.name: each.total / each.count for each in running if each.count}
        for each in running:
            each.total, each.count = 0.0, 0
        line = {"stage": stage.name, "epoch": epoch + 1, "step": done, "losses": losses}
        self.log.write(line)

    def _save_if_due(
        self, stage: int, done: int, steps: int, running: list[Running], where: str
    ) -> None:
        stopped = bool(self.caught)
        due = stopped or done == steps or time.monotonic() - self.saved > SAVE_EVERY_SECONDS
        if due and self.folder is not None:
            self.folder.write(Moment.take(stage, done, self.log.lines, self.method, running))
            self.saved = time.monotonic()
        if stopped:
            advice = "; resume continues from there" if self.folder is not None else ""
            raise Interrupted(self.caught[0], where + advice)


def _start(update: Update, steps: int) -> Running:
    parameters = [p for p in update.parameters() if p.requires_grad]
    optimizer = update.optimizer(parameters)
    share = math.ceil(steps / update.every)
    return Running(
        update,
        parameters,
        optimizer,
        update.schedule(optimizer, share) if update.schedule is not None else None,
    )


def _images_for(
    stage: Stage, normal: Tensor, unlabeled: Tensor | None, device: torch.device
) -> Tensor:
    images = normal
    if stage.data != "normal" and unlabeled is not None:
        images = torch.cat([normal, unlabeled])
    if stage.prepare is None:
        return images
    return stage.prepare(batch.to(device) for batch in torch.split(images, PREPARED_AT_ONCE))
