"""What is refused, what is measured again, and what a wrong candidate causes."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Sequence

import pytest
import torch

from bench.harness import machine, measure
from bench.harness.measure import ATTEMPTS, PAUSE_S, compare, settle
from bench.harness.record import Comparison
from bench.harness.turns import TURNS, Times, Work, interval


def steady(milliseconds: float) -> Times:
    times = Times()
    for _ in range(TURNS):
        times.add([milliseconds] * 3)
    return times


def unsteady(milliseconds: float, seed: int) -> Times:
    """Every twelfth turn is lucky and a third faster."""
    times = Times()
    for turn in range(TURNS):
        times.add([milliseconds * (0.67 if turn == seed % TURNS else 1.0)])
    return times


class Machine:
    """Other processes with the shares that a test wants, one an attempt; and pauses."""

    def __init__(self, *shares: float) -> None:
        self._shares = iter(shares)
        self.pauses: list[float] = []

    def others(self) -> machine.OtherProcesses:
        share = next(self._shares)

        class Others(machine.OtherProcesses):
            def share(self) -> float:
                return share

        return Others()


def settled(
    quiet: Machine, attempts: Sequence[dict[str, Times]]
) -> tuple[dict[str, Times], float, int]:
    made = iter(attempts)
    return settle(lambda: next(made), others=quiet.others, pause=quiet.pauses.append)


def test_a_quiet_steady_point_takes_one_attempt() -> None:
    quiet = Machine(0.01)
    times, share, attempts = settled(quiet, [{"fused": steady(1.0), "eager": steady(3.0)}])
    assert (share, attempts) == (0.01, 1)
    assert times["eager"].fastest == [3.0] * TURNS


def test_a_disturbed_attempt_is_thrown_away_not_averaged() -> None:
    busy = Machine(0.5, 0.06, 0.0)
    attempts = [{"fused": steady(each)} for each in (1.0, 2.0, 5.0)]
    times, share, count = settled(busy, attempts)
    assert times["fused"].calls == steady(5.0).calls
    assert (share, count) == (0.0, 3)
    assert busy.pauses == [PAUSE_S, PAUSE_S]


def test_a_machine_that_stays_busy_is_refused_after_a_bounded_number_of_attempts() -> None:
    shares = [0.6, 0.3, 0.2, 0.4]
    busy = Machine(*shares)
    attempts = [{"fused": steady(each)} for each in (1.0, 2.0, 3.0, 4.0)]
    times, share, count = settled(busy, attempts)
    assert count == ATTEMPTS == len(shares)
    assert share == 0.2  # the least disturbed one is shown, with why it must not be quoted
    assert times["fused"].fastest == [3.0] * TURNS


def test_an_unsettled_point_is_continued() -> None:
    """One lucky turn in twelve is no figure yet; four in forty-eight are found again."""
    lucky = [{"fused": unsteady(1.0, seed)} for seed in (0, 3, 7, 9)]
    times, _, count = settled(Machine(0.0, 0.0, 0.0, 0.0), lucky)
    assert count == len(lucky)
    assert interval(times["fused"]) == (0.67, 0.67, 0.67)
    rough, smooth = {"fused": unsteady(1.0, 0)}, {"fused": steady(0.67)}
    times, _, count = settled(Machine(0.0, 0.04), [rough, smooth])
    assert count == 2
    assert len(times["fused"].fastest) == 2 * TURNS  # the turns of both are turns of one run


def test_the_ratio_must_stand_as_well_as_each_time() -> None:
    # Each time's interval is 9 % wide, so neither is refused; together they make the ratio's wider.
    a, b = Times(), Times()
    for turn in range(TURNS):
        a.add([1.0 if turn == 0 else 1.09])
        b.add([1.0 if turn == 5 else 1.09])
    quiet = Machine(*[0.0] * ATTEMPTS)
    assert settled(quiet, [{"fused": a}])[2] == 1
    quiet = Machine(*[0.0] * ATTEMPTS)
    assert settled(quiet, [{"fused": a, "eager": b} for _ in range(ATTEMPTS)])[2] > 1


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Comparison]:
    """``compare`` on a machine whose other processes and times a test sets."""

    def run(share: float, *attempts: dict[str, Times]) -> Comparison:
        made = itertools.cycle(attempts)

        def take_turns(*_: object, **__: object) -> dict[str, Times]:
            return copy.deepcopy(next(made))

        class Others(machine.OtherProcesses):
            def share(self) -> float:
                return share

        monkeypatch.setattr(measure, "take_turns", take_turns)
        monkeypatch.setattr(settle, "__kwdefaults__", {"others": Others, "pause": lambda _: None})
        one = torch.ones(3)
        return small_comparison({name: lambda: one for name in attempts[0]}, seconds=1.0)

    return run


def small_comparison(
    candidates: dict[str, Callable[[], torch.Tensor]], *, seconds: float = 0.0
) -> Comparison:
    return compare(
        "op",
        dict(candidates),
        shape="3",
        dtype=torch.float32,
        device=torch.device("cpu"),
        truth=lambda: torch.ones(3),
        tolerance=1e-6,
        flops=2e6,
        bytes_touched=4e6,
        seconds=seconds,
    )


def test_a_disturbed_point_says_so_in_every_row(scripted: Callable[..., Comparison]) -> None:
    result = scripted(0.06, {"fused": steady(1.0), "eager": steady(3.0)})
    why = "other processes used 6%"
    assert [row.refused for row in result.rows] == [why, why]
    assert [row.ratio_refused for row in result.rows] == [None, why]
    assert result.text().count("REFUSED") == 3


def test_five_percent_is_still_quiet(scripted: Callable[..., Comparison]) -> None:
    result = scripted(0.05, {"fused": steady(1.0), "eager": steady(3.0)})
    assert not any(row.refused or row.ratio_refused for row in result.rows)
    assert (result.rows[1].ratio, result.rows[1].ratio_low) == (3.0, 3.0)


def test_calls_may_vary_while_the_fastest_stand(scripted: Callable[..., Comparison]) -> None:
    """What is refused is the figure that would be quoted, not the calls it was chosen from."""
    times = Times()
    for _ in range(TURNS):
        times.add([1.0, 1.5, 2.0])
    (row,) = scripted(0.0, {"fused": times}).rows
    assert row.call_spread > 0.5
    assert (row.spread, row.refused) == (0.0, None)


def test_a_minimum_that_never_comes_again_is_refused(
    scripted: Callable[..., Comparison],
) -> None:
    rough = [{"fused": steady(1.0), "eager": steady(3.0)} for _ in range(ATTEMPTS)]
    rough[-1]["fused"].fastest[0] = 0.5
    rough[0]["fused"].fastest[0] = 0.7  # so that the first attempt is not enough
    result = scripted(0.0, *rough)
    fused, eager = result.rows
    assert fused.refused
    assert fused.refused.startswith("spread")
    assert eager.refused is None
    assert eager.ratio_refused


def test_figures_of_a_row(scripted: Callable[..., Comparison]) -> None:
    result = scripted(0.0, {"fused": steady(1.0), "eager": steady(4.0)})
    fused, eager = result.rows
    assert (fused.min_ms, fused.median_ms, fused.repeats, fused.turns) == (1.0, 1.0, 36, 12)
    assert (fused.gflops, fused.gbytes) == (2.0, 4.0)
    assert fused.roofline == pytest.approx(
        max(2.0 / result.machine["peak_gflops"], 4.0 / result.machine["read_gbytes"])
    )
    assert (fused.ratio, eager.ratio) == (None, 4.0)
    assert fused.cold_ms > 0


def test_a_wrong_candidate_stops_the_point() -> None:
    with pytest.raises(AssertionError, match="op eager at 3: error"):
        small_comparison({"fused": lambda: torch.ones(3), "eager": lambda: torch.ones(3) * 1.1})
    with pytest.raises(AssertionError, match="error nan"):
        small_comparison({"fused": lambda: torch.tensor([1.0, float("nan"), 1.0])})
    with pytest.raises(AssertionError, match="shape"):
        small_comparison({"fused": lambda: torch.ones(1, 3)})


def test_a_real_point_in_no_time() -> None:
    result = small_comparison({"fused": lambda: torch.ones(3), "eager": lambda: torch.ones(3) + 0})
    assert {row.candidate for row in result.rows} == {"fused", "eager"}
    for line in result.json_lines():
        record = json.loads(line)
        assert record["min_ms"] <= record["median_ms"]
        assert record["threads"] == torch.get_num_threads()
        assert record["attempts"] <= ATTEMPTS


def test_extra_memory_is_seen() -> None:
    work: Work = lambda: torch.ones(1 << 22).sum()  # noqa: E731
    found = machine.extra_mib(work, torch.device("cpu"))
    assert found is None or 15 < found < 20
