"""``medad demo``: simulated brains, from files to a report."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from medad_fast.cli.console import count_bar, say, show, training_bar
from medad_fast.errors import InputError

RECIPE = "demo"


def demo(
    *, out: Path, seed: int = 0, resume: Annotated[bool, Parameter(negative=())] = False
) -> int:
    """Simulate a dataset of brain MRI, fit two methods, score, evaluate, and write reports.

    Takes some minutes on two processor cores and needs no network. Needs the `demo` extra.
    Writes data/, runs/METHOD, results/METHOD and report.html.

    Parameters
    ----------
    out:
        Folder for everything; new or empty, unless --resume.
    seed:
        Seed of the simulation, the fits and the intervals.
    resume:
        Go on with an unfinished demo in --out.
    """
    from medad_fast.recipes import load_recipe
    from medad_fast.report.table import comparison_table
    from medad_fast.verbs.report import write_demo_report

    begin = time.monotonic()
    _check_folder(out, resume)
    data = out / "data"
    _simulate(data, seed)
    methods = list(load_recipe(RECIPE).methods)
    metrics = {}
    for method in methods:
        _fit(method, data, out / "runs" / method, seed, resume)
        metrics[method] = _evaluate(out, method, seed)
    results = {method: out / "results" / method for method in methods}
    report = write_demo_report(out / "report.html", results)
    show(comparison_table(metrics))
    say(f"Simulated subjects and lesions. {time.monotonic() - begin:.0f} s in all.")
    say(f"Report: {report}")
    return 0


def _check_folder(out: Path, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"--out: {out} is a file, a folder expected")
    if not resume and out.is_dir() and any(out.iterdir()):
        raise InputError(
            f"--out: {out} is not empty; choose another folder, or go on there with --resume"
        )


def _simulate(data: Path, seed: int) -> None:
    from medad_fast.demo.brain import simulate_brain

    facts = data / "simulation.json"
    if facts.is_file():
        found = json.loads(facts.read_text(encoding="utf-8"))["seed"]
        if found != seed:
            raise InputError(f"--seed: {data} was simulated with seed {found}, got {seed}")
        return
    with count_bar("simulating subjects") as progress:
        simulate_brain(data, seed=seed, progress=progress)
    say(f"Simulated brain MRI: {data}")


def _fit(method: str, data: Path, run: Path, seed: int, resume: bool) -> None:
    from medad_fast.verbs.fit import fit

    begin = time.monotonic()
    with training_bar(method) as progress:
        fit(method, data, run, seed=seed, config=RECIPE, resume=resume, progress=progress)
    say(f"Fitted {method}: {run} ({time.monotonic() - begin:.0f} s)")


def _evaluate(out: Path, method: str, seed: int) -> dict[str, Any]:
    from medad_fast.verbs.evaluate import evaluate
    from medad_fast.verbs.predict import predict
    from medad_fast.verbs.report import write_report

    results = out / "results" / method
    with count_bar(f"scoring with {method}") as progress:
        predict(out / "runs" / method, out / "data", results, progress=progress)
    metrics = evaluate(results, seed=seed)
    say(f"Scored and evaluated with {method}: {write_report(results)}")
    return metrics
