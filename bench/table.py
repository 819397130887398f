"""One table of the targets and what a run says of them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.targets import TARGETS, Target, Verdict, judge

__all__ = ["as_interval", "as_times", "summary", "targets_of", "targets_table", "text_table"]

STYLES = {"met": "green", "MISSED": "bold red"}


def targets_of(ops: set[str]) -> list[Target]:
    """The targets of some ops."""
    return [target for target in TARGETS if target.op in ops]


def targets_table(records: Sequence[dict[str, Any]]) -> Table:
    """The targets of all ops in the records."""
    table = Table(title=_title(records), title_justify="left", title_style="bold")
    for name in ("op and size", "against"):
        table.add_column(name, no_wrap=True)
    for name in ("times as fast", "95 % interval", "at least"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    previous = ""
    for verdict in judge(records, targets_of({record["op"] for record in records})):
        target = verdict.target
        if previous and target.op != previous:
            table.add_section()
        previous = target.op
        memory = target.of == "memory"
        table.add_row(
            f"{target.op}, {target.size}",
            target.against + (" (memory)" if memory else ""),
            as_times(verdict.value),
            as_interval(verdict),
            as_times(target.at_least) + (" (low end)" if target.by_low else ""),
            Text(verdict.word, STYLES.get(verdict.word, "yellow")),
        )
    return table


def summary(records: Sequence[dict[str, Any]], targets: Iterable[Target] | None = None) -> str:
    """How many targets were met, missed, refused; a line for each reason of a refusal.

    Without ``targets``: those of the ops in the records.
    """
    if targets is None:
        targets = targets_of({record["op"] for record in records})
    verdicts = judge(records, targets)
    words = [verdict.word for verdict in verdicts]
    counts = {word: words.count(word) for word in ("met", "MISSED", "refused", "not measured")}
    said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    reasons = sorted({v.refused for v in verdicts if v.refused and v.word == "refused"})
    lines = [f"{len(words)} targets: {said or 'none'}", *(f"refused: {why}" for why in reasons)]
    return "\n".join(lines)


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


def as_interval(verdict: Verdict) -> str:
    """The interval of a ratio of times; ratios of memory have none."""
    if verdict.low is None or verdict.high is None:
        return ""
    return f"{as_times(verdict.low)} to {as_times(verdict.high)}"


def _title(records: Sequence[dict[str, Any]]) -> str:
    if not records:
        return "nothing measured"
    first = records[0]
    return (
        f"{first['processor']}, {first['threads']} threads, torch {first['torch']}, "
        f"{first['build']['cpu']}, {first['date']}"
    )
