"""``medad compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medad_fast.cli.console import say, show


def compare(
    a: Annotated[Path, Parameter(name="a")],
    b: Annotated[Path, Parameter(name="b")],
    /,
    *,
    resamples: int = 1000,
    seed: int = 0,
    volume_score: str = "max",
    patient_score: str = "max",
    out: Path | None = None,
) -> int:
    """Compare two runs on the same images: each metric's difference, its interval, its p-value.

    Both are evaluated in the same bootstrap resamples of the patients. Writes nothing unless --out.

    Parameters
    ----------
    a:
        Folder that `medad predict` wrote.
    b:
        Another such folder, of the same images.
    resamples:
        Bootstrap resamples of the patients.
    seed:
        Seed of the resamples.
    volume_score:
        A volume's score from its slices: max, top-K (mean of the K largest) or quantile-Q.
    patient_score:
        A patient's score from the volumes, likewise.
    out:
        JSON file for all figures and for the settings in which the runs differ.
    """
    from medad_fast.files import write_json
    from medad_fast.report.table import difference_table
    from medad_fast.verbs.compare import compare as compared

    found = compared(
        a,
        b,
        resamples=resamples,
        seed=seed,
        volume_score=volume_score,
        patient_score=patient_score,
    )
    show(difference_table(found))
    for name, values in found["differs"].items():
        say(f"Differs: {name}: {values['a']} against {values['b']}")
    if out is not None:
        write_json(out, found)
        say(f"Comparison: {out}")
    return 0
