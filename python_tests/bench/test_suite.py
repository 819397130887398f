"""The commands: ``python -m bench`` and what it says and writes."""

from __future__ import annotations

import datetime
import importlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import bench.__main__ as command
from bench.harness import Benchmark, Comparison, compare
from bench.harness.record import load
from bench.harness.suite import discover
from bench.targets import TARGETS

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Point:
    name: str
    wrong: bool = False


def comparison(
    point: Point, device: torch.device, *, seconds: float, compiled: bool = True
) -> Comparison:
    one = torch.ones(5)
    candidates = {"fused": lambda: one * 2, "eager": lambda: one + (0 if point.wrong else 1)}
    if compiled:
        candidates["compiled"] = lambda: one + one
    return compare(
        "double",
        dict(candidates),
        shape=f"{point.name}: 5",
        dtype=one.dtype,
        device=device,
        truth=lambda: one * 2,
        tolerance=0.0,
        seconds=seconds,
    )


def run(monkeypatch: pytest.MonkeyPatch, points: Sequence[Point], *words: str) -> int:
    benchmarks = [Benchmark("double", points, comparison)]
    monkeypatch.setattr(
        command, "discover", lambda select: [b for b in benchmarks if select in b.op]
    )
    return command.main(["--seconds", "0", *words])


def test_each_point_is_a_line_and_its_records_are_in_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    points = [Point("tiny"), Point("large")]
    path = tmp_path / "out.jsonl"
    assert run(monkeypatch, points, "--json", str(path)) == 0
    said = capsys.readouterr().out
    assert [line.split()[:2] for line in said.splitlines()[:2]] == [
        ["double", "tiny"],
        ["double", "large"],
    ]
    found = [(each["point"], each["candidate"]) for each in load([path])]
    assert found == [
        (point.name, name) for point in points for name in ("fused", "eager", "compiled")
    ]


def test_a_folder_gets_a_file_named_by_machine_and_date(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(monkeypatch, [Point("tiny")], "--no-compile", "--json", str(tmp_path)) == 0
    (path,) = tmp_path.iterdir()
    assert path.name.endswith(f"{os.cpu_count()}cpu-{datetime.date.today().isoformat()}.jsonl")
    assert [each["candidate"] for each in load([path])] == ["fused", "eager"]


def test_another_number_of_threads_is_another_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    try:
        words = ["--no-compile", "--threads", "1", "--json", str(tmp_path)]
        assert run(monkeypatch, [Point("tiny")], *words) == 0
        assert {each["threads"] for path in tmp_path.iterdir() for each in load([path])} == {1}
    finally:
        torch.set_num_threads(before)
    (path,) = tmp_path.iterdir()
    assert "-1threads-" in path.name


def test_a_wrong_candidate_is_reported_and_the_rest_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, [Point("broken", wrong=True), Point("tiny")]) == 1
    out, err = capsys.readouterr()
    assert "WRONG double eager at broken" in err
    assert out.startswith("double                 tiny")


def test_nothing_of_that_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, [Point("tiny")], "treble") == 2
    assert "'treble'" in capsys.readouterr().err


def test_every_benchmark_is_in_the_suite() -> None:
    pytest.importorskip("pytorch_msssim")
    files = {path.stem.removeprefix("bench_") for path in (ROOT / "bench").glob("bench_*.py")}
    assert {benchmark.op for benchmark in discover()} == files - {"metrics"}  # times no op


def test_a_benchmark_whose_peer_is_missing_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.import_module

    def without(missing: str) -> None:
        def import_module(name: str) -> ModuleType:
            if name == "bench.bench_patch_nce_loss":
                raise ModuleNotFoundError("no", name=missing)
            return real(name)

        monkeypatch.setattr(importlib, "import_module", import_module)

    without("some_peer.part")
    assert [each.op for each in discover("patch")] == ["patch_discrepancy"]
    assert "bench_patch_nce_loss.py is left out, there is no some_peer" in capsys.readouterr().err
    without("medad_fast.ops.gone")
    with pytest.raises(ModuleNotFoundError):
        list(discover("patch"))


def test_every_target_has_its_point() -> None:
    """A point that was renamed would leave its target without a figure."""
    benchmarks = {benchmark.op: benchmark for benchmark in discover()}
    for op, benchmark in benchmarks.items():
        names = [point.name for point in benchmark.points]
        assert len(set(names)) == len(names) >= 3, op
        assert {target.point for target in TARGETS if target.op == op} <= set(names), op


@pytest.mark.parametrize("benchmark_of_op", list(discover()), ids=lambda each: each.op)
def test_the_smallest_point_agrees(benchmark_of_op: Benchmark) -> None:
    point = benchmark_of_op.points[0]
    result = benchmark_of_op.run(point, torch.device("cpu"), seconds=0.0, compiled=False)
    assert result.rows[0].candidate == "fused"
    assert len(result.rows) >= 2
    assert {row.op for row in result.rows} == {benchmark_of_op.op}


def test_pytest_runs_a_benchmark(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark")
    words = ["bench", "-q", "-k", "patch_discrepancy and tiny", "--no-compile", "--seconds", "0"]
    words += ["--json-lines", str(tmp_path / "a.jsonl"), "-p", "no:cacheprovider", "-p", "no:xdist"]
    words += ["--benchmark-json", str(tmp_path / "b.json")]
    environment: dict[str, Any] = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "eager / fused" in result.stdout
    assert "not measured" in result.stdout
    assert [each["candidate"] for each in load([tmp_path / "a.jsonl"])] == ["fused", "eager"]
    assert "records" in (tmp_path / "b.json").read_text()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["ssim"],
        ["--json", "out", "--seconds", "0.5", "--device", "cuda", "--threads", "1"],
    ],
)
def test_the_command_line_is_understood(words: list[str]) -> None:
    options = command.parse(words)
    asked = dict(zip(words[::2], words[1::2], strict=False))
    assert options.select == ("ssim" if words == ["ssim"] else "")
    assert options.json == (Path("out") if "--json" in asked else None)
    assert options.seconds == float(asked.get("--seconds", 2))
    assert options.device.type == asked.get("--device", "cpu")
    assert options.threads == (1 if "--threads" in asked else None)
