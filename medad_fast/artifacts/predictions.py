"""The folder of a prediction: tables of scores, maps, masks, groups, and what was made of them.

It holds all that evaluating needs, so that only pictures of a report go back to the dataset.
``predict.json``, written last, holds the format version; without it a folder is no finished
prediction. See docs/outputs.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import groupby
from os.path import relpath
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.artifacts.grids import read_on_grid, write_on_grid
from medad_fast.artifacts.scores import (
    ScoreRow,
    read_columns,
    read_scores,
    score_cells,
    score_columns,
)
from medad_fast.artifacts.versions import versions
from medad_fast.data.geometry import Axis, in_plane
from medad_fast.data.image import Image
from medad_fast.errors import InputError
from medad_fast.files import (
    TableWriter,
    check_format_version,
    read_json,
    read_table,
    write_json,
    write_table,
)
from medad_fast.training.baselines import NAMES

FORMAT_VERSION = 3

SOURCE_COLUMNS = (
    *("path", "reader", "modality", "bits_stored", "rescaled", "inverted"),
    *("window_low", "window_high", "rotated", "spacing_mm"),
)
"""Of ``sources.csv``: how the numbers of each scored file were obtained."""

_FOLLOWS = (
    *("predict.json", "groups.json"),
    *("metrics.json", "volumes.csv", "patients.csv", "report.html"),
)
"""Files that another prediction makes obsolete."""
_NEEDED = (
    *("data.root", "run.path", "run.method", "run.seed", "versions"),
    *("preprocess.axis", "preprocess.image_size", "counts.skipped_slices", "counts.failed_files"),
    *("thresholds.score.threshold", "thresholds.score.target_fpr", "thresholds.score.expected_fpr"),
)
"""What must be in ``predict.json``."""
_EVALUATED = (
    *("image", "volume", "patient", "pixel", "baselines", "published", "counts", "threshold"),
    *("maps", "oracle", "subgroups", "aggregate", "bootstrap"),
)
"""What must be in ``metrics.json``."""


@dataclass(frozen=True)
class Groups:
    """The groups of the scored files that further columns of a manifest tell."""

    columns: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """By column the groups in their order, each with the paths of its files."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Why a column has no groups."""


