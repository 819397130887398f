"""Turn result files into one Markdown page with bar charts.

    python -m bench.report [FILES] --out docs/benchmarks.md

Without FILES: of each machine, the newest of bench/results. The charts go to images/benchmarks/
beside the page. Nothing on the page comes from anywhere else.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.chart import Bar, Group, bar_chart
from bench.harness.measure import ATTEMPTS, OTHERS_LIMIT
from bench.harness.record import SPREAD_LIMIT, key, load
from bench.table import as_interval, as_times, summary
from bench.targets import TARGETS, Verdict, judge

RESULTS = Path(__file__).parent / "results"
PICTURES = Path("images") / "benchmarks"
TARGETS_TITLE = "The fused ops against their targets"

Record = dict[str, Any]

HEAD = f"""# Benchmarks

Every fused op against plain PyTorch, `torch.compile` and the best specialised peer. This page is
made from the records in `bench/results/` by the last of these commands, and by nothing else:

```sh
pip install -c constraints.txt ".[bench]"
python -m bench --json bench/results/               # measures; writes <machine>-<date>.jsonl there
python -m bench ssim --json bench/results/          # one op again, in a process of its own
python -m bench.report --out docs/benchmarks.md     # this page and its pictures
```

Measuring wants an idle machine and takes a few minutes. Some figures depend on what ran before in
the same process: such ops were measured once more on their own, and where a file holds both
figures, *Measured again* shows them. `pytest bench` measures through pytest-benchmark,
`python -m bench.bench_ssim --help` lists the options of one file. The targets stand in
`bench/targets.py`.

## How it is measured

- **All candidates compute the same thing.** In the run that times them, each is compared with the
  reference in float64; one that is wrong stops the point.
- **In turns.** A turn is a few calls of one candidate in a row; turns of all candidates alternate,
  so that whatever slows the machine for a while slows them alike. What is kept of a turn is its
  fastest call.
- **What is quoted** is a ratio of fastest calls, or a fastest call, each with a 95 % bootstrap
  interval over the turns. A minimum that only one lucky turn reached has a wide interval.
- **What is refused.** An attempt during which other processes used more than {OTHERS_LIMIT:.0%} of
  the processors' time (time stolen from a virtual machine included) is thrown away, not averaged.
  Undisturbed attempts are continued until every interval is within {SPREAD_LIMIT:.0%} of its
  figure, {ATTEMPTS} attempts at most. What is still disturbed or wider then is shown as refused.
  Single calls may scatter more than that (`calls` in the tables); no single call is quoted.
- **Hot and cold.** Quoted times are hot: each turn begins with a call that is not timed, so the
  candidate finds its data in the cache as far as they fit, whoever ran before. Calls above 100 ms
  need no such call. `cold` is the fastest of up to five calls, each after writing through twice
  the last cache.
- **The machine's own speed** is measured in the same run: a large float32 product (GF/s) and a
  pass over 256 MiB (GB/s). `roofline` is a candidate's share of whichever of the two binds it;
  above 1 means that its data stay in the cache.
- **Memory** is the peak of one call beyond what was held before it, with freed memory handed back
  to the system first. The number of threads is fixed for the whole run; threads are not tied to
  processors.
- **What ran before** matters. Memory that a process kept from earlier work is quicker to get than
  new memory, so after other ops in one process a candidate may be several times as fast as alone,
  plain PyTorch more often than a fused op.

## Does a change move a figure?

Two releases on one machine, with one torch: every method is fitted and run on tiny sets of PNG,
NIfTI and DICOM, and all tensors and numbers that `medad` writes are compared to the last bit.

```sh
python -m bench.proof digest --medad OLD/bin/medad --out old.json    # some five minutes
python -m bench.proof digest --medad NEW/bin/medad --out new.json
python -m bench.proof compare old.json new.json                      # exit code 1: something moved
```
"""

CHANGED = 1.25
"""By which factor a ratio must differ between two records to be shown beside the other."""


def main(words: Sequence[str] | None = None) -> None:
    """Write the page and its pictures, and name them."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description="Make the page")
    parser.add_argument("files", nargs="*", type=Path, help="JSON lines (default: the newest)")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file")
    options = parser.parse_args(words)
    for name, text in report(options.files or newest(RESULTS)).items():
        path = options.out if name == "" else options.out.parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)


