"""``pytest bench``: every point a test; the table of targets at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.harness.record import save
from bench.harness.suite import Benchmark, Point
from bench.table import text_table

RECORDS = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("medad_fast benchmarks")
    group.addoption("--seconds", type=float, default=2.0, help="for one attempt at a point")
    group.addoption("--no-compile", action="store_true", help="leave out torch.compile")
    group.addoption(
        "--json-lines",
        type=Path,
        default=Path(".benchmarks/latest.jsonl"),
        help="file that the records are put into (default: %(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RECORDS] = []


@pytest.fixture
def compare_in_turns(
    request: pytest.FixtureRequest, benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> Callable[[Benchmark, Point], None]:
    """Compare the candidates at a point, record it, and let pytest-benchmark time "fused" too."""

    def run(suite: Benchmark, point: Point) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        seconds = request.config.getoption("--seconds")
        compiled = not request.config.getoption("--no-compile")
        result = suite.run(point, device, seconds=seconds, compiled=compiled)
        with capsys.disabled():
            print("\n" + result.text(), flush=True)
        request.config.stash[RECORDS].extend(result.records())
        save(request.config.getoption("--json-lines"), result.records())
        benchmark.group = suite.op
        benchmark.extra_info["records"] = result.records()
        rounds = max(1, min(20, int(seconds * 1e3 / result.rows[0].min_ms / 10)))
        benchmark.pedantic(result.candidates["fused"], rounds=rounds, warmup_rounds=1)

    return run


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    records = terminalreporter.config.stash[RECORDS]
    if records:
        terminalreporter.write_line("")
        for line in text_table(records).splitlines():
            terminalreporter.write_line(line)
        path = terminalreporter.config.getoption("--json-lines")
        terminalreporter.write_line(f"records: {path}")
