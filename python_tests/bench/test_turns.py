"""Turns and intervals, on a clock that the tests turn."""

from __future__ import annotations

import itertools

import pytest

from bench.harness.turns import HOT_BELOW_MS, TURNS, Times, Work, interval, ratio, take_turns


class Clock:
    """Stands still unless a candidate runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def candidate(self, name: str, milliseconds: float) -> Work:
        def run() -> None:
            self.now += milliseconds / 1e3
            self.log.append(name)

        return run

    def stopwatch(self, work: Work) -> float:
        start = self.now
        work()
        self.log[-1] += " timed"
        return (self.now - start) * 1e3


def turns(clock: Clock, seconds: float, **milliseconds: float) -> dict[str, Times]:
    candidates = {name: clock.candidate(name, each) for name, each in milliseconds.items()}
    return take_turns(candidates, clock.stopwatch, seconds=seconds, min_turns=5, clock=clock)


def runs(log: list[str]) -> list[tuple[str, int]]:
    """Candidates in the order they ran, and how many calls in a row were timed."""
    found: list[tuple[str, int]] = []
    for entry in log:
        name, _, timed = entry.partition(" ")
        if not found or found[-1][0] != name:
            found.append((name, 0))
        found[-1] = name, found[-1][1] + bool(timed)
    return found


def test_candidates_share_the_time_equally_and_alternate() -> None:
    clock = Clock()
    times = turns(clock, 2.0, fused=1.0, eager=10.0)
    assert [name for name, _ in runs(clock.log)] == ["fused", "eager"] * (TURNS + 1)
    assert len(times["fused"].fastest) == len(times["eager"].fastest) == TURNS
    spent = {name: sum(each.calls) for name, each in times.items()}
    assert spent["fused"] == pytest.approx(1000, rel=0.15)
    assert spent["eager"] == pytest.approx(1000, rel=0.15)
    assert clock.now == pytest.approx(2.0, rel=0.2)


def test_a_turn_begins_with_a_call_that_is_not_timed() -> None:
    clock = Clock()
    turns(clock, 1.0, fused=1.0, eager=2.0)
    first = [i for i, entry in enumerate(clock.log) if i > 2 and entry[:5] != clock.log[i - 1][:5]]
    assert first
    assert all(not clock.log[i].endswith("timed") for i in first)


def test_a_long_call_is_timed_at_once() -> None:
    clock = Clock()
    turns(clock, 0.1, fused=1.0, eager=HOT_BELOW_MS + 1)
    assert "eager" not in clock.log
    assert "eager timed" in clock.log


def test_a_slow_candidate_sits_out_evenly() -> None:
    clock = Clock()
    times = turns(clock, 2.0, fused=1.0, eager=500.0)
    assert len(times["fused"].fastest) == TURNS
    assert len(times["eager"].fastest) == 5
    places = [i for i, (name, _) in enumerate(runs(clock.log)) if name == "eager"]
    gaps = [b - a for a, b in itertools.pairwise(places)]
    assert set(gaps) <= {2}  # between two slow calls the fast one ran
    assert runs(clock.log)[-1][0] == "eager"  # and the slow ones are not all at the beginning


def test_no_time_still_gives_one_call_a_turn() -> None:
    times = turns(Clock(), 0.0, fused=1.0, eager=2.0)
    assert {name: len(each.calls) for name, each in times.items()} == {"fused": 5, "eager": 5}


def filled(*fastest: float) -> Times:
    times = Times()
    for value in fastest:
        times.add([10 * value, value, 5 * value])
    return times


def test_what_is_quoted_is_the_fastest_call() -> None:
    assert interval(filled(3.0, 2.0, 2.5))[0] == 2.0
    assert ratio(filled(6.0, 8.0), filled(2.0, 4.0))[0] == 3.0


def test_equal_turns_have_no_interval_and_one_lucky_turn_a_wide_one() -> None:
    assert interval(filled(*[2.0] * 12)) == (2.0, 2.0, 2.0)
    assert ratio(filled(*[6.0] * 12), filled(*[2.0] * 12)) == (3.0, 3.0, 3.0)
    value, low, high = interval(filled(1.0, *[2.0] * 11))
    assert (value, low, high) == (1.0, 1.0, 2.0)  # 36 % of resamples miss the lucky turn
    value, low, high = ratio(filled(*[6.0] * 12), filled(1.0, *[2.0] * 11))
    assert (value, low, high) == (6.0, 3.0, 6.0)


def test_more_turns_narrow_the_interval() -> None:
    steps = [2.0 + 0.1 * i for i in range(12)]
    few, many = filled(*steps), filled(*steps * 4)
    assert interval(many)[2] < interval(few)[2]


def test_turns_of_two_candidates_are_drawn_apart() -> None:
    steps = [2.0 + 0.1 * i for i in range(12)]
    value, low, high = ratio(filled(*steps), filled(*steps))
    assert low < value == 1.0 < high


def test_the_interval_is_the_same_each_time() -> None:
    steps = [2.0 + 0.1 * i for i in range(12)]
    assert interval(filled(*steps)) == interval(filled(*steps))
    assert ratio(filled(*steps), filled(*steps)) == ratio(filled(*steps), filled(*steps))