@dataclass(frozen=True)
class Predictions:
    """What ``medad predict``, and ``medad evaluate`` after it, wrote into one folder."""

    folder: Path
    about: dict[str, Any]
    """``predict.json``."""
    rows: list[ScoreRow]
    """``scores.csv``."""

    @classmethod
    def read(cls, folder: str | Path) -> Predictions:
        """Read a folder of finished predictions; further tables and maps when they are asked for.

        Raises:
            InputError: no finished prediction there, one of another format version, no rows, or a
                damaged file.
        """
        folder = Path(folder)
        file = folder / "predict.json"
        if not file.is_file():
            raise InputError(
                f"{folder}: no predict.json, so this is no folder of finished predictions"
            )
        about = read_json(file)
        check_format_version(
            file,
            about.get("format_version", 1),
            oldest=FORMAT_VERSION,
            newest=FORMAT_VERSION,
            what_to_do="it lacks what evaluating needs of the dataset; run medad predict again",
            kind=InputError,
        )
        for needed in _NEEDED:
            found: Any = about
            for depth, name in enumerate(parts := needed.split("."), start=1):
                if not isinstance(found, dict) or name not in found:
                    raise InputError(f"{file}: the entry {'.'.join(parts[:depth])} is missing")
                found = found[name]
        rows = read_scores(folder / "scores.csv")
        if not rows:
            raise InputError(f"{folder / 'scores.csv'}: at least one scored slice expected")
        return cls(folder, about, rows)

    @staticmethod
    @contextmanager
    def write(folder: Path, further: Sequence[str] = ()) -> Iterator[PredictionsWriter]:
        """Begin a prediction in a folder that this process holds, in place of an older one.

        Tables get their names when the block ends without an error, and the folder is a finished
        prediction after :meth:`PredictionsWriter.finish`.

        Args:
            folder: there already.
            further: names of the further scores of each row.

        Raises:
            DeviceError: the disk is full or not writable.
        """
        for name in _FOLLOWS:
            (folder / name).unlink(missing_ok=True)
        with (
            write_table(folder / "scores.csv", score_columns(further)) as scores,
            write_table(folder / "baselines.csv", NAMES) as baselines,
            write_table(folder / "sources.csv", SOURCE_COLUMNS) as sources,
            (folder / "errors.jsonl").open("w", encoding="utf-8") as errors,
        ):
            yield PredictionsWriter(folder, scores, baselines, sources, errors)

    @property
    def method(self) -> str:
        """Name of the method that scored the images."""
        return str(self.about["run"]["method"])

    @property
    def axis(self) -> Axis:
        """The plane in which the run slices volumes."""
        axis: Axis = self.about["preprocess"]["axis"]
        return axis

    def root(self, data: str | Path | None = None) -> Path:
        """The dataset's root: of ``data``, where it moved, else where it was when scored."""
        given = self.folder / self.about["data"]["root"] if data is None else Path(data)
        return given.parent if given.is_file() else given

    def volume(self, rows: Sequence[ScoreRow]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """The map of a file and its mask, where it has one, on the grid of the source.

        Args:
            rows: of the file, at least one.

        Returns:
            Both ``(S, H, W)``, slices as the rows count them.

        Raises:
            InputError: one is missing, damaged, not on the grid of the other, or lacks a slice.
        """
        name = rows[0].map
        image = read_on_grid(self.folder / name)
        maps = in_plane(image.pixels, image, self.axis)
        last = max(row.slice for row in rows)
        if last >= len(maps):
            raise InputError(f"{self.folder / name}: no slice {last} of {len(maps)}")
        if not rows[0].mask:
            return maps, None
        path = self.folder / mask_beside(name)
        image = read_on_grid(path, np.uint8)
        masks: NDArray[np.bool_] = in_plane(image.pixels, image, self.axis) != 0
        if masks.shape != maps.shape:
            got, wanted = (" x ".join(map(str, each.shape)) for each in (masks, maps))
            raise InputError(f"{path}: has {got} pixels, but the map {name} has {wanted}")
        return maps, masks

    def slices(
        self, rows: Iterable[ScoreRow]
    ) -> Iterator[tuple[ScoreRow, NDArray[Any], NDArray[np.bool_] | None]]:
        """Map and mask ``(H, W)`` of each row; files are read once if their rows come together.

        Raises:
            InputError: as :meth:`volume`.
        """
        for _, group in groupby(rows, key=lambda row: (row.map, row.mask)):
            of_file = list(group)
            maps, masks = self.volume(of_file)
            for row in of_file:
                yield row, maps[row.slice], None if masks is None else masks[row.slice]

    def baselines(self) -> dict[str, list[float]]:
        """``baselines.csv``: the trivial scores of each row by name, NaN where there is none."""
        return read_columns(self.folder / "baselines.csv", len(self.rows))

    @cached_property
    def groups(self) -> Groups:
        """``groups.json``."""
        file = self.folder / "groups.json"
        found = read_json(file)
        try:
            columns = {
                column: {group: list(paths) for group, paths in groups.items()}
                for column, groups in found["columns"].items()
            }
            return Groups(columns, dict(found["left_out"]))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{file}: is no table of groups: {error!r}") from error

    @cached_property
    def sources(self) -> dict[str, dict[str, str]]:
        """``sources.csv``: how each scored file was read, by path."""
        file = self.folder / "sources.csv"
        columns, *rows = read_table(file)
        if tuple(columns) != SOURCE_COLUMNS:
            raise InputError(f"{file}: the columns {','.join(SOURCE_COLUMNS)} expected")
        return {row[0]: dict(zip(columns, row, strict=True)) for row in rows}

    @cached_property
    def failures(self) -> list[dict[str, str]]:
        """``errors.jsonl``: the files that could not be used."""
        file = self.folder / "errors.jsonl"
        try:
            found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            return [
                {name: str(each[name]) for name in ("file", "class", "reason")} for each in found
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file}: cannot be read as lines of JSON: {error}") from error

    @cached_property
    def metrics(self) -> dict[str, Any] | None:
        """``metrics.json``; ``None`` where nothing was evaluated yet."""
        file = self.folder / "metrics.json"
        if not file.is_file():
            return None
        found = read_json(file)
        if gone := [name for name in _EVALUATED if name not in found]:
            raise InputError(
                f"{file}: {', '.join(gone)} expected in it; run medad evaluate on the folder again"
            )
        return found

    def save_metrics(
        self,
        metrics: Mapping[str, Any],
        tables: Mapping[str, tuple[Sequence[str], Iterable[Sequence[object]]]],
    ) -> None:
        """Write ``metrics.json`` and, before it, tables: columns and rows by name.

        Raises:
            DeviceError: the disk is full or not writable.
        """
        for name, (columns, rows) in tables.items():
            with write_table(self.folder / f"{name}.csv", columns) as table:
                table.write(rows)
        write_json(self.folder / "metrics.json", metrics)


@dataclass(frozen=True)
class PredictionsWriter:
    """Fills the folder of a prediction that is under way; :meth:`Predictions.write` makes it."""

    folder: Path
    scores: TableWriter
    baselines: TableWriter
    sources: TableWriter
    errors: IO[str]
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("files", "failed_files", "images", "empty_files", "skipped_slices"), 0
        )
    )

    def save_map(self, name: str, maps: NDArray[np.float32], image: Image) -> str:
        """Write the map ``(S, H, W)`` of a file; returns its path relative to the folder.

        Raises:
            InputError: the name leads out of the folder.
            DeviceError: the disk is full or not writable.
        """
        values = maps.astype(np.float32, copy=False)
        written = write_on_grid(self.place(f"maps/{name}"), values, image)
        return written.relative_to(self.folder).as_posix()

    def save_mask(self, name: str, mask: NDArray[np.bool_], image: Image) -> None:
        """Write the mask ``(S, H, W)`` of a file on the grid of its map, 0 and 1."""
        write_on_grid(self.place(f"masks/{name}"), mask.astype(np.uint8), image)

    def add(
        self,
        image: Image,
        rows: Sequence[ScoreRow],
        baselines: Iterable[Sequence[float]],
        skipped: int,
    ) -> None:
        """Add the rows of one file: at least one, or it counts as empty.

        Args:
            image: that was scored.
            rows: of its scored slices.
            baselines: the trivial scores of each.
            skipped: how many slices were left out for want of foreground.
        """
        if rows:
            self.scores.write(score_cells(row) for row in rows)
            self.baselines.write(baselines)
            self.sources.write([_source_cells(rows[0].path, image)])
        self.counts["files"] += 1
        self.counts["images"] += len(rows)
        self.counts["empty_files"] += not rows
        self.counts["skipped_slices"] += skipped

    def add_failure(self, name: str, error: Exception, reason: str) -> None:
        """Note that a file could not be used."""
        line = {"file": name, "class": type(error).__name__, "reason": reason}
        self.errors.write(json.dumps(line) + "\n")
        self.errors.flush()
        self.counts["files"] += 1
        self.counts["failed_files"] += 1

    def finish(self, about: Mapping[str, Any], groups: Groups) -> dict[str, Any]:
        """Write ``groups.json`` and ``predict.json``, when the tables are complete.

        Args:
            about: where the numbers come from: ``data``, ``run``, ``published``, ``preprocess``,
                ``thresholds``, ``blocks``, ``dicom_results`` and ``patient_ids``.
            groups: of the scored files.

        Returns:
            What ``predict.json`` holds.
        """
        content = {
            "format_version": FORMAT_VERSION,
            **about,
            "counts": self.counts,
            "versions": versions(),
        }
        write_json(self.folder / "groups.json", asdict(groups))
        write_json(self.folder / "predict.json", content)
        return content

    def name_of(self, path: Path) -> str:
        """A path relative to the folder: folders above both may name a patient or the user."""
        return Path(relpath(path.resolve(), self.folder.resolve())).as_posix()

    def place(self, name: str) -> Path:
        """Where a result goes; a name from a manifest must not lead out of the folder."""
        if ".." in PurePosixPath(name).parts:
            raise InputError(f"{name}: a path below the dataset expected")
        return self.folder / name


def mask_beside(map_name: str) -> str:
    """Where the mask of ``maps/<name>`` is kept: ``masks/<name>``.

    Raises:
        InputError: the map is not in ``maps/``.
    """
    if not map_name.startswith("maps/"):
        raise InputError(f"scores.csv: a map in maps/ expected, got {map_name!r}")
    return f"masks/{map_name.removeprefix('maps/')}"


def _source_cells(path: str, image: Image) -> tuple[object, ...]:
    """A file's values in the order of :data:`SOURCE_COLUMNS`."""
    told = image.provenance
    window = [float(edge) for edge in told.window or (math.nan, math.nan)]
    rescaled, inverted, rotated = (
        ("no", "yes")[flag] for flag in (told.rescaled, told.inverted, told.rotated)
    )
    spacing = " ".join(f"{each:g}" for each in image.spacing_mm or ())
    how = (told.reader, image.modality, told.bits_stored, rescaled, inverted)
    return (path, *how, *window, rotated, spacing)
