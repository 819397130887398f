"""Targets are judged as they are written: a miss is a miss, a refused figure is no figure."""

from __future__ import annotations

import pytest

import medad_fast.ops
from bench.table import summary, text_table
from bench.targets import TARGETS, Target, judge
from python_tests.bench.records import record

TARGET = Target("ssim", "256", "eager", 10.0)


def word(target: Target, *records: dict[str, object]) -> str:
    (verdict,) = judge(records, [target])
    return verdict.word


@pytest.mark.parametrize(("ratio", "expected"), [(10.0, "met"), (12.0, "met"), (9.99, "MISSED")])
def test_the_ratio_is_judged(ratio: float, expected: str) -> None:
    fused, eager = record("ssim", "256", "fused"), record("ssim", "256", "eager", ratio=ratio)
    assert word(TARGET, fused, eager) == expected


def test_by_the_low_end_where_the_target_says_so() -> None:
    target = Target("ssim", "256", "eager", 10.0, by_low=True)
    fused = record("ssim", "256", "fused")
    assert word(target, fused, record("ssim", "256", "eager", ratio=10.1)) == "MISSED"
    assert word(target, fused, record("ssim", "256", "eager", ratio=10.3)) == "met"


def test_a_refused_ratio_is_neither_met_nor_missed() -> None:
    fused = record("ssim", "256", "fused")
    for ratio in (1.0, 100.0):
        eager = record("ssim", "256", "eager", ratio=ratio, ratio_refused="spread 0.20")
        assert word(TARGET, fused, eager) == "refused"


@pytest.mark.parametrize("change", [{"op": "nce"}, {"point": "64"}, {"candidate": "compiled"}])
def test_other_figures_do_not_stand_in(change: dict[str, str]) -> None:
    fused = record("ssim", "256", "fused")
    assert (
        word(TARGET, fused, record("ssim", "256", "eager", ratio=99.0) | change) == "not measured"
    )


def test_memory_is_a_ratio_too() -> None:
    target = Target("ssim", "256", "eager", 20.0, of="memory")
    fused = record("ssim", "256", "fused", extra_mib=2.0)
    eager = record("ssim", "256", "eager", ratio=0.5, extra_mib=40.0)
    assert word(target, fused, eager) == "met"
    assert word(target, fused | {"extra_mib": 2.1}, eager) == "MISSED"
    assert word(target, fused | {"extra_mib": None}, eager) == "not measured"
    # A speed that was refused says nothing about memory.
    assert word(target, fused, eager | {"ratio_refused": "spread 0.20"}) == "met"


def test_each_target_stands_once_and_is_about_an_op_of_the_package() -> None:
    keys = [(target.op, target.point, target.against, target.of) for target in TARGETS]
    assert len(set(keys)) == len(keys)


def test_a_refused_ratio_is_not_in_the_table() -> None:
    why = {"ratio_refused": "other processes used 9%"}
    records = [
        record("ssim", "16x1x256x256", "fused"),
        record("ssim", "16x1x256x256", "pytorch-msssim", ratio=123.0, **why),
    ]
    table = text_table(records)
    assert "refused: other processes used 9%" in table
    assert "123" not in table


def test_the_table_says_everything_in_one_line_each() -> None:
    name = "patch_nce_loss"
    assert name in medad_fast.ops.__all__
    records = [
        record(name, "16x256x256 query", "fused"),
        record(name, "16x256x256 query", "cut eager", ratio=1.87),
        record(name, "16x256x256 both", "fused"),
        record(name, "16x256x256 both", "lean eager", ratio=1.16),
    ]
    table = text_table(records)
    lines = [line for line in table.splitlines() if "16x256x256" in line]
    assert len(lines) == 2
    for text in ("cut eager", "1.87x (1.83 to 1.91)", "1.7x by low end", "met"):
        assert text in lines[0]
    assert "MISSED" in lines[1]
    assert summary(records) == "2 targets: 1 met, 1 MISSED"
    assert "A Processor, 2 processors, 2 threads" in table
