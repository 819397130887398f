"""Who else used the processors, read from a /proc of the test's own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from bench.harness import machine

TICK = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "PROC", tmp_path)
    return tmp_path


def write(proc: Path, **seconds: float) -> None:
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest")
    ticks = " ".join(str(round(seconds.get(name, 0) * TICK)) for name in names)
    (proc / "stat").write_text(f"cpu  {ticks} 0\ncpu0 1 2 3\n")


def share(proc: Path, monkeypatch: pytest.MonkeyPatch, *, own: float, **seconds: float) -> float:
    process = [100.0]
    monkeypatch.setattr(time, "process_time", lambda: process[0])
    write(proc, user=50, idle=70)
    watch = machine.OtherProcesses()
    process[0] += own
    write(
        proc,
        **(
            {"user": 50, "idle": 70}
            | {k: v + {"user": 50, "idle": 70}.get(k, 0) for k, v in seconds.items()}
        ),
    )
    return watch.share()


def test_own_work_is_nobody_elses(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert share(proc, monkeypatch, own=8, user=8, idle=12) == 0.0


def test_the_rest_of_the_busy_time_is(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert share(proc, monkeypatch, own=8, user=9, nice=1, idle=10) == pytest.approx(0.1)


def test_waiting_for_disks_is_idle(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert share(proc, monkeypatch, own=10, user=10, iowait=10) == 0.0


def test_stolen_time_counts_and_guest_time_only_once(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert share(proc, monkeypatch, own=10, user=10, steal=2, idle=8) == pytest.approx(0.1)
    assert share(proc, monkeypatch, own=10, user=10, guest=5, idle=10) == 0.0


def test_no_time_and_no_proc_give_nothing(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert share(proc, monkeypatch, own=0) == 0.0
    (proc / "stat").unlink()
    assert machine.OtherProcesses().share() == 0.0


def test_a_file_is_named_by_the_machine(proc: Path) -> None:
    (proc / "cpuinfo").write_text("processor : 0\nmodel name\t: AMD EPYC(TM) 9B14 @ 2.6GHz\n")
    count = os.cpu_count()
    assert machine.processor(torch.device("cpu")).endswith(f"2.6GHz, {count} processors")
    assert machine.slug(torch.device("cpu")) == f"amd-epyc-tm-9b14-2-6ghz-{count}cpu"


def test_memory_that_cannot_be_seen_is_not_zero(proc: Path) -> None:
    assert machine.extra_mib(lambda: None, torch.device("cpu")) is None
