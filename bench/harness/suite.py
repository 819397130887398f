"""What turns points and candidates into a pytest test and into a command."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from bench.harness.record import Comparison, save


class Point(Protocol):
    """What a benchmark measures at; a frozen dataclass of the benchmark's own."""

    @property
    def name(self) -> str:
        """Short, and unlike the others': "tiny", a size, a paper's setting."""
        ...


class Compare(Protocol):
    """All candidates at one point; without ``compiled``, those that need no compiling."""

    def __call__(
        self, point: Any, device: torch.device, *, seconds: float, compiled: bool = True
    ) -> Comparison: ...


class Benchmark:
    """One op's points, from the smallest on, and how its candidates are compared at one."""

    def __init__(self, op: str, points: Sequence[Point], comparison: Compare) -> None:
        self.op = op
        self.points = points
        self._comparison = comparison

    def run(
        self, point: Point, device: torch.device, *, seconds: float, compiled: bool = True
    ) -> Comparison:
        """Compare the candidates at a point."""
        if compiled:
            torch.compiler.reset()  # each point compiles for its own shapes, whatever ran before
        result = self._comparison(point, device, seconds=seconds, compiled=compiled)
        result.point = point.name
        return result

    def pytest(self) -> Callable[..., None]:
        """The test function: one test a point, for pytest-benchmark."""
        import pytest

        # Compiling warns about things of torch's own, which pytest would turn into errors.
        @pytest.mark.filterwarnings("ignore")
        @pytest.mark.parametrize("point", self.points, ids=lambda point: point.name)
        def test(point: Point, compare_in_turns: Callable[[Benchmark, Point], None]) -> None:
            compare_in_turns(self, point)

        return test

    def main(self) -> None:
        """The command: every point, as text and, if asked, as JSON lines."""
        arguments = parse_arguments(f"{self.op} against plain torch and its peers")
        for point in self.points:
            if arguments.point not in point.name:
                continue
            result = self.run(
                point, arguments.device, seconds=arguments.seconds, compiled=arguments.compiled
            )
            print(result.text(), flush=True)
            if arguments.json:
                save(arguments.json, result.records())


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that every benchmark has on the command line."""
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=2.0, help="for one attempt at a point")
    parser.add_argument("--json", type=Path, default=None, help="put JSON lines into this file")
    parser.add_argument(
        "--no-compile", dest="compiled", action="store_false", help="leave out torch.compile"
    )


def parse_arguments(description: str) -> argparse.Namespace:
    """The options of one op's benchmark; sets the number of threads."""
    parser = argparse.ArgumentParser(description=description)
    add_options(parser)
    parser.add_argument("--point", default="", help="only points whose name has this in it")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return arguments


def discover(select: str = "") -> Iterator[Benchmark]:
    """The benchmarks of ``bench/bench_*.py`` whose op's name has ``select`` in it.

    One whose peer is not installed is left out, and stderr says so. A file without ``BENCHMARK`` is
    a command of its own.
    """
    for path in sorted(Path(__file__).parents[1].glob("bench_*.py")):
        if select not in path.stem.removeprefix("bench_"):
            continue
        try:
            module = importlib.import_module(f"bench.{path.stem}")
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] in {"bench", "medad_fast", "python_tests"}:
                raise
            print(
                f"bench: {path.name} is left out, there is no {error.name}: "
                "pip install -c constraints.txt '.[bench]'",
                file=sys.stderr,
            )
            continue
        if hasattr(module, "BENCHMARK"):
            assert isinstance(module.BENCHMARK, Benchmark), path
            yield module.BENCHMARK
