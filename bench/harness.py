"""Time several ways of computing the same thing, side by side.

Candidates take turns, call by call, so that whatever disturbs the machine disturbs them alike; what
is quoted is the ratio of their fastest calls, with a bootstrap interval over the turns. The results
are compared with each other in the same run, the machine's own speed is measured beside them, and
a run that other processes disturbed is reported as refused.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import functools
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Comparison", "Row", "compare", "parse_arguments"]

OTHERS_LIMIT = 0.05  # of all processors' time, spent by other processes
SPREAD_LIMIT = 0.1  # (90th - 10th percentile) / median
_RESAMPLES = 1000

Result = Tensor | Sequence[Tensor]
Candidate = Callable[[], Result]


@dataclass(frozen=True)
class Row:
    """One candidate at one point, as written to a JSON line. Times in milliseconds."""

    op: str
    candidate: str
    shape: str
    dtype: str
    min_ms: float
    median_ms: float
    spread: float
    repeats: int
    error: float  # largest difference from the truth, relative to its largest element
    extra_mib: float  # peak memory during a call, beyond what was held before
    gflops: float | None  # multiplications and additions of the definition per second of min_ms
    gbytes: float | None  # bytes of inputs and outputs per second of min_ms
    refused: str | None  # why the numbers must not be quoted


@dataclass
class Comparison:
    """All candidates at one point."""

    rows: list[Row]
    milliseconds: dict[str, np.ndarray]  # per candidate, one number a turn
    machine: dict[str, Any] = field(default_factory=dict)

    def ratio(self, slower: str, faster: str) -> tuple[float, float, float]:
        """How many times as fast ``faster`` is: the ratio of minima and its 95 % interval."""
        a, b = self.milliseconds[slower], self.milliseconds[faster]
        turns = np.random.default_rng(0).integers(0, len(a), (_RESAMPLES, len(a)))
        ratios = a[turns].min(1) / b[turns].min(1)
        low, high = np.quantile(ratios, [0.025, 0.975])
        return float(a.min() / b.min()), float(low), float(high)

    def json_lines(self) -> Iterator[str]:
        """One line a candidate, with the machine it ran on."""
        for row in self.rows:
            yield json.dumps(asdict(row) | self.machine, allow_nan=False)

    def text(self, ratios: Sequence[tuple[str, str]] = ()) -> str:
        """A table for people, then a line for each ratio asked for."""
        first = self.rows[0]
        lines = [f"{first.op}  {first.shape}  {first.dtype}  {self.machine['processor']}"]
        for row in self.rows:
            rate = "" if row.gflops is None else f"{row.gflops:8.0f} GF/s"
            rate += "" if row.gbytes is None else f"{row.gbytes:8.1f} GB/s"
            lines.append(
                f"  {row.candidate:<24}{row.min_ms:10.3f} ms (median {row.median_ms:.3f}, spread "
                f"{row.spread:.2f}){rate}{row.extra_mib:8.1f} MiB  error {row.error:.1e}"
                + (f"  REFUSED: {row.refused}" if row.refused else "")
            )
        for slower, faster in ratios:
            if slower in self.milliseconds and faster in self.milliseconds:
                ratio, low, high = self.ratio(slower, faster)
                lines.append(f"  {slower} / {faster}: {ratio:.2f} ({low:.2f} to {high:.2f})")
        lines.append(
            f"  this machine in this run: {self.machine['peak_gflops']:.0f} GF/s multiplying, "
            f"{self.machine['read_gbytes']:.1f} GB/s reading"
        )
        return "\n".join(lines)


def parse_arguments(description: str) -> argparse.Namespace:
    """The options that every benchmark has on the command line; sets the number of threads."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", type=Path, default=None, help="append JSON lines to this file")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return arguments


