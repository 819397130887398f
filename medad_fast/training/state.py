"""The state that lets a stopped training go on bit for bit: safetensors and JSON, never pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from medad_fast.errors import CheckpointError
from medad_fast.files import read_tensors, write_tensors, write_text

__all__ = ["JsonLines", "Moment", "StateFolder"]

FORMAT_VERSION = 1


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


class StateFolder:
    """Where the latest :class:`Moment` is kept.

    ``state.json`` names the tensor file and its sha256, and is replaced last; the older tensor file
    goes only after that. So there is a whole state at every instant.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def index(self) -> Path:
        """The file that makes a state complete."""
        return self.path / "state.json"

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
        write_text(self.index, json.dumps(content, allow_nan=False))
        for older in self.path.glob("*.safetensors"):
            if older.name != name:
                older.unlink()

    def read(self) -> Moment | None:
        """The kept state, or None where none was ever completed.

        Raises:
            CheckpointError: it is damaged or of a newer format.
        """
        if not self.index.is_file():
            return None
        try:
            content = json.loads(self.index.read_text(encoding="utf-8"))
            version = content["format_version"]
            if version != FORMAT_VERSION:
                raise CheckpointError(
                    f"{self.index} has format version {version}, this release reads version "
                    f"{FORMAT_VERSION}: update medad-fast, or start again in a new folder"
                )
            file = self.path / Path(content["file"]).name
            return Moment(
                int(content["stage"]),
                int(content["step"]),
                int(content["lines"]),
                read_tensors(file, content["sha256"]),
                dict(content["values"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.index} cannot be read: {error}") from error


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
