"""``medad evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medad_fast.cli.console import say, show
from medad_fast.errors import InputError


def evaluate(
    results: Annotated[Path, Parameter(name="dir")],
    /,
    *,
    resamples: int = 1000,
    seed: int = 0,
    volume_score: str = "max",
    patient_score: str = "max",
    no_images: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Evaluate predictions: metrics with intervals beside trivial baselines, and a report.

    Writes metrics.json, report.html, and volumes.csv and patients.csv with the scores made from
    those of the slices. Intervals are 95 % bootstrap intervals that resample patients. If only
    normal or only abnormal images were scored, it writes the metrics that are still defined and
    ends with an error. Only the report's pictures need the dataset.

    Parameters
    ----------
    results:
        Folder that `medad predict` wrote.
    resamples:
        Bootstrap resamples for each interval.
    seed:
        Seed of the resamples.
    volume_score:
        A volume's score from its slices: max, top-K (mean of the K largest) or quantile-Q.
    patient_score:
        A patient's score from the volumes, likewise.
    no_images:
        Leave patients' images out of the report.
    """
    from medad_fast.report.table import decision_lines, metrics_table, published_rows
    from medad_fast.verbs.evaluate import evaluate as evaluated
    from medad_fast.verbs.report import write_report

    metrics = evaluated(
        results,
        resamples=resamples,
        seed=seed,
        volume_score=volume_score,
        patient_score=patient_score,
    )
    report = write_report(results, images=not no_images)
    show(metrics_table(metrics))
    for line in decision_lines(metrics):
        say(line)
    for entry in published_rows(metrics):
        say(f"Published: {entry['of']}: {entry['source']}")
    if metrics["published"] and metrics["published"]["changed"]:
        say(f"This run departs from the recipe in: {', '.join(metrics['published']['changed'])}")
    say(f"Metrics: {results / 'metrics.json'}")
    say(f"Report: {report}")
    if reason := metrics["image"]["auroc"].get("reason"):
        raise InputError(
            f"{results}: {reason} was scored, so what compares normal with abnormal images is "
            "undefined (null in metrics.json)"
        )
    return 0
