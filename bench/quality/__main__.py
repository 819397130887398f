"""Fit every method on every simulated set within a fixed budget, and tabulate what comes out.

    python -m bench.quality                              # one seed, what is done is skipped
    python -m bench.quality --seeds 3                    # what README's table is made from
    python -m bench.quality --ablations                  # the papers' ablations
    python -m bench.quality --sets chest --methods anatpaste ddad --hours 1

Sets are simulated (see ``bench.quality.sets``): figures compare methods, they are no diagnostic
accuracy. Each fit is one JSON file in ``bench/results/quality``, named by a key of method, set,
seed, settings and the code behind it; ``python -m bench.quality.page`` makes the tables.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.quality.ablations import ABLATIONS, ablation_fits, outcomes
from bench.quality.page import RESULTS
from bench.quality.plan import Fit, missing, plan
from bench.quality.pooled import pool
from bench.quality.record import (
    Record,
    load_records,
    make_record,
    over_budget,
    record_path,
)
from bench.quality.simulated import SETS
from bench.quality.tables import outcome_lines, set_table
from medad_fast.errors import MedadError
from medad_fast.methods import list_methods
from medad_fast.training.interrupts import Interrupted


def main(words: Sequence[str] | None = None) -> int:
    """0; 1 where a fit failed (the others go on); 128 and its number after a signal."""
    options = parse(words)
    if options.threads:
        torch.set_num_threads(options.threads)
    counts = {"test": 6, "unlabeled": 6, "train": 10, "validation": 3} if options.small else {}
    schedule = {"hours": options.hours, "max_steps": options.max_steps, "counts": counts}
    fits = plan(options.sets, options.methods, options.seeds, **schedule)
    if options.ablations:
        fits = ablation_fits(options.seeds, options.sets, **schedule)
    for name in options.sets:
        if gone := missing(SETS[name]):
            print(f"{name}: no recipe entry, not fitted: {', '.join(gone)}")
    if options.list:
        for fit in fits:
            done = "done" if record_path(options.results, fit).is_file() else "to do"
            print(f"{fit.stem}  {fit.variant.label or 'as the recipe'}  {done}")
        return 0
    try:
        failed = run(fits, options.work, options.results)
    except Interrupted as stop:
        print(f"{stop}: the same command goes on from there", file=sys.stderr)
        return stop.exit_code
    by_key = {record["key"]: record for record in load_records(options.results)}
    if options.ablations:
        print("\n".join(outcome_lines(outcomes(by_key, options.seeds, **schedule))))
    else:
        for name in options.sets:
            records = [
                by_key[fit.key] for fit in fits if fit.set.name == name and fit.key in by_key
            ]
            print(f"\n{SETS[name].title}\n" + "\n".join(set_table(records)))
    return 1 if failed else 0


def run(fits: Sequence[Fit], work: Path, results: Path) -> int:
    """Do those fits that have no record yet; the number of those that failed."""
    failed = 0
    for number, fit in enumerate(fits, start=1):
        where = f"[{number}/{len(fits)}] {fit.set.name} {fit.method} seed {fit.seed}"
        where += f" ({fit.variant.label})" if fit.variant.label else ""
        if record_path(results, fit).is_file():
            print(f"{where}: done before", flush=True)
            continue
        begin = time.monotonic()
        try:
            record = make_record(fit, work, results)
        except MedadError as error:
            failed += 1
            print(f"{where}: FAILED {error}", file=sys.stderr, flush=True)
            continue
        print(f"{where}: {_line(record)}  [{time.monotonic() - begin:.0f} s]", flush=True)
    return failed


def _line(record: Record) -> str:
    figures = [record["metrics"]["image"]["auroc"], record["metrics"]["pixel"]["average_precision"]]
    image, pixel = (pool([each]) for each in figures)
    return f"image AUROC {image}, pixel AP {pixel}" + (
        " OVER THE BUDGET" if over_budget(record) else ""
    )


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The words of the command line, or those given."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--methods", nargs="+", choices=list_methods(), help="default: all")
    parser.add_argument("--seeds", type=_at_least_one, default=1, help="how many, from 0")
    parser.add_argument("--hours", type=float, help="time of a fit, instead of 3 minutes")
    parser.add_argument("--max-steps", type=_at_least_one, help="per stage; for trying")
    parser.add_argument("--small", action="store_true", help="a few images only; for trying")
    parser.add_argument(
        "--ablations", action="store_true", help=f"the papers' {len(ABLATIONS)} ablations instead"
    )
    parser.add_argument("--list", action="store_true", help="say what would be done")
    parser.add_argument("--threads", type=_at_least_one)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=Path("build/quality"), help="sets and runs")
    return parser.parse_args(words)


def _at_least_one(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1 expected, got {word}")
    return number


if __name__ == "__main__":
    warnings.simplefilter("ignore", UserWarning)  # one per picture would drown the table
    sys.exit(main())
