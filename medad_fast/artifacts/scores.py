"""The table that predicting writes and evaluating and reporting read: one row a scored slice."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from medad_fast.data.dataset import Label
from medad_fast.data.geometry import Axis, geometry_of
from medad_fast.data.image import Image
from medad_fast.errors import DeviceError, InputError

__all__ = [
    "FORMAT_VERSION",
    "SOURCE_COLUMNS",
    "ScoreRow",
    "TableWriter",
    "in_plane",
    "read_columns",
    "read_scores",
    "score_cells",
    "score_columns",
    "source_cells",
    "write_table",
]

FORMAT_VERSION = 2
"""Of a folder of predictions, in its ``predict.json``. Some of version 1 lack the column
``p_value``."""

Verdict = Literal["normal", "abnormal"]

_LABELS: dict[str, Label] = {name: name for name in get_args(Label)}
_VERDICTS: dict[str, Verdict] = {name: name for name in get_args(Verdict)}


@dataclass(frozen=True)
class ScoreRow:
    """One scored slice, in the order of the columns of ``scores.csv``."""

    path: str
    """Of the image or volume, relative to the data set's root, with forward slashes."""
    patient: str
    """Salted hash of the patient's identifier, or the identifier where that was asked for."""
    slice: int
    """Place among the volume's slices in the run's plane (:func:`in_plane`), from 0."""
    split: str
    label: Label
    """Of this slice: by its mask where there is one, else of the whole file."""
    mask: str
    """Path of the mask, relative to the root where it lies below it; empty without one."""
    map: str
    """Path of the anomaly map, relative to the folder of the table; of a volume, one for all."""
    anomaly_score: float
    threshold: float
    prediction: Verdict
    """``abnormal`` where the score is above the threshold."""
    p_value: float
    """Conformal: the share of normal images that score as high, counting this one. At most the
    threshold's ``expected_fpr`` exactly where the score is above the threshold."""


class TableWriter:
    """Rows of a CSV file that is not there until it is complete.

    Rows go to ``<name>.partial.csv`` and are flushed by :meth:`write`, so that what is scored can
    be read while the rest is under way and after a stop. A partial file without rows is removed.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.stem}.partial{path.suffix}")
        # File names that are not UTF-8 come back as they were.
        self._file = self._partial.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._rows.writerow(columns)
        self._empty = True

    def write(self, rows: Iterable[Sequence[object]]) -> None:
        """Add rows; floats are written with all their digits, NaN as nothing."""
        for row in rows:
            self._empty = False
            self._rows.writerow([_cell(value) for value in row])
        self._file.flush()

    def close(self, *, complete: bool) -> None:
        """Close the file and, if it is ``complete``, give it its name."""
        if complete:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
        if complete:
            self._partial.replace(self._path)
        elif self._empty:
            self._partial.unlink()


@contextmanager
def write_table(path: Path, columns: Sequence[str]) -> Iterator[TableWriter]:
    """A :class:`TableWriter` whose file gets its name if the block ends without an error.

    Raises:
        DeviceError: the disk is full or not writable.
    """
    try:
        table = TableWriter(path, columns)
        complete = False
        try:
            yield table
            complete = True
        finally:
            table.close(complete=complete)
    except OSError as error:
        raise DeviceError(f"could not write {path}: {error.strerror or error}") from error


def score_columns() -> tuple[str, ...]:
    """The names of the columns of ``scores.csv``."""
    return tuple(field.name for field in fields(ScoreRow))


def score_cells(row: ScoreRow) -> tuple[object, ...]:
    """A row's values in the order of :func:`score_columns`."""
    return astuple(row)


SOURCE_COLUMNS = (
    "path",
    "reader",
    "modality",
    "bits_stored",
    "rescaled",
    "inverted",
    "window_low",
    "window_high",
    "rotated",
    "spacing_mm",
)
"""Of ``sources.csv``: how the numbers of each scored file were obtained."""


