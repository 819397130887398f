"""Run the whole suite, or a part of it, and print the table of targets.

    python -m bench [SELECT] [--json bench/results/] [--device cuda] [--threads 1] [--seconds 2]

``--json`` takes a file, or a folder in which the file is named by the machine and the date.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.harness.machine import slug
from bench.harness.record import Comparison, save
from bench.harness.suite import add_options, discover
from bench.table import as_times, summary, targets_table


def main(words: Sequence[str] | None = None) -> int:
    """0; 1 where a candidate was wrong; 2 where nothing has the name."""
    arguments = parse(words)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")  # torch warns about things of its own while compiling
    path = _path(arguments.json, arguments.device, arguments.threads)
    begin = time.monotonic()
    records: list[dict[str, Any]] = []
    wrong = 0
    benchmarks = list(discover(arguments.select))
    if not benchmarks:
        print(f"bench: no bench/bench_*.py has {arguments.select!r} in its name", file=sys.stderr)
        return 2
    for benchmark in benchmarks:
        for point in benchmark.points:
            start = time.monotonic()
            try:
                result = benchmark.run(
                    point, arguments.device, seconds=arguments.seconds, compiled=arguments.compiled
                )
            except AssertionError as error:
                wrong += 1
                print(f"WRONG {error}", file=sys.stderr, flush=True)
                continue
            records += result.records()
            if path:
                save(path, result.records())
            print(f"{_line(result)}  [{time.monotonic() - start:.0f} s]", flush=True)
    console = Console()
    console.width = max(console.width, 130)  # a figure is never broken in two
    console.print(targets_table(records))
    print(f"{summary(records)}\n{time.monotonic() - begin:.0f} s in all")
    if path:
        print(f"records: {path}")
    return 1 if wrong else 0


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The words of the command line, or those given."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="The benchmark suite")
    parser.add_argument("select", nargs="?", default="", help="only ops with this in their name")
    add_options(parser)
    return parser.parse_args(words)


def _path(given: Path | None, device: torch.device, threads: int | None) -> Path | None:
    if given is None or given.suffix == ".jsonl":
        return given
    machine = slug(device) + (f"-{threads}threads" if threads else "")
    return given / f"{machine}-{datetime.date.today().isoformat()}.jsonl"


def _line(result: Comparison) -> str:
    """One point: the op's own time, and how many times as fast it is as each other."""
    first = result.rows[0]
    ratios = ", ".join(
        f"{as_times(row.ratio)} {row.candidate}" + ("?" if row.ratio_refused else "")
        for row in result.rows
        if row.ratio is not None
    )
    why = next((row.ratio_refused for row in result.rows if row.ratio_refused), None)
    refused = f"  (?: refused, {why})" if why else ""
    return f"{first.op:22} {result.point:24} {first.min_ms:9.3f} ms  {ratios}{refused}"


if __name__ == "__main__":
    sys.exit(main())
