"""One fit, from a simulated set to a record of its figures."""

from __future__ import annotations

import csv
import datetime
import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import medad_fast
from bench.harness.machine import OtherProcesses, processor
from bench.quality.plan import BUDGET_CORES, BUDGET_SECONDS, Fit
from bench.quality.simulated import content_digest
from medad_fast.artifacts.scores import ScoreRow, read_scores
from medad_fast.evaluation.ranking import auroc, rank
from medad_fast.files import write_text

__all__ = [
    "FORMAT",
    "Record",
    "core_seconds",
    "load_records",
    "make_record",
    "over_budget",
    "record_path",
]

Record = dict[str, Any]
FORMAT = 1
LEVELS = {"image": ("auroc", "average_precision"), "pixel": ("auroc", "average_precision", "aupro")}


def record_path(results: Path, fit: Fit) -> Path:
    """Where the record of a fit lies."""
    return results / f"{fit.stem}.json"


def make_record(fit: Fit, work: Path, results: Path) -> Record:
    """Build the set, fit, score and judge, and write the record.

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
    record: Record = {
        "format": FORMAT,
        "key": fit.key,
        **fit.identity(),
        "hours": fit.hours,
        "data": content_digest(data),
        "metrics": {
            level: {name: metrics[level][name] for name in names} for level, names in LEVELS.items()
        },
        "baselines": {name: figures["auroc"] for name, figures in metrics["baselines"].items()},
        "counts": metrics["counts"],
        "kinds": _by_kind(data, rows),
        "scores": _scores(rows),
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


def core_seconds(record: Record) -> float | None:
    """Of the fit: its threads times its time, with whatever else ran; ``None`` where not known."""
    seconds = record["fit_seconds"]
    return None if seconds is None else float(seconds * record["threads"])


def over_budget(record: Record) -> bool:
    """Whether the fit, with a recipe's schedule, took more than two cores have in three minutes."""
    spent = core_seconds(record)
    return spent is not None and record["hours"] is None and spent > BUDGET_CORES * BUDGET_SECONDS


def _scores(rows: Iterable[ScoreRow]) -> dict[str, list[Any]]:
    """Score, class and patient of each image, for comparing methods image by image."""
    ordered = sorted(rows, key=lambda row: row.path)
    return {
        "path": [row.path for row in ordered],
        "patient": [row.patient for row in ordered],
        "abnormal": [row.label == "abnormal" for row in ordered],
        "score": [float(f"{row.anomaly_score:.7g}") for row in ordered],
    }


def _by_kind(data: Path, rows: list[ScoreRow]) -> dict[str, float | None]:
    """Image AUROC of each kind of abnormality against all normal images."""
    with (data / "lesions.csv").open(encoding="utf-8", newline="") as table:
        kinds = {row["file"]: row["kind"] for row in csv.DictReader(table)}
    normal = [row.anomaly_score for row in rows if row.label == "normal"]
    found: dict[str, float | None] = {}
    for kind in dict.fromkeys(kinds.values()):
        hits = [row.anomaly_score for row in rows if kinds.get(row.path) == kind]
        if hits:
            truth = np.arange(len(normal) + len(hits)) >= len(normal)
            found[kind] = auroc(rank(normal + hits, truth)).value
    return found
