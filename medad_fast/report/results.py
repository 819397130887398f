"""A folder of judged predictions, read back for showing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.errors import InputError
from medad_fast.evaluate.slices import read_map
from medad_fast.io.orientation import geometry_of, slice_spacing_mm
from medad_fast.scores import ScoreRow, in_plane, read_scores

__all__ = ["Results", "Scale", "ShownSlice", "read_results", "read_slices"]


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
    metrics: dict[str, Any]
    """``metrics.json``."""
    rows: list[ScoreRow]
    simulation: dict[str, Any] | None
    """``simulation.json`` of the data set, where its images are simulated."""

    @property
    def method(self) -> str:
        return str(self.about["run"]["method"])

    @property
    def scale(self) -> Scale | None:
        """The common scale of the maps; ``None`` for a run without one."""
        maps = self.metrics["maps"]
        if maps.get("low") is None or maps.get("high") is None:
            return None
        return Scale(float(maps["low"]), float(maps["high"]))


@dataclass(frozen=True, eq=False)
class ShownSlice:
    """One scored slice with everything that is shown of it."""

    row: ScoreRow
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


def read_results(folder: Path, data: Path | None = None) -> Results:
    """Read the tables of a folder of results.

    Args:
        folder: where ``medad predict`` and ``medad evaluate`` wrote.
        data: where the data set lies now, if it moved since.

    Raises:
        InputError: a file is missing or damaged.
    """
    about = _read_json(folder / "predict.json", "medad predict")
    metrics = _read_json(folder / "metrics.json", "medad evaluate")
    given = Path(about["data"]["root"]) if data is None else data
    root = given.parent if given.is_file() else given
    simulation = root / "simulation.json"
    return Results(
        folder=folder,
        root=root,
        about=about,
        metrics=metrics,
        rows=read_scores(folder / "scores.csv"),
        simulation=_read_json(simulation, "medad demo") if simulation.is_file() else None,
    )


def read_slices(results: Results, rows: Sequence[ScoreRow]) -> dict[tuple[str, int], ShownSlice]:
    """Image, map and mask of some slices, by path and slice; each file is read once.

    Raises:
        InputError: an image, map or mask is missing or cannot be read.
    """
    ordered = sorted(rows, key=lambda row: (row.path, row.slice))
    shown: dict[tuple[str, int], ShownSlice] = {}
    for path, group in groupby(ordered, key=lambda row: row.path):
        for one in _read_volume(results, path, list(group)):
            shown[path, one.row.slice] = one
    return shown


def _read_volume(results: Results, path: str, rows: list[ScoreRow]) -> Iterator[ShownSlice]:
    from medad_fast.io import load_study, read_mask
    from medad_fast.preprocess import Pipeline, PreprocessConfig

    pipeline = Pipeline(PreprocessConfig.from_dict(results.about["preprocess"]))
    file = results.root / path
    if not file.is_file():
        raise InputError(f"{file}: the image is gone; say where the data set is now with --data")
    image = pipeline.read(file)
    maps = read_map(results.folder / rows[0].map)
    if len(image.pixels) != len(maps):
        # The name of a series is its first file: ask the data set for the others.
        cases = [case for case in load_study(results.root).cases if case.name == path]
        image = pipeline.read(cases[0].files) if cases else image
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
            pixels=pixels[row.slice],
            anomaly_map=maps[row.slice],
            mask=None if masks is None else masks[row.slice],
            darkest=float(darkest),
            brightest=float(brightest),
            aspect=1.0 if spacing is None else spacing[1] / spacing[2],
        )


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
