"""What a fit asked for: a resumed one must ask for the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medad_fast.artifacts.run_manifest import FILES
from medad_fast.errors import CheckpointError, InputError
from medad_fast.files import write_text

__all__ = ["Request", "check_request", "require_free"]


@dataclass(frozen=True)
class Request:
    """All that the weights depend on; a resumed fit must ask for the same."""

    method: str
    config: dict[str, Any]
    preprocess: dict[str, Any]
    seed: int
    max_steps: int | None
    precision: str
    images: str
    """Digest of the prepared training images."""


def require_free(folder: Path) -> None:
    """Refuse a folder with files of a run's names that no fit left there: they would be lost.

    Raises:
        InputError: there is such a file.
    """
    state = folder / "state"
    if (state / "request.json").is_file():
        return
    kept = [folder / name for name in FILES if (folder / name).exists()]
    if state.is_dir():
        kept += [each for each in sorted(state.iterdir()) if not each.name.startswith(".")]
    if kept:
        raise InputError(
            f"{kept[0]} is of no run that could go on, and would be lost: choose another folder"
        )


def check_request(state: Path, request: Request, resume: bool) -> None:
    """Record what this fit asks for, or compare it with what a stopped one asked for.

    Args:
        state: folder of the resumable state.
        request: of this fit.
        resume: whether it goes on from that state.

    Raises:
        InputError: the stopped fit asked for something else, or there is one and ``resume`` is
            not set.
        CheckpointError: the record cannot be read.
    """
    file = state / "request.json"
    asked = json.loads(json.dumps(vars(request)))
    if not resume:
        # Without a saved step there is nothing to lose: the last attempt failed as it began.
        if (state / "state.json").is_file():
            raise InputError(
                f"{state.parent} holds an unfinished run: resume it, or choose another folder"
            )
        write_text(file, json.dumps(asked, indent=2) + "\n")
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else asked
        differing = [name for name in asked if before.get(name) != asked[name]]
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    if differing:
        raise InputError(
            f"{state.parent} was begun with another {differing[0]}: resuming needs the same data "
            "and settings"
        )
    write_text(file, json.dumps(asked, indent=2) + "\n")
