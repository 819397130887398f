"""``medad doctor``."""

from __future__ import annotations

from pathlib import Path

from medad_fast.cli.console import count_bar, say, show

MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "wrong": "[bold red]wrong[/]"}


def doctor(data: Path | None = None, /) -> int:
    """Check this installation, or a dataset before it is used.

    Without a path: versions, compiled kernels, GPU, DICOM decoders, disk. With a path: files that
    cannot be read, patients or pixels in two splits, inverted images, mixed modalities, bit depths,
    sizes and spacings, burned-in marks, trivial features that separate the classes, missing
    classes. The exit code is 2 if something is wrong.

    Parameters
    ----------
    data:
        A dataset; without it, the installation is checked.
    """
    from rich.table import Table
    from rich.text import Text

    from medad_fast.doctor import check_data, check_installation

    if data is None:
        findings = check_installation()
    else:
        with count_bar("reading") as progress:
            findings = check_data(data, progress=progress)
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("finding", overflow="fold")
    for finding in findings:
        table.add_row(MARKS[finding.state], Text(finding.check), Text(finding.text))
    show(table)
    wrong = sum(finding.state == "wrong" for finding in findings)
    subject = "This installation" if data is None else str(data)
    if wrong:
        say(f"{subject}: {wrong} {'thing is' if wrong == 1 else 'things are'} wrong.")
        return 2
    say(f"{subject}: nothing wrong found.")
    return 0
