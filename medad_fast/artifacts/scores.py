"""The table ``scores.csv`` of a prediction: one row a scored slice."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

from medad_fast.data.dataset import Label
from medad_fast.errors import InputError
from medad_fast.files import read_table

Verdict = Literal["normal", "abnormal"]

_LABELS: dict[str, Label] = {name: name for name in get_args(Label)}
_VERDICTS: dict[str, Verdict] = {name: name for name in get_args(Verdict)}
_FURTHER = re.compile("score_([a-z0-9_]+)")


@dataclass(frozen=True)
class ScoreRow:
    """One scored slice, in the order of the columns of ``scores.csv``."""

    path: str
    """Of the image or volume, relative to the dataset's root, with forward slashes."""
    patient: str
    """Salted hash of the patient's identifier, or the identifier where that was asked for."""
    slice: int
    """Place among the volume's slices in the run's plane, from 0."""
    split: str
    label: Label
    """Of this slice: by its mask where there is one, else of the whole file."""
    mask: str
    """Path of the mask in the dataset, relative to the root where it lies below it; empty without
    one. Its pixels are kept beside those of the map."""
    map: str
    """Path of the anomaly map, relative to the folder of the table; of a volume, one for all."""
    anomaly_score: float
    threshold: float
    prediction: Verdict
    """``abnormal`` where the score is above the threshold."""
    p_value: float
    """Conformal: the share of normal images that score as high, counting this one. At most the
    threshold's ``expected_fpr`` exactly where the score is above the threshold."""
    further: Mapping[str, float] = field(default_factory=dict)
    """Further scores of the image by name, which stand in columns ``score_<name>``."""


COLUMNS = tuple(each.name for each in fields(ScoreRow) if each.name != "further")
"""Of every table; columns of further scores come after them."""


def score_columns(further: Sequence[str] = ()) -> tuple[str, ...]:
    """The names of the columns of a table whose rows have these further scores.

    Raises:
        InputError: a name is not made of small letters, digits and underscores.
    """
    columns = tuple(f"score_{name}" for name in further)
    for column in columns:
        if not _FURTHER.fullmatch(column):
            raise InputError(f"a further score's name must be [a-z0-9_]+, got {column[6:]!r}")
    return (*COLUMNS, *columns)


def score_cells(row: ScoreRow) -> tuple[object, ...]:
    """A row's values in the order of :func:`score_columns`."""
    return (*(getattr(row, name) for name in COLUMNS), *row.further.values())


def read_scores(path: Path) -> list[ScoreRow]:
    """Read ``scores.csv``.

    Raises:
        InputError: not such a table; names the line and the column.
    """
    table = read_table(path)
    columns = tuple(table[0])
    found = (_FURTHER.fullmatch(column) for column in columns[len(COLUMNS) :])
    further = list(dict.fromkeys(match[1] for match in found if match))
    if columns != score_columns(further):
        raise InputError(
            f"{path}: the columns {','.join(COLUMNS)} expected, then none but score_<name>"
        )
    return [
        _row(path, line, dict(zip(columns, cells, strict=True)), further)
        for line, cells in enumerate(table[1:], start=2)
    ]


def read_columns(path: Path, rows: int) -> dict[str, list[float]]:
    """Read a table of numbers with ``rows`` rows by column; an empty cell is NaN.

    Raises:
        InputError: another number of rows, or a cell that is neither empty nor a finite number.
    """
    table = read_table(path)
    if len(table) != rows + 1:
        raise InputError(f"{path}: {rows} rows expected as in scores.csv, got {len(table) - 1}")
    return {
        name: [
            _number(path, line, name, cells[place]) if cells[place] else math.nan
            for line, cells in enumerate(table[1:], start=2)
        ]
        for place, name in enumerate(table[0])
    }


def _row(path: Path, line: int, cells: Mapping[str, str], further: Sequence[str]) -> ScoreRow:
    for column, known in (("label", _LABELS.keys()), ("prediction", _VERDICTS.keys())):
        if cells[column] not in known:
            raise InputError(
                f"{path}: line {line}: {column} must be one of {', '.join(known)}, "
                f"got {cells[column]!r}"
            )
    if not cells["slice"].isdecimal():
        raise InputError(f"{path}: line {line}: slice must be a whole number")

    def number(column: str) -> float:
        return _number(path, line, column, cells[column])

    return ScoreRow(
        path=cells["path"],
        patient=cells["patient"],
        slice=int(cells["slice"]),
        split=cells["split"],
        label=_LABELS[cells["label"]],
        mask=cells["mask"],
        map=cells["map"],
        anomaly_score=number("anomaly_score"),
        threshold=number("threshold"),
        prediction=_VERDICTS[cells["prediction"]],
        p_value=number("p_value"),
        further={name: number(f"score_{name}") for name in further},
    )


def _number(path: Path, line: int, column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{path}: line {line}: {column} must be a finite number, got {cell!r}")
    return value