def source_cells(path: str, image: Image) -> tuple[object, ...]:
    """A file's values in the order of :data:`SOURCE_COLUMNS`; ``path`` as in :class:`ScoreRow`."""
    told = image.provenance
    low, high = told.window or (math.nan, math.nan)
    flags = (("no", "yes")[flag] for flag in (told.rescaled, told.inverted))
    return (
        path,
        told.reader,
        image.modality,
        told.bits_stored,
        *flags,
        float(low),
        float(high),
        ("no", "yes")[told.rotated],
        " ".join(f"{each:g}" for each in image.spacing_mm or ()),
    )


def in_plane(stack: NDArray[Any], image: Image, axis: Axis) -> NDArray[Any]:
    """``(S, H, W)`` as the slices of ``image`` to the slices that the rows count; a view.

    They differ only for volumes that a run slices in another plane than the axial one.
    """
    if image.geometry is None or len(image.pixels) == 1 or axis == "axial":
        return stack
    return geometry_of(image.geometry.affine, axis).to_slices(image.geometry.to_source(stack))


def read_scores(path: Path) -> list[ScoreRow]:
    """Read ``scores.csv``.

    Raises:
        InputError: not such a table, or one of an older release; names the line and the column.
    """
    table = _read(path)
    if tuple(table[0]) == tuple(name for name in score_columns() if name != "p_value"):
        raise InputError(
            f"{path}: was written by an older medad-fast, without the column p_value; run "
            "medad predict again"
        )
    if tuple(table[0]) != score_columns():
        raise InputError(f"{path}: the columns {','.join(score_columns())} expected")
    return [_row(path, line, cells) for line, cells in enumerate(table[1:], start=2)]


def read_columns(path: Path, rows: int) -> dict[str, list[float]]:
    """Read a table of numbers with ``rows`` rows by column; an empty cell is NaN.

    Raises:
        InputError: another number of rows, or a cell that is neither empty nor a finite number.
    """
    table = _read(path)
    if len(table) != rows + 1:
        raise InputError(f"{path}: {rows} rows expected as in scores.csv, got {len(table) - 1}")
    columns: dict[str, list[float]] = {}
    for place, name in enumerate(table[0]):
        columns[name] = [
            _number(path, line, name, cells[place]) if cells[place] else math.nan
            for line, cells in enumerate(table[1:], start=2)
        ]
    return columns


def _read(path: Path) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            table = list(csv.reader(file, strict=True))
    except (OSError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table: {error}") from error
    if not table:
        raise InputError(f"{path}: a line with the names of the columns expected, got nothing")
    for line, cells in enumerate(table, start=1):
        if len(cells) != len(table[0]):
            raise InputError(
                f"{path}: line {line} has {len(cells)} cells, {len(table[0])} expected"
            )
    return table


def _row(path: Path, line: int, cells: Sequence[str]) -> ScoreRow:
    values = dict(zip(score_columns(), cells, strict=True))
    for column, known in (("label", _LABELS.keys()), ("prediction", _VERDICTS.keys())):
        if values[column] not in known:
            raise InputError(
                f"{path}: line {line}: {column} must be one of {', '.join(known)}, "
                f"got {values[column]!r}"
            )
    if not values["slice"].isdecimal():
        raise InputError(f"{path}: line {line}: slice must be a whole number")
    return ScoreRow(
        path=values["path"],
        patient=values["patient"],
        slice=int(values["slice"]),
        split=values["split"],
        label=_LABELS[values["label"]],
        mask=values["mask"],
        map=values["map"],
        anomaly_score=_number(path, line, "anomaly_score", values["anomaly_score"]),
        threshold=_number(path, line, "threshold", values["threshold"]),
        prediction=_VERDICTS[values["prediction"]],
        p_value=_number(path, line, "p_value", values["p_value"]),
    )


def _number(path: Path, line: int, column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{path}: line {line}: {column} must be a finite number, got {cell!r}")
    return value


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(float(value))
    return value
