"""Signals that stop a run: caught, so that a step is finished and its state saved first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM came; the step was finished and the state saved."""

    def __init__(self, signal_number: int, where: str) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name} {where}")
        self.exit_code = 128 + signal_number


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM append to; the second signal ends the process at once.

    Outside the main thread Python cannot catch signals, and the list stays empty.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, frame: FrameType | None) -> None:
        if caught:
            raise Interrupted(number, "twice; the last saved state stands")
        caught.append(number)

    for number in numbers:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
