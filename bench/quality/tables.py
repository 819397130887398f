"""Records of the quality benchmark as rows of Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from bench.quality.ablations import Outcome
from bench.quality.pooled import Pooled, pool
from bench.quality.record import Record, core_seconds, over_budget
from medad_fast.methods import BASELINES, list_methods


def set_table(records: Sequence[Record]) -> list[str]:
    """One set: a row for each method, with the trivial baselines below."""
    if not records:
        return ["No records."]
    lines = [
        "| method | seeds | image AUROC | image AP | pixel AP | AUPRO | parameters | fit, core s |",
        "| --- | ---: | --- | --- | --- | --- | ---: | ---: |",
    ]
    order = {name: place for place, name in enumerate(list_methods())}
    ordered = sorted(records, key=lambda record: order.get(record["method"], len(order)))
    for method, group in groupby(ordered, key=lambda record: record["method"]):
        rows = list(group)
        figures = [
            pool([row["metrics"][level][name] for row in rows])
            for level, name in (
                ("image", "auroc"),
                ("image", "average_precision"),
                ("pixel", "average_precision"),
                ("pixel", "aupro"),
            )
        ]
        lines.append(
            table_row(
                [
                    method_label(method, rows),
                    _count(len(rows), rows),
                    *("" if each is None else str(each) for each in figures),
                    f"{rows[0]['parameters'] / 1e6:.2f} M",
                    _longest(rows),
                ]
            )
        )
    for name in records[0]["baselines"]:
        found = _trivial(records, name)
        if found is not None:
            seeds = _count(len({record["seed"] for record in records}), records)
            lines.append(table_row([f"{name} (trivial)", seeds, str(found), *[""] * 5]))
    return lines


def is_stale(record: Record) -> bool:
    """Whether a record is of earlier code, which :func:`bench.quality.record.held` says."""
    return bool(record.get("stale", False))


def method_label(method: str, rows: Iterable[Record]) -> str:
    """Its name, with what it must not be mistaken for, given its records."""
    notes = ["baseline"] if method in BASELINES else []
    if any(row["config"].get("weights") == "random" for row in rows):
        notes.append("random filters")
    return f"`{method}`" + (f" ({', '.join(notes)})" if notes else "")


def over_lines(records: Iterable[Record]) -> list[str]:
    """A sentence with the fits that took more than the budget; nothing where none did."""
    told = [
        f"`{record['method']}` on {record['set']}, seed {record['seed']} "
        f"({core_seconds(record):.0f} core s, other processes took "
        f"{100 * record['others_cpu']:.0f} % of the processors)"
        for record in records
        if over_budget(record)
    ]
    return [f"Fits over the budget: {'; '.join(told)}.", ""] if told else []


def outcome_lines(lines: Iterable[Outcome]) -> list[str]:
    """The ablations as a table."""
    table = [
        "| claim | set | compared | seeds | difference in image AUROC | outcome | published |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for line in lines:
        table.append(
            table_row(
                [
                    line.ablation.claim,
                    line.ablation.set,
                    f"{line.better.label} - {line.worse.label}",
                    ", ".join(map(str, line.seeds)),
                    "" if line.found is None else _signed(line.found),
                    line.verdict,
                    line.ablation.source,
                ]
            )
        )
    return table


def kind_table(records: Sequence[Record]) -> list[str]:
    """Image AUROC by kind of abnormality: the mean over seeds, without interval."""
    kinds = list(dict.fromkeys(kind for record in records for kind in record["kinds"]))
    if not kinds:
        return []
    lines = ["Image AUROC of each kind against all normal pictures:", ""]
    lines += ["| method | " + " | ".join(kinds) + " |", "| --- |" + " ---: |" * len(kinds)]
    for method in dict.fromkeys(record["method"] for record in records):
        rows = [record for record in records if record["method"] == method]
        cells = [_mean([row["kinds"].get(kind) for row in rows]) for kind in kinds]
        mark = " (stale)" if any(map(is_stale, rows)) else ""
        lines.append(table_row([f"`{method}`{mark}", *cells]))
    return [*lines, ""]


def _trivial(records: Sequence[Record], name: str) -> Pooled | None:
    """Of the largest pictures that any method was given: they differ a little with the size."""
    ordered = sorted(records, key=lambda record: record["config"]["image_size"])
    by_seed = {record["seed"]: record["baselines"][name] for record in ordered}
    return pool(list(by_seed.values()))


def best_trivial(records: Sequence[Record]) -> tuple[str, Pooled] | None:
    names = records[0]["baselines"] if records else ()
    found = [(name, value) for name in names if (value := _trivial(records, name)) is not None]
    return max(found, key=lambda pair: pair[1].value) if found else None


def _count(seeds: int, records: Sequence[Record]) -> str:
    """How many seeds there are, and whether their records are stale."""
    stale = [is_stale(record) for record in records]
    mark = ", stale" if all(stale) else ", some stale"
    return f"{seeds}{mark if any(stale) else ''}"


def _longest(rows: Sequence[Record]) -> str:
    """Core seconds of the fit that took the most."""
    known = [spent for row in rows if (spent := core_seconds(row)) is not None]
    if not known:
        return "not known"
    return f"{max(known):.0f}" + (" (over)" if any(map(over_budget, rows)) else "")


def _mean(values: Sequence[Any]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.2f}" if known else ""


def _signed(found: Pooled) -> str:
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def table_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
