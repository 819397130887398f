"""A folder of judged predictions, read back for showing."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.artifacts.scores import SOURCE_COLUMNS, ScoreRow, in_plane, read_scores
from medad_fast.data.geometry import geometry_of, slice_spacing_mm
from medad_fast.errors import InputError
from medad_fast.evaluation.slices import read_map

__all__ = ["Results", "Scale", "ShownSlice", "read_case", "read_results"]

JUDGED = (
    "image",
    "patient",
    "pixel",
    "baselines",
    "published",
    "counts",
    "threshold",
    "oracle",
    "subgroups",
    "bootstrap",
)
"""What a report shows of ``metrics.json``."""


@dataclass(frozen=True)
class Scale:
    """Map values that get the first and the last colour, for all images of a page."""

    low: float
    high: float


@dataclass(frozen=True)
class Results:
    """What ``medad predict`` and ``medad evaluate`` wrote into one folder."""

    folder: Path
    root: Path
    """Of the data set."""
    about: dict[str, Any]
    """``predict.json``."""
    metrics: dict[str, Any] | None
    """``metrics.json``; ``None`` where nothing was judged yet."""
    rows: list[ScoreRow]
    sources: dict[str, dict[str, str]]
    """``sources.csv``: how each scored file was read, by path."""
    failures: list[dict[str, str]]
    """``errors.jsonl``: the files that could not be used."""
    simulation: dict[str, Any] | None
    """``simulation.json`` of the data set, where its images are simulated."""

    @property
    def method(self) -> str:
        return str(self.about["run"]["method"])

    @cached_property
    def scale(self) -> Scale | None:
        """The common scale of the maps; ``None`` for a run without one."""
        maps = self.about["thresholds"].get("map")
        return None if maps is None else Scale(float(maps["low"]), float(maps["high"]))

    @cached_property
    def series(self) -> dict[str, tuple[Path, ...]]:
        """The files of each case of the data set: the name of a series is its first file."""
        from medad_fast.data import load_dataset

        return {case.name: case.files for case in load_dataset(self.root).cases}


@dataclass(frozen=True, eq=False)
class ShownSlice:
    """One scored slice with everything that is shown of it."""

    row: ScoreRow
    slices: int
    """How many slices the file has, scored or not."""
    pixels: NDArray[Any]
    """``(H, W)`` or ``(H, W, 3)``."""
    anomaly_map: NDArray[Any]
    """``(H, W)``."""
    mask: NDArray[np.bool_] | None
    darkest: float
    """Of the whole volume: the grey scale of an image does not depend on its slice."""
    brightest: float
    aspect: float
    """Height of a pixel over its width."""


def read_results(folder: Path, data: Path | None = None, *, judged: bool = False) -> Results:
    """Read the tables of a folder of results.

    Args:
        folder: where ``medad predict`` and, for figures, ``medad evaluate`` wrote.
        data: where the data set lies now, if it moved since.
        judged: whether ``metrics.json`` must be there.

    Raises:
        InputError: a file is missing or damaged.
    """
    about = _read_json(folder / "predict.json", "medad predict")
    metrics = None
    if judged or (folder / "metrics.json").is_file():
        metrics = _read_metrics(folder / "metrics.json")
    rows = read_scores(folder / "scores.csv")
    if not rows:
        raise InputError(f"{folder / 'scores.csv'}: at least one scored slice expected, got none")
    given = folder / about["data"]["root"] if data is None else data
    root = given.parent if given.is_file() else given
    simulation = root / "simulation.json"
    return Results(
        folder=folder,
        root=root,
        about=about,
        metrics=metrics,
        rows=rows,
        sources=_read_sources(folder / "sources.csv"),
        failures=_read_failures(folder / "errors.jsonl"),
        simulation=_read_json(simulation, "medad demo") if simulation.is_file() else None,
    )


def read_case(results: Results, rows: Sequence[ScoreRow]) -> Iterator[ShownSlice]:
    """Image, map and mask of scored slices of one file, which is read once.

    Raises:
        InputError: the image, map or mask is missing or cannot be read.
    """
    from medad_fast.data import read_mask
    from medad_fast.data.pipeline import Pipeline
    from medad_fast.data.preprocess import PreprocessConfig

    path = rows[0].path
    pipeline = Pipeline(PreprocessConfig.from_dict(results.about["preprocess"]))
    file = results.root / path
    if not file.is_file():
        raise InputError(f"{file}: the image is gone; say where the data set is now with --data")
    image = pipeline.read(file)
    maps = read_map(results.folder / rows[0].map)
    if len(image.pixels) != len(maps) and path in results.series:
        image = pipeline.read(results.series[path])
    masks = read_mask(results.root / rows[0].mask, image) if rows[0].mask else None
    if maps.shape != image.pixels.shape[:3]:
        raise InputError(
            f"{results.folder / rows[0].map}: a map on the grid of {path}, "
            f"{image.pixels.shape[:3]}, expected, got {maps.shape}"
        )
    axis = results.about["preprocess"]["axis"]
    pixels, maps = in_plane(image.pixels, image, axis), in_plane(maps, image, axis)
    masks = None if masks is None else in_plane(masks, image, axis)
    darkest, brightest = np.percentile(pixels, [0.5, 99.5])
    spacing = image.spacing_mm
    if image.geometry is not None:
        spacing = slice_spacing_mm(geometry_of(image.geometry.affine, axis))
    for row in rows:
        yield ShownSlice(
            row=row,
            slices=len(pixels),
            pixels=pixels[row.slice],
            anomaly_map=maps[row.slice],
            mask=None if masks is None else masks[row.slice],
            darkest=float(darkest),
            brightest=float(brightest),
            aspect=1.0 if spacing is None else spacing[1] / spacing[2],
        )


def _read_sources(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            table = list(csv.DictReader(file))
    except (OSError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table: {error}") from error
    for line, row in enumerate(table, start=2):
        if not set(SOURCE_COLUMNS) <= set(row) or None in row.values():
            raise InputError(f"{path}: line {line}: the columns {','.join(SOURCE_COLUMNS)} wanted")
    return {row["path"]: row for row in table}


def _read_failures(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [{name: str(each[name]) for name in ("file", "class", "reason")} for each in found]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as lines of JSON: {error}") from error


def _read_metrics(path: Path) -> dict[str, Any]:
    metrics = _read_json(path, "medad evaluate")
    gone = [name for name in JUDGED if name not in metrics]
    if gone:
        raise InputError(
            f"{path}: {', '.join(gone)} expected in it, got none, as an earlier version wrote it; "
            "run medad evaluate on the folder again"
        )
    return metrics


def _read_json(path: Path, writer: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; `{writer}` writes it") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: a JSON object expected")
    return found
