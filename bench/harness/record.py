"""The figures of one point: one row a candidate, a JSON line each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.harness.turns import Interval, Times, ratio

FORMAT = 2
"""Of the JSON lines; records of another format are left alone by what reads them."""
SPREAD_LIMIT = 0.1
"""How wide the 95 % interval of a quoted figure may be, relative to the figure."""

Result = Tensor | Sequence[Tensor]
Candidate = Callable[[], Result]


@dataclass(frozen=True)
class Row:
    """One candidate at one point. Times in milliseconds; rates by the fastest call."""

    op: str
    candidate: str
    shape: str
    dtype: str
    min_ms: float
    median_ms: float
    spread: float  # of min_ms: how far its 95 % interval reaches above it, relative to it
    call_spread: float  # of single calls: (90th - 10th percentile) / median; judged by nobody
    repeats: int
    turns: int
    cold_ms: float  # the fastest of a few calls with nothing in the cache
    error: float  # largest difference from the truth, relative to its largest element
    extra_mib: float | None  # peak memory during a call, beyond what was held before
    flops: float | None  # multiplications and additions of the definition
    bytes_touched: float | None  # of inputs and outputs
    gflops: float | None
    gbytes: float | None
    roofline: float | None  # 1: as fast as this machine multiplies or reads, whichever binds
    ratio: float | None  # how many times as fast "fused" is; None for itself
    ratio_low: float | None  # 95 % interval
    ratio_high: float | None
    refused: str | None  # why min_ms and the rates must not be quoted
    ratio_refused: str | None  # why the ratio must not


@dataclass
class Comparison:
    """All candidates at one point."""

    rows: list[Row]
    times: dict[str, Times]
    candidates: dict[str, Candidate]
    machine: dict[str, Any] = field(default_factory=dict)
    point: str = ""

    def ratio(self, slower: str, faster: str = "fused") -> Interval:
        """How many times as fast ``faster`` is: the ratio of minima and its 95 % interval."""
        return ratio(self.times[slower], self.times[faster])

    def records(self) -> list[dict[str, Any]]:
        """One a candidate, with the machine it ran on."""
        head = {"format": FORMAT, "point": self.point}
        return [head | asdict(row) | self.machine for row in self.rows]

    def json_lines(self) -> Iterator[str]:
        """The records as lines of a file."""
        for record in self.records():
            yield json.dumps(record, allow_nan=False)

    def text(self, ratios: Sequence[tuple[str, str]] = ()) -> str:
        """A table for people, then a line for each ratio asked for (else each against "fused")."""
        first = self.rows[0]
        lines = [f"{first.op}  {first.shape}  {first.dtype}  {self.machine['processor']}"]
        for row in self.rows:
            rate = "" if row.gflops is None else f"{row.gflops:8.0f} GF/s"
            rate += "" if row.gbytes is None else f"{row.gbytes:8.1f} GB/s"
            memory = "" if row.extra_mib is None else f"{row.extra_mib:8.1f} MiB"
            lines.append(
                f"  {row.candidate:<24}{row.min_ms:10.3f} ms (median {row.median_ms:.3f}, spread "
                f"{row.spread:.2f}, cold {row.cold_ms:.3f}){rate}{memory}  error {row.error:.1e}"
                + (f"  REFUSED: {row.refused}" if row.refused else "")
            )
        refused = {row.candidate: row.ratio_refused for row in self.rows}
        for slower, faster in ratios or [(row.candidate, "fused") for row in self.rows[1:]]:
            if slower in self.times and faster in self.times:
                value, low, high = self.ratio(slower, faster)
                why = refused[slower] if faster == "fused" else None
                lines.append(
                    f"  {slower} / {faster}: {value:.2f} ({low:.2f} to {high:.2f})"
                    + (f"  REFUSED: {why}" if why else "")
                )
        lines.append(
            f"  this machine in this run: {self.machine['peak_gflops']:.0f} GF/s multiplying, "
            f"{self.machine['read_gbytes']:.1f} GB/s reading"
        )
        return "\n".join(lines)


def key(record: dict[str, Any]) -> tuple[str, ...]:
    """What a record is about: a later one with the same key replaces it."""
    about = ("processor", "threads", "op", "point", "shape", "dtype", "candidate")
    return tuple(str(record.get(name)) for name in about)


def load(paths: Iterable[Path], *, first: bool = False) -> list[dict[str, Any]]:
    """The records of JSON lines files; of those about the same thing the last, or the first."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: JSON expected, got {error}") from error
            if record.get("format") == FORMAT and not (first and key(record) in found):
                found[key(record)] = record
    return list(found.values())


def save(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Put records into a JSON lines file, in the place of those about the same thing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {key(record): record for record in (load([path]) if path.exists() else [])}
    kept |= {key(record): record for record in records}
    new = path.with_name(f".{path.name}.new")
    lines = (json.dumps(record, allow_nan=False) + "\n" for record in kept.values())
    new.write_text("".join(lines), encoding="utf-8")
    new.replace(path)
