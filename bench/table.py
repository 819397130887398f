"""One table of the targets and what a run says of them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.targets import TARGETS, Target, judge

STYLES = {"met": "green", "MISSED": "bold red"}


def targets_of(ops: set[str]) -> list[Target]:
    """The targets of some ops."""
    return [target for target in TARGETS if target.op in ops]


def targets_table(records: Sequence[dict[str, Any]]) -> Table:
    """The targets of all ops in the records."""
    table = Table(title=_title(records), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column("op and size", no_wrap=True)
    table.add_column("against", no_wrap=True)
    table.add_column("times as fast (95 % interval)", justify="right", no_wrap=True)
    table.add_column("at least", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    verdicts = judge(records, targets_of({record["op"] for record in records}))
    for op, of_op in groupby(verdicts, key=lambda verdict: verdict.target.op):
        table.add_row(Text(op, "bold"))
        for verdict in of_op:
            target = verdict.target
            interval = as_interval(verdict.low, verdict.high)
            figure = as_times(verdict.value) + (f" ({interval})" if interval else "")
            table.add_row(
                f"  {target.size}",
                target.against + (" (memory)" if target.of == "memory" else ""),
                "" if verdict.word == "refused" else figure,
                as_times(target.at_least) + (" by low end" if target.by_low else ""),
                Text(verdict.sentence, STYLES.get(verdict.word, "yellow")),
            )
    return table


def summary(records: Sequence[dict[str, Any]], targets: Iterable[Target] | None = None) -> str:
    """How many targets were met, missed, refused; without ``targets``: those of the ops there."""
    if targets is None:
        targets = targets_of({record["op"] for record in records})
    words = [verdict.word for verdict in judge(records, targets)]
    counts = {word: words.count(word) for word in ("met", "MISSED", "refused", "not measured")}
    said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return f"{len(words)} targets: {said or 'none'}"


def text_table(records: Sequence[dict[str, Any]], *, width: int = 130) -> str:
    """The table and its summary as plain text."""
    out = io.StringIO()
    Console(file=out, width=width).print(targets_table(records))
    return f"{out.getvalue()}{summary(records)}"


def as_times(value: float | None) -> str:
    """A ratio with three digits, such as ``1.23x`` or ``137x``."""
    if value is None:
        return ""
    return f"{value:.0f}x" if value >= 99.5 else f"{value:.3g}x"


def as_interval(low: float | None, high: float | None) -> str:
    """The interval of a ratio, such as ``1.21 to 1.25``; ratios of memory have none."""
    if low is None or high is None:
        return ""
    return f"{as_times(low)} to {as_times(high)}".replace("x", "")


def _title(records: Sequence[dict[str, Any]]) -> str:
    if not records:
        return "nothing measured"
    first = records[0]
    return (
        f"{first['processor']}, {first['threads']} threads, torch {first['torch']}, "
        f"{first['build']['cpu']}, {first['date']}"
    )
