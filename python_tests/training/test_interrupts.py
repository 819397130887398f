"""Signals: the first lets the step end, the second does not."""

from __future__ import annotations

import signal

import pytest

from medad_fast.training.interrupts import Interrupted
from medad_fast.training.state import StateFolder
from python_tests.training.two_stages import run_two_stages, stop_at


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_and_tells_the_exit_code(number, code, tmp_path):
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="resume continues from there") as stop:
        run_two_stages(tmp_path, progress=stop_at(3, number))
    assert stop.value.exit_code == code
    assert isinstance(stop.value, KeyboardInterrupt)
    assert signal.getsignal(number) is before
    assert StateFolder(tmp_path / "state").read() is not None


def test_a_second_signal_leaves_at_once(tmp_path):
    with pytest.raises(Interrupted, match="twice"):
        run_two_stages(tmp_path, progress=lambda _: [stop_at(1)(None) for _ in range(2)])
