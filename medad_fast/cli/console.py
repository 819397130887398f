"""What the verbs say: results on stdout, progress and warnings on stderr."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

    from medad_fast.training.loop import Step


def say(text: str) -> None:
    """A line of result on stdout, never wrapped, so that paths stay whole.

    Characters that stdout cannot encode are written as escapes instead of raising.
    """
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def show(table: Table) -> None:
    """A table on stdout, at least 100 columns wide: figures are never broken in two."""
    from rich.console import Console

    console = Console()
    console.width = max(console.width, 100)
    console.print(table)


def note(text: str) -> None:
    """A line about what is under way, on stderr."""
    print(f"medad: {text}", file=sys.stderr, flush=True)


def printable(name: str) -> str:
    """A file's name with control characters and undecodable bytes escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)


def warn(text: str) -> None:
    """A warning on stderr, on one line."""
    print(f"medad: warning: {' '.join(text.split())}", file=sys.stderr, flush=True)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show the package's warnings as plain lines, each once, without Python's file and line."""
    told: set[str] = set()

    def show_plainly(message: Warning | str, *args: object, **kwargs: object) -> None:
        if str(message) not in told:
            told.add(str(message))
            warn(str(message))

    with warnings.catch_warnings():
        # Deprecations inside other packages are nothing that a user of the command can act on.
        warnings.simplefilter("ignore")
        for category in (UserWarning, RuntimeWarning):
            warnings.filterwarnings("always", category=category, module=r"medad_fast")
        warnings.showwarning = show_plainly
        yield


@contextmanager
def count_bar(text: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar of things done, as ``callback(done, total)``; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with _progress() as bars:
        task = bars.add_task(text, total=None, detail="")

        def update(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield update


@contextmanager
def training_bar(text: str) -> Iterator[Callable[[Step], None] | None]:
    """A bar for each stage of a fit; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with _progress() as bars:
        tasks = {0: bars.add_task(f"{text}: reading images", total=None, detail="")}

        def update(step: Step) -> None:
            if step.stage_number not in tasks:
                for task in tasks.values():
                    bars.update(task, visible=False)
                tasks[step.stage_number] = bars.add_task(
                    f"{text}: {step.stage}", total=step.steps, detail=""
                )
            losses = "  ".join(f"{name} {value:.3g}" for name, value in step.losses.items())
            bars.update(tasks[step.stage_number], completed=step.step, detail=losses)

        yield update


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[detail]}"),
        console=Console(stderr=True),
        transient=True,
    )
