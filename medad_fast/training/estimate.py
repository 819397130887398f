"""Time and memory that training will take, estimated after the first ten steps of a stage."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from medad_fast.training.loop import Step

STEPS = 10
"""The first of them warms up and is not timed."""


@dataclass(frozen=True)
class Estimate:
    """Time and memory of one stage; later stages and the final fits are not included."""

    stage: str
    stage_number: int
    """From 1."""
    step: int
    """Steps of the stage that are done."""
    steps: int
    """Steps that the stage will have."""
    seconds_per_step: float
    memory_bytes: int | None
    """Peak so far. GPU: all that torch allocated there, weights included. CPU: how far the
    process grew since training began, so without the images; None where the system has no figure.
    """
    device: str

    @property
    def seconds_left(self) -> float:
        """Time for the rest of the stage."""
        return self.seconds_per_step * (self.steps - self.step)


@dataclass
class Estimator:
    """A progress callback that gives an :class:`Estimate` after ten steps of each stage.

    Stages of ten steps or fewer are over by then and have none. Make one right before training:
    the memory is counted from there.
    """

    tell: Callable[[Estimate], None]
    device: torch.device
    progress: Callable[[Step], None] | None = None
    """Called with every step."""
    _stage: int = 0
    _first: int = 0
    _begun: float = 0.0
    _memory: _Memory = field(init=False)

    def __post_init__(self) -> None:
        self._memory = _Memory(self.device)

    def __call__(self, step: Step) -> None:
        self._memory.sample()
        if step.stage_number != self._stage:
            # A resumed stage begins at a later step than the first.
            self._stage, self._first, self._begun = step.stage_number, step.step, time.monotonic()
        elif step.step - self._first == STEPS - 1 and step.step < step.steps:
            self.tell(
                Estimate(
                    stage=step.stage,
                    stage_number=step.stage_number,
                    step=step.step,
                    steps=step.steps,
                    seconds_per_step=(time.monotonic() - self._begun) / (STEPS - 1),
                    memory_bytes=self._memory.peak(),
                    device=str(self.device),
                )
            )
        if self.progress is not None:
            self.progress(step)


class _Memory:
    """Peak memory since this was made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        # Linux: its peak begins anew. Without this the process's larger peak of before hides ours.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._start = _resident()
        self._largest = self._start[0] if self._start is not None else 0

    def sample(self) -> None:
        now = _resident()
        if now is not None:
            self._largest = max(self._largest, now[0])

    def peak(self) -> int | None:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        now = _resident()
        if now is None or self._start is None:
            return None
        # The system's own peak sees inside a step, but stems from before training where it could
        # not be reset.
        largest = now[1] if now[1] > self._start[1] else self._largest
        return max(largest - self._start[0], 0)


def _resident() -> tuple[int, int] | None:
    """Resident bytes of this process, now and at its peak; None where there is no ``/proc``."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        values = dict(line.split(":", 1) for line in lines if ":" in line)
        now, peak = (int(values[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return now, peak