def newest(folder: Path) -> list[Path]:
    """Of each machine, the file with the last date in its name that has records to show."""
    dated = re.compile(r"(.+)-\d{4}-\d{2}-\d{2}$")
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.jsonl")):
        match = dated.match(path.stem)
        if match and load([path]):
            found[match[1]] = path
    return list(found.values())


def report(files: Iterable[Path]) -> dict[str, str]:
    """The page, under the name "", and its pictures, under their paths beside it."""
    page = [HEAD]
    made: dict[str, str] = {}
    kinds: list[str] = []
    for path in files:
        records = load([path])
        if not records:
            raise ValueError(f"{path}: records of the present format expected, got none")
        kind = str(records[0]["device"])
        kinds.append(kind)
        prefix = kind if kinds.count(kind) == 1 else f"{kind}{kinds.count(kind)}"
        text, pictures = _machine(path, records, load([path], first=True), prefix)
        page.append(text)
        made |= pictures
    if not kinds:
        picture = f"{PICTURES}/cpu-targets.svg"
        made[picture] = bar_chart(TARGETS_TITLE, "no records yet", _target_groups(judge([])))
        page.append(f"No records yet.\n\n![Targets]({picture})\n")
    return {"": "\n".join(page), **made}


def _machine(
    path: Path, records: list[Record], earliest: list[Record], prefix: str
) -> tuple[str, dict[str, str]]:
    first = records[0]
    threads = max(record["threads"] for record in records)  # single points may take fewer
    name = f"{first['processor']}, {threads} threads"
    place = f"{name}, torch {first['torch']}, {first['build']['cpu']}, {first['date']}"
    lines = [
        f"## {name}",
        "",
        f"torch {first['torch']}, Python {first['python']}, instruction set "
        f"{first['build']['cpu']}, {first['date']}; {first['peak_gflops']:.0f} GF/s multiplying, "
        f"{first['read_gbytes']:.1f} GB/s reading. Records: `bench/results/{path.name}`.",
        "",
    ]
    made: dict[str, str] = {}
    verdicts = judge(records) if first["device"] == "cpu" else []  # they are for CPU cores
    ops: dict[str, list[Record]] = {}
    for record in records:
        ops.setdefault(record["op"], []).append(record)
    if verdicts:
        picture = f"{PICTURES}/{prefix}-targets.svg"
        made[picture] = bar_chart(
            "The fused ops against their targets", place, _target_groups(verdicts)
        )
        lines += [f"![Ratios against their targets]({picture})", "", *_target_table(verdicts), ""]
        lines += [f"{summary(records, TARGETS)}.", ""]
    lines += _measured_again(earliest, records, verdicts)
    for op, of_op in ops.items():
        picture = f"{PICTURES}/{prefix}-{op}.svg"
        made[picture] = bar_chart(op, place, _point_groups(of_op))
        lines += [f"### {op}", "", f"![{op} against each peer]({picture})", ""]
        lines += ["<details><summary>All figures</summary>", "", *_op_table(of_op, threads), ""]
        lines += ["</details>", ""]
    return "\n".join(lines), made


def _measured_again(
    earliest: list[Record], records: list[Record], verdicts: list[Verdict]
) -> list[str]:
    """Ratios that were others in earlier records of the same points, which the page replaces."""
    before = {key(record): record for record in earliest}
    rows = []
    for record in records:
        first = before[key(record)]
        known = all(each["ratio"] and each["ratio_refused"] is None for each in (first, record))
        if known and not 1 / CHANGED <= record["ratio"] / first["ratio"] <= CHANGED:
            fused = key(record | {"candidate": "fused"})
            now = next(each for each in records if key(each) == fused)
            cells = [f"`{record['op']}` {record['point']}", record["candidate"]]
            cells += [as_times(each["ratio"]) for each in (first, record)]
            for each in (before[fused], now):
                cells.append("" if each["refused"] else _digits(each["min_ms"]))
            rows.append(_row(cells))
    if not rows:
        return []
    then = judge(earliest) if verdicts else []
    lines = [
        "### Measured again",
        "",
        "Points with two records. The last one counts everywhere else on this page. Where the "
        f"first one's ratio was more than {CHANGED:g} times larger or smaller, both are here.",
        "",
        "| point | against | times as fast, first | last | fused, ms, first | last |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        *rows,
        "",
    ]
    for old, new in zip(then, verdicts, strict=True):
        if old.word in ("met", "MISSED") and old.word != new.word:
            target = f"`{old.target.op}` {old.target.size} against {old.target.against}"
            said = "met" if old.word == "met" else "**MISSED**"
            lines += [
                f"By its first record {target} {said} its target ({as_times(old.value)}).",
                "",
            ]
    return lines


