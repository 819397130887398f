"""Records as a run would write them, without a run."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bench.harness.record import FORMAT, Row

MACHINE = {
    "device": "cpu",
    "processor": "A Processor, 2 processors",
    "threads": 2,
    "peak_gflops": 200.0,
    "read_gbytes": 30.0,
    "load_average": 0.1,
    "torch": "2.13.0",
    "python": "3.11.7",
    "build": {"version": "0.1.0", "cpu": "avx512", "cuda": False},
    "date": "2026-11-21",
}
DURING = {"others_cpu_share": 0.01, "attempts": 1, "flushed_mib": 64}


def record(
    op: str, point: str, candidate: str, *, ratio: float | None = None, **changes: Any
) -> dict[str, Any]:
    """One candidate at a point, whose interval is 2 % to each side of the ratio."""
    row = Row(
        op=op,
        candidate=candidate,
        shape=point,
        dtype="float32",
        min_ms=2.0 * (ratio or 1.0),
        median_ms=2.5 * (ratio or 1.0),
        spread=0.01,
        call_spread=0.2,
        repeats=100,
        turns=12,
        cold_ms=3.0,
        error=1e-7,
        extra_mib=1.5,
        flops=None,
        bytes_touched=4e7,
        gflops=None,
        gbytes=20.0,
        roofline=0.67,
        ratio=ratio,
        ratio_low=ratio and ratio * 0.98,
        ratio_high=ratio and ratio * 1.02,
        refused=None,
        ratio_refused=None,
    )
    return {"format": FORMAT, "point": point} | asdict(row) | MACHINE | DURING | changes
