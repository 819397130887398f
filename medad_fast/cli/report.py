"""``medad report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medad_fast.cli.console import say


def report(
    results: Annotated[Path, Parameter(name="dir")],
    /,
    *,
    data: Path | None = None,
    pictures: int = 200,
    no_images: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Write report.html again, with other pictures or for predictions without labels.

    `medad evaluate` writes it too. If nothing was evaluated yet, the page shows scores, decisions
    and maps.

    Parameters
    ----------
    results:
        Folder that `medad predict` wrote.
    data:
        Where the dataset lies now, if it moved since; the pictures are made from its images.
    pictures:
        How many files to show at most; the page stays below 15 MB.
    no_images:
        Leave patients' images out of the report.
    """
    from medad_fast.verbs.report import write_report

    page = write_report(results, data=data, images=not no_images, pictures=pictures)
    say(f"Report: {page}")
    return 0