def _target_groups(verdicts: list[Verdict]) -> list[Group]:
    """Ratios of time; those of memory stand in the table."""
    of_time = [verdict for verdict in verdicts if verdict.target.of == "time"]
    return [
        Group(heading, [_target_bar(verdict) for verdict in group])
        for heading, group in groupby(of_time, key=lambda v: f"{v.target.op}, {v.target.size}")
    ]


def _target_bar(verdict: Verdict) -> Bar:
    return Bar(
        verdict.target.against,
        verdict.value,
        verdict.low,
        verdict.high,
        target=verdict.target.at_least,
        missed=verdict.word == "MISSED",
        refused=verdict.refused is not None,
    )


def _target_table(verdicts: list[Verdict]) -> list[str]:
    lines = [
        "| op and size | against | times as fast | 95 % interval | at least | |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for verdict in verdicts:
        target = verdict.target
        quoted = verdict.word != "refused"
        memory = " (memory)" if target.of == "memory" else ""
        cells = [
            f"`{target.op}` {target.size}",
            f"{target.against}{memory}",
            as_times(verdict.value) if quoted else "",
            as_interval(verdict.low, verdict.high) if quoted else "",
            as_times(target.at_least) + (" by the low end" if target.by_low else ""),
            f"**{verdict.word}**" if verdict.word == "MISSED" else verdict.sentence,
        ]
        lines.append(_row(cells))
    return lines


def _point_groups(records: list[Record]) -> list[Group]:
    groups = []
    for (point, dtype), of_point in groupby(records, key=lambda r: (r["point"], r["dtype"])):
        bars = [
            Bar(
                record["candidate"],
                record["ratio"],
                record["ratio_low"],
                record["ratio_high"],
                refused=record["ratio_refused"] is not None,
            )
            for record in of_point
            if record["ratio"] is not None
        ]
        groups.append(Group(point if dtype == "float32" else f"{point} ({dtype})", bars))
    return groups


def _op_table(records: list[Record], threads: int) -> list[str]:
    lines = [
        "| point | candidate | fastest, ms | spread | median, ms | calls | cold, ms | extra MiB "
        "| GF/s | GB/s | roofline | fused is times as fast | error | |",
        "| --- | --- |" + " ---: |" * 11 + " --- |",
    ]
    for record in records:
        quoted = record["refused"] is None
        ratio = ""
        if record["ratio"] is not None and record["ratio_refused"] is None:
            interval = as_interval(record["ratio_low"], record["ratio_high"])
            ratio = f"{as_times(record['ratio'])} ({interval})"
        why = record["refused"] or record["ratio_refused"]
        alone = f", {record['threads']} thread" if record["threads"] < threads else ""
        cells = [
            record["shape"] + alone,
            record["candidate"],
            _digits(record["min_ms"]) if quoted else "",
            f"{record['spread']:.2f}",
            _digits(record["median_ms"]) if quoted else "",
            f"{record['call_spread']:.2f}",
            _digits(record["cold_ms"]) if quoted else "",
            _digits(record["extra_mib"]),
            _digits(record["gflops"]) if quoted else "",
            _digits(record["gbytes"]) if quoted else "",
            _digits(record["roofline"]) if quoted else "",
            ratio,
            f"{record['error']:.0e}",
            f"refused: {why}" if why else "",
        ]
        lines.append(_row(cells))
    return lines


def _digits(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 99.5 else f"{value:.3g}"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    main()