def compare(
    op: str,
    candidates: dict[str, Candidate],
    *,
    shape: str,
    dtype: torch.dtype,
    device: torch.device,
    truth: Candidate,
    tolerance: float,
    flops: float | None = None,
    bytes_touched: float | None = None,
    seconds: float = 5.0,
    min_repeats: int = 20,
) -> Comparison:
    """Check the candidates against ``truth``, then time them in turns.

    Args:
        op: name of the op, for the records.
        candidates: each computes and returns the same thing: a tensor or several.
        shape: the point, in words, for the records.
        dtype: of the inputs, for the records.
        device: where the candidates run.
        truth: computes it once, more precisely.
        tolerance: largest difference allowed, relative to the truth's largest element.
        flops: additions and multiplications of the definition, for a rate.
        bytes_touched: bytes of all inputs and outputs, for a rate.
        seconds: how long to go on taking turns, about.
        min_repeats: turns taken even if that is longer.

    Raises:
        AssertionError: a candidate is wrong.
    """
    expected = _tensors(truth())
    errors = {}
    for name, candidate in candidates.items():
        errors[name] = _error(_tensors(candidate()), expected)
        assert errors[name] <= tolerance, f"{op} {name} at {shape}: error {errors[name]:.2e}"
    extra = {name: _extra_mib(candidate, device) for name, candidate in candidates.items()}

    turns: dict[str, list[float]] = {name: [] for name in candidates}
    others = _OtherProcesses()
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(turns[next(iter(turns))]) < min_repeats:
        for name, candidate in candidates.items():
            turns[name].append(_milliseconds(candidate, device))
    share = others.share()

    rows = []
    milliseconds = {name: np.array(values) for name, values in turns.items()}
    for name, values in milliseconds.items():
        low, median, high = np.quantile(values, [0.1, 0.5, 0.9])
        spread = float((high - low) / median)
        fastest = float(values.min())
        rows.append(
            Row(
                op=op,
                candidate=name,
                shape=shape,
                dtype=str(dtype).removeprefix("torch."),
                min_ms=fastest,
                median_ms=float(median),
                spread=spread,
                repeats=len(values),
                error=errors[name],
                extra_mib=extra[name],
                gflops=None if flops is None else flops / fastest / 1e6,
                gbytes=None if bytes_touched is None else bytes_touched / fastest / 1e6,
                refused=_refusal(share, spread),
            )
        )
    return Comparison(rows, milliseconds, _machine(device) | {"others_cpu_share": round(share, 3)})


def _refusal(share: float, spread: float) -> str | None:
    if share > OTHERS_LIMIT:
        return f"other processes used {share:.0%} of the processors"
    if spread > SPREAD_LIMIT:
        return f"spread {spread:.2f}"
    return None


def _tensors(result: Result) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def _error(got: list[Tensor], expected: list[Tensor]) -> float:
    """The worst of the results; one that is missing (not asked of a candidate) does not count."""
    errors = [
        float((g.double() - e.double()).abs().max() / e.double().abs().max().clamp_min(1e-300))
        for g, e in zip(got, expected, strict=False)
    ]
    return max(errors)


def _milliseconds(candidate: Candidate, device: torch.device) -> float:
    if device.type == "cuda":
        event: Any = torch.cuda.Event  # torch gives it no types
        begin, end = event(enable_timing=True), event(enable_timing=True)
        torch.cuda.synchronize(device)
        begin.record()
        candidate()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))
    start = time.perf_counter()
    candidate()
    return (time.perf_counter() - start) * 1e3


def _extra_mib(candidate: Candidate, device: torch.device) -> float:
    """Peak memory of one call beyond what was held before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        candidate()
        return float(torch.cuda.max_memory_allocated(device) - before) / 2**20
    if platform.system() != "Linux":
        return 0.0
    # Large blocks straight from the system and back: otherwise freed memory is reused unseen.
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _status_kib("VmRSS")
    result = candidate()
    peak = _status_kib("VmHWM")
    del result
    libc.mallopt(-3, 32 << 20)  # and as fast as it was for the timing
    return (peak - before) / 1024


def _status_kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


class _OtherProcesses:
    """The share of all processors' time that went to other processes, since it was made."""

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        own = time.process_time()
        if platform.system() != "Linux":
            return time.perf_counter(), own, own
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        ticks = [int(value) for value in fields]
        idle = ticks[3] + ticks[4]
        tick = os.sysconf("SC_CLK_TCK")
        return sum(ticks[:8]) / tick, (sum(ticks[:8]) - idle) / tick, own

    def share(self) -> float:
        total, busy, own = (now - then for now, then in zip(self._now(), self._start, strict=True))
        return max(0.0, (busy - own) / max(total, 1e-9))


@functools.cache
def _machine(device: torch.device) -> dict[str, Any]:
    """What ran, on what, and how fast that is: a large product and a pass over 256 MiB."""
    import medad_fast.ops._native as native

    side = 1024 if device.type == "cpu" else 8192
    a = torch.rand(side, side, device=device)
    wide = torch.rand(1 << 26, device=device)
    product = min(_milliseconds(lambda: a @ a, device) for _ in range(10))
    read = min(_milliseconds(lambda: wide.sum(), device) for _ in range(10))
    return {
        "processor": _processor(device),
        "threads": torch.get_num_threads(),
        "peak_gflops": 2 * side**3 / product / 1e6,
        "read_gbytes": wide.nbytes / read / 1e6,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "build": native.build_info(),
        "date": datetime.date.today().isoformat(),
    }


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {os.cpu_count()} processors"
    return platform.processor() or platform.machine()
