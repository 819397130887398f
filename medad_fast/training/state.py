"""The state that lets a stopped training go on bit for bit: safetensors and JSON, never pickle.

It stands in the folder ``state/`` of a run that is not finished; see docs/outputs.md.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from medad_fast.errors import CheckpointError, InputError
from medad_fast.files import (
    check_format_version,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
    write_text,
)

FORMAT_VERSION = 3


class Optimized(Protocol):
    """What a running update must show to be saved."""

    optimizer: Optimizer
    schedule: LRScheduler | None
    total: float
    count: int


@dataclass(frozen=True)
class Moment:
    """Weights, optimisers, schedules and running losses after ``step`` steps of one stage."""

    stage: int
    step: int
    lines: int
    """Lines of the log so far: a resumed run drops those that came later."""
    tensors: dict[str, Tensor]
    values: dict[str, Any]

    @classmethod
    def take(
        cls, stage: int, step: int, lines: int, model: nn.Module, running: Sequence[Optimized]
    ) -> Moment:
        """What is needed to come back here; tensors are references, to be written at once."""
        tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
        updates: list[dict[str, Any]] = []
        for place, each in enumerate(running):
            state = each.optimizer.state_dict()
            plain: dict[str, dict[str, Any]] = {}
            for parameter, slots in state["state"].items():
                for slot, value in slots.items():
                    if isinstance(value, Tensor):
                        tensors[f"optimizer/{place}/{parameter}/{slot}"] = value
                    else:
                        plain.setdefault(str(parameter), {})[slot] = value
            updates.append(
                {
                    "groups": state["param_groups"],
                    "slots": plain,
                    "schedule": each.schedule.state_dict() if each.schedule else None,
                    "total": each.total,
                    "count": each.count,
                }
            )
        return cls(stage, step, lines, tensors, {"updates": updates})

    def restore_model(self, model: nn.Module) -> None:
        """Put the weights and buffers back."""
        weights = {
            name.removeprefix("model/"): value
            for name, value in self.tensors.items()
            if name.startswith("model/")
        }
        with _unfitting_is_damage():
            model.load_state_dict(weights)

    def restore_updates(self, running: Sequence[Optimized]) -> None:
        """Put optimisers and schedules back, freshly made with the same settings."""
        with _unfitting_is_damage():
            for place, each in enumerate(running):
                self._restore_update(place, each)

    def _restore_update(self, place: int, each: Optimized) -> None:
        saved = self.values["updates"][place]
        slots = {int(k): dict(v) for k, v in saved["slots"].items()}
        prefix = f"optimizer/{place}/"
        for key, value in self.tensors.items():
            if key.startswith(prefix):
                parameter, slot = key.removeprefix(prefix).split("/")
                slots.setdefault(int(parameter), {})[slot] = value
        each.optimizer.load_state_dict({"state": slots, "param_groups": saved["groups"]})
        if each.schedule is not None:
            each.schedule.load_state_dict(saved["schedule"])
        each.total, each.count = saved["total"], saved["count"]


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


class StateFolder:
    """What a fit asked for (``request.json``), and where the latest :class:`Moment` is kept.

    ``state.json`` names the tensor file and its sha256, and is replaced last; the older tensor file
    goes only after that. So there is a whole state at every instant.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def index(self) -> Path:
        """The file that makes a state complete."""
        return self.path / "state.json"

    def require_free(self, files: Sequence[str]) -> None:
        """Refuse a run's folder whose files no fit left there: they would be lost.

        Args:
            files: names of a run's files.

        Raises:
            InputError: there is such a file, beside or in the state.
        """
        if (self.path / "request.json").is_file():
            return
        run = self.path.parent
        kept = [run / name for name in files if (run / name).exists()]
        if self.path.is_dir():
            kept += [each for each in sorted(self.path.iterdir()) if not each.name.startswith(".")]
        if kept:
            raise InputError(
                f"{kept[0]} is of no run that could go on, and would be lost: choose another folder"
            )

    def accept(self, request: Request, *, resume: bool) -> None:
        """Record what this fit asks for, or compare it with what a stopped one asked for.

        Args:
            request: of this fit.
            resume: whether it goes on from this state.

        Raises:
            InputError: the stopped fit asked for something else, or there is one and ``resume`` is
                not set.
            CheckpointError: the record cannot be read.
        """
        file = self.path / "request.json"
        asked = json.loads(json.dumps(vars(request)))
        # Without a saved step there is nothing to lose: the last attempt failed as it began.
        if not resume and self.index.is_file():
            raise InputError(
                f"{self.path.parent} holds an unfinished run: resume it, or choose another folder"
            )
        before = read_json(file, CheckpointError) if resume and file.is_file() else asked
        if differing := [name for name in asked if before.get(name) != asked[name]]:
            raise InputError(
                f"{self.path.parent} was begun with another {differing[0]}: resuming needs the "
                "same data and settings"
            )
        write_json(file, asked)

    def remove(self) -> None:
        """Remove the folder, once the run is finished."""
        shutil.rmtree(self.path)

    def write(self, moment: Moment) -> None:
        """Replace the kept state."""
        name = f"stage{moment.stage}-step{moment.step}.safetensors"
        digest = write_tensors(self.path / name, moment.tensors)
        content = {
            "format_version": FORMAT_VERSION,
            "stage": moment.stage,
            "step": moment.step,
            "lines": moment.lines,
            "file": name,
            "sha256": digest,
            "values": moment.values,
        }
        write_json(self.index, content)
        for older in self.path.glob("*.safetensors"):
            if older.name != name:
                older.unlink()

    def read(self) -> Moment | None:
        """The kept state, or None where none was ever completed.

        Raises:
            CheckpointError: it is damaged or of another format version.
        """
        if not self.index.is_file():
            return None
        content = read_json(self.index, CheckpointError)
        try:
            check_format_version(
                self.index,
                content["format_version"],
                oldest=FORMAT_VERSION,
                newest=FORMAT_VERSION,
                what_to_do="go on with the medad-fast that began it, or start in a new folder",
            )
            file = self.path / Path(content["file"]).name
            return Moment(
                int(content["stage"]),
                int(content["step"]),
                int(content["lines"]),
                read_tensors(file, content["sha256"]),
                dict(content["values"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.index} cannot be read: {error!r}") from error


class JsonLines:
    """A log of one JSON object per line; None as path keeps no log."""

    def __init__(self, path: Path | None, keep: int = 0) -> None:
        self.path = path
        self.lines = keep
        if path is not None:
            old = path.read_text(encoding="utf-8").splitlines(keepends=True) if keep else []
            write_text(path, "".join(old[:keep]))

    def write(self, line: dict[str, Any]) -> None:
        """Append one line."""
        self.lines += 1
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as log:
                log.write(json.dumps(line, allow_nan=False) + "\n")


@contextmanager
def _unfitting_is_damage() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, KeyError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"the saved state does not fit this method: {reason}") from error
