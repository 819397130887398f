"""Candidates take turns; what is kept of a turn is its fastest call.

A turn is a few calls of one candidate in a row. The first of them is not timed: it brings the
candidate's data into the cache, so that all timed calls find it there ("hot") whoever ran before.
Turns of all candidates alternate, so that whatever slows the machine for a while slows them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

TURNS = 12
"""Turns of each candidate in one attempt; slow candidates sit some of them out."""
HOT_BELOW_MS = 100.0
"""Filling the whole cache takes at most a few milliseconds: longer calls are timed at once."""
RESAMPLES = 1000

Interval = tuple[float, float, float]
Work = Callable[[], object]


class Stopwatch:
    """Milliseconds of one call, on the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, work: Work) -> float:
        if self.device.type == "cuda":
            event: Any = torch.cuda.Event  # torch gives it no types
            begin, end = event(enable_timing=True), event(enable_timing=True)
            torch.cuda.synchronize(self.device)
            begin.record()
            work()
            end.record()
            end.synchronize()
            return float(begin.elapsed_time(end))
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1e3


@dataclass
class Times:
    """The timed calls of one candidate."""

    calls: list[float] = field(default_factory=list)  # milliseconds
    fastest: list[float] = field(default_factory=list)  # of each turn

    def add(self, turn: list[float]) -> None:
        self.calls += turn
        self.fastest.append(min(turn))

    def extend(self, other: Times) -> None:
        self.calls += other.calls
        self.fastest += other.fastest


def take_turns(
    candidates: dict[str, Work],
    stopwatch: Callable[[Work], float],
    *,
    seconds: float,
    min_turns: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Times]:
    """Time the candidates for about ``seconds`` in all, each for its equal share.

    A candidate too slow for ``TURNS`` turns in its share sits out evenly spaced ones, but never
    so many that fewer than ``min_turns`` are left.
    """
    quota = seconds / len(candidates) / TURNS
    once = {name: stopwatch(candidate) for name, candidate in candidates.items()}
    turns = {
        name: min(TURNS, max(min_turns, int(quota * TURNS * 1e3 / (spent + 1e-9))))
        for name, spent in once.items()
    }
    times = {name: Times() for name in candidates}
    for turn in range(TURNS):
        for name, candidate in candidates.items():
            if (turn + 1) * turns[name] // TURNS == turn * turns[name] // TURNS:
                continue
            start = clock()
            if once[name] < HOT_BELOW_MS:
                candidate()
            calls = [stopwatch(candidate)]
            while clock() - start < quota:
                calls.append(stopwatch(candidate))
            times[name].add(calls)
    return times


def interval(times: Times) -> Interval:
    """The fastest call, and the 95 % bootstrap interval of it over the turns."""
    draws = _draws(times, seed=0)
    low, high = np.quantile(draws, [0.025, 0.975])
    return min(times.fastest), float(low), float(high)


def ratio(slower: Times, faster: Times) -> Interval:
    """How many times as fast ``faster`` is: the ratio of fastest calls and its 95 % interval."""
    ratios = _draws(slower, seed=0) / _draws(faster, seed=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return min(slower.fastest) / min(faster.fastest), float(low), float(high)


def _draws(times: Times, *, seed: int) -> NDArray[Any]:
    """The fastest call of resampled turns."""
    fastest = np.array(times.fastest)
    turns = np.random.default_rng(seed).integers(0, len(fastest), (RESAMPLES, len(fastest)))
    drawn: NDArray[Any] = fastest[turns].min(axis=1)
    return drawn
