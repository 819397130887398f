"""One fit, from a simulated set to a record of its figures."""

from __future__ import annotations

import datetime
import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import medad_fast
from bench.harness.machine import OtherProcesses, processor
from bench.quality import figures
from bench.quality.plan import BUDGET_CORES, BUDGET_SECONDS, Fit
from bench.quality.simulated import content_digest
from medad_fast.artifacts.scores import read_scores
from medad_fast.files import write_text

Record = dict[str, Any]
FORMAT = 1


def record_path(results: Path, fit: Fit) -> Path:
    """Where the record of a fit lies."""
    return results / f"{fit.stem}.json"


def make_record(fit: Fit, work: Path, results: Path) -> Record:
    """Build the set, fit, score and evaluate, and write the record.

    A fit that was stopped goes on where it was. What is large (weights, maps) is removed at the
    end; the sets stay.

    Raises:
        MedadError: what fit, predict and evaluate raise.
    """
    data = fit.set.build(work / "data", fit.seed, fit.variant.share, fit.counts)
    folder = work / "runs" / fit.stem
    anew = not folder.exists()
    others, begin = OtherProcesses(), time.perf_counter()
    run = medad_fast.fit(
        fit.method,
        data,
        folder / "run",
        seed=fit.seed,
        max_steps=fit.max_steps,
        resume=True,
        preprocess=dict(fit.preprocess()),
        **fit.fields(),
    )
    fitted = time.perf_counter()
    share = others.share()
    medad_fast.predict(run, data, folder / "results", keep_ids=True)
    scored = time.perf_counter()
    metrics = medad_fast.evaluate(folder / "results", seed=fit.seed)
    rows = read_scores(folder / "results" / "scores.csv")
    images = [(row.path, row.label == "abnormal", row.anomaly_score) for row in rows]
    record: Record = {
        "format": FORMAT,
        "key": fit.key,
        **fit.identity(),
        "hours": fit.hours,
        "data": content_digest(data),
        "metrics": figures.levels(metrics),
        "baselines": {name: each["auroc"] for name, each in metrics["baselines"].items()},
        "counts": metrics["counts"],
        "kinds": figures.by_kind(data, images),
        "scores": figures.scores(rows),
        # Of a fit that was stopped in between, the time is not known.
        "fit_seconds": round(fitted - begin, 1) if anew else None,
        "predict_seconds": round(scored - fitted, 1),
        "others_cpu": round(share, 3),
        "parameters": sum(each.numel() for each in run.method.parameters()),
        "processor": processor(run.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }
    write_text(record_path(results, fit), json.dumps(record, allow_nan=False) + "\n")
    shutil.rmtree(folder)
    return record


def load_records(results: Path) -> list[Record]:
    """All records of the present format in a folder, sorted by name."""
    records = []
    for path in sorted(results.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict) and record.get("format") == FORMAT:
            records.append(record)
    return records


def held(records: Iterable[Record], fits: Iterable[Fit]) -> dict[str, Record]:
    """For the key of each fit its record; where the present code has none, the last of an earlier.

    The latter, of a fit with the same settings, has an entry ``stale`` that is true.
    """
    ordered = sorted(records, key=lambda record: record["date"])
    by_key = {record["key"]: record for record in ordered}
    found = {}
    for fit in fits:
        if fit.key in by_key:
            found[fit.key] = by_key[fit.key]
            continue
        alike = [
            record
            for record in ordered
            if (record["set"], record["method"], record["seed"])
            == (fit.set.name, fit.method, fit.seed)
        ]
        if made := [record for record in alike if fit.made(record)]:
            found[fit.key] = {**made[-1], "stale": True}
    return found


def core_seconds(record: Record) -> float | None:
    """Of the fit: its threads times its time, with whatever else ran; ``None`` where not known."""
    seconds = record["fit_seconds"]
    return None if seconds is None else float(seconds * record["threads"])


def over_budget(record: Record) -> bool:
    """Whether the fit, with a recipe's schedule, took more than two cores have in three minutes."""
    spent = core_seconds(record)
    return spent is not None and record["hours"] is None and spent > BUDGET_CORES * BUDGET_SECONDS
