"""Compare candidates at one point: are they right, and how fast is each?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.harness import machine
from bench.harness.record import SPREAD_LIMIT, Candidate, Comparison, Result, Row
from bench.harness.turns import Stopwatch, Times, interval, ratio, take_turns

OTHERS_LIMIT = 0.05
"""Share of all processors' time that other processes may use during an attempt."""
ATTEMPTS = 4
PAUSE_S = 1.0
"""After a disturbed attempt: what disturbed it may soon be over."""
COLD_S = 0.1
"""Time for the cold calls of one candidate: at least one, at most five."""


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
    seconds: float = 2.0,
    min_repeats: int = 5,
) -> Comparison:
    """Check the candidates against ``truth``, then time them in turns.

    Args:
        op: name of the op, for the records.
        candidates: each computes and returns the same thing: a tensor or several. The one called
            "fused" is what all others are compared with.
        shape: the point, in words, for the records.
        dtype: of the inputs, for the records.
        device: where the candidates run.
        truth: computes it once, more precisely.
        tolerance: largest difference allowed, relative to the truth's largest element.
        flops: additions and multiplications of the definition, for a rate.
        bytes_touched: bytes of all inputs and outputs, for a rate.
        seconds: how long an attempt is, about; an attempt that does not settle the figures is
            continued by another, up to ``ATTEMPTS``. With 0 there is one, of the fewest turns.
        min_repeats: turns that each candidate takes in an attempt even if that is longer.

    Raises:
        AssertionError: a candidate is wrong.
    """
    expected = _tensors(truth())
    errors = {}
    for name, candidate in candidates.items():
        errors[name] = _error(f"{op} {name} at {shape}", _tensors(candidate()), expected)
        assert errors[name] <= tolerance, f"{op} {name} at {shape}: error {errors[name]:.2e}"
    del expected
    about = machine.describe(device)
    extra = {name: machine.extra_mib(candidate, device) for name, candidate in candidates.items()}
    stopwatch = Stopwatch(device)
    times, share, attempts = settle(
        lambda: take_turns(dict(candidates), stopwatch, seconds=seconds, min_turns=min_repeats),
        limit=ATTEMPTS if seconds else 1,
    )
    flush, flushed = machine.cache_flush(device)
    cold = _cold(candidates, times, stopwatch, flush)
    disturbed = _disturbed(share)

    rows = []
    for name, found in times.items():
        fastest, _, high = interval(found)
        spread = high / fastest - 1
        tenth, median, ninetieth = np.quantile(found.calls, [0.1, 0.5, 0.9])
        against = ratio(found, times["fused"]) if name != "fused" and "fused" in times else None
        gflops = None if flops is None else flops / fastest / 1e6
        gbytes = None if bytes_touched is None else bytes_touched / fastest / 1e6
        rows.append(
            Row(
                op=op,
                candidate=name,
                shape=shape,
                dtype=str(dtype).removeprefix("torch."),
                min_ms=fastest,
                median_ms=float(median),
                spread=spread,
                call_spread=float((ninetieth - tenth) / median),
                repeats=len(found.calls),
                turns=len(found.fastest),
                cold_ms=cold[name],
                error=errors[name],
                extra_mib=extra[name],
                flops=flops,
                bytes_touched=bytes_touched,
                gflops=gflops,
                gbytes=gbytes,
                roofline=_roofline(gflops, gbytes, about),
                ratio=against[0] if against else None,
                ratio_low=against[1] if against else None,
                ratio_high=against[2] if against else None,
                refused=disturbed or _too_wide(spread),
                ratio_refused=(
                    disturbed or _too_wide((against[2] - against[1]) / against[0])
                    if against
                    else None
                ),
            )
        )
    during = {
        "others_cpu_share": round(share, 3),
        "attempts": attempts,
        "flushed_mib": round(flushed),
    }
    return Comparison(rows, times, candidates, about | during)


def settle(
    attempt: Callable[[], dict[str, Times]],
    *,
    limit: int = ATTEMPTS,
    others: Callable[[], machine.OtherProcesses] = machine.OtherProcesses,
    pause: Callable[[float], object] = time.sleep,
) -> tuple[dict[str, Times], float, int]:
    """Attempt until the figures stand, at most ``limit`` times.

    An attempt that other processes disturbed is thrown away. Undisturbed ones add up: their turns
    are turns of one longer run. The figures stand when the interval of every minimum, and of every
    ratio to "fused", is narrow enough.

    Returns:
        The times, the largest share of other processes in them, and the number of attempts. Where
        every attempt was disturbed: the least disturbed one, with its share, to be refused.
    """
    kept: dict[str, Times] = {}
    worst = 0.0
    least: tuple[float, dict[str, Times]] | None = None
    for count in range(1, limit + 1):
        watch = others()
        times = attempt()
        share = watch.share()
        if share > OTHERS_LIMIT:
            if least is None or share < least[0]:
                least = share, times
            if count < limit:
                pause(PAUSE_S)
            continue
        worst = max(worst, share)
        for name, found in times.items():
            kept.setdefault(name, Times()).extend(found)
        if _stands(kept):
            break
    if kept:
        return kept, worst, count
    assert least is not None
    return least[1], least[0], count


def _stands(times: dict[str, Times]) -> bool:
    for name, found in times.items():
        fastest, _, high = interval(found)
        if _too_wide(high / fastest - 1):
            return False
        if name != "fused" and "fused" in times:
            value, low, high = ratio(found, times["fused"])
            if _too_wide((high - low) / value):
                return False
    return True


def _disturbed(share: float) -> str | None:
    if share > OTHERS_LIMIT:
        return f"other processes used {share:.0%}"
    return None


def _too_wide(width: float) -> str | None:
    return f"spread {width:.2f}" if width > SPREAD_LIMIT else None


def _cold(
    candidates: dict[str, Candidate],
    times: dict[str, Times],
    stopwatch: Stopwatch,
    flush: Callable[[], object],
) -> dict[str, float]:
    """The fastest of a few calls, each after everything was pushed out of the cache."""
    fastest = {}
    for name, candidate in candidates.items():
        repeats = min(5, max(1, math.floor(COLD_S * 1e3 / min(times[name].fastest))))
        calls = []
        for _ in range(repeats):
            flush()
            calls.append(stopwatch(candidate))
        fastest[name] = min(calls)
    return fastest


def _roofline(gflops: float | None, gbytes: float | None, about: dict[str, Any]) -> float | None:
    shares = [] if gflops is None else [gflops / about["peak_gflops"]]
    shares += [] if gbytes is None else [gbytes / about["read_gbytes"]]
    return float(max(shares)) if shares else None


def _tensors(result: Result) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def _error(what: str, got: list[Tensor], expected: list[Tensor]) -> float:
    """The worst of the results; one that is missing (not asked of a candidate) does not count."""
    errors = []
    for g, e in zip(got, expected, strict=False):
        assert g.shape == e.shape, f"{what}: shape {tuple(e.shape)} expected, got {tuple(g.shape)}"
        largest = e.double().abs().max().clamp_min(1e-300)
        errors.append(float((g.double() - e.double()).abs().max() / largest))
    return max(errors)
