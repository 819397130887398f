"""Slices of a prediction as a page shows them: image, map and mask of one file at a time.

Only the images come from the dataset, which may have moved or lost a file since it was scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.artifacts.predictions import Predictions
from medad_fast.artifacts.scores import ScoreRow
from medad_fast.data import Image, load_dataset
from medad_fast.data.geometry import geometry_of, in_plane, slice_spacing_mm
from medad_fast.data.pipeline import Pipeline
from medad_fast.data.preprocess import PreprocessConfig
from medad_fast.errors import InputError


class ImageGone(InputError):
    """An image of the dataset is missing or cannot be read any more."""


@dataclass(frozen=True)
class Scale:
    """Map values that get the first and the last colour, for all images of a page."""

    low: float
    high: float


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


@dataclass(frozen=True)
class Results:
    """Predictions with the place of their images."""

    predictions: Predictions
    root: Path
    """Of the dataset, as far as it is known."""

    @cached_property
    def scale(self) -> Scale | None:
        """The common scale of the maps; ``None`` for a run without one."""
        maps = self.predictions.about["thresholds"].get("map")
        return None if maps is None else Scale(float(maps["low"]), float(maps["high"]))

    @property
    def names_places(self) -> bool:
        """Whether a page may tell places on the disk: where identifiers were asked for."""
        return bool(self.predictions.about.get("patient_ids") == "kept")

    def shown(self, path: str) -> list[ShownSlice]:
        """Image, map and mask of the scored slices of one file.

        Raises:
            ImageGone: the image is missing, or not the one that was scored.
            InputError: the map or mask is missing or cannot be read.
        """
        rows = [row for row in self.predictions.rows if row.path == path]
        maps, masks = self.predictions.volume(rows)
        image, pixels = self._image(path, maps.shape)
        darkest, brightest = np.percentile(pixels, [0.5, 99.5])
        spacing = image.spacing_mm
        if image.geometry is not None:
            spacing = slice_spacing_mm(geometry_of(image.geometry.affine, self.predictions.axis))
        return [
            ShownSlice(
                row=row,
                slices=len(pixels),
                pixels=pixels[row.slice],
                anomaly_map=maps[row.slice],
                mask=None if masks is None else masks[row.slice],
                darkest=float(darkest),
                brightest=float(brightest),
                aspect=1.0 if spacing is None else spacing[1] / spacing[2],
            )
            for row in rows
        ]

    def _image(self, name: str, shape: tuple[int, ...]) -> tuple[Image, NDArray[Any]]:
        """The image of a file and its slices, as many and as large as those of its map."""
        config = PreprocessConfig.from_dict(self.predictions.about["preprocess"])

        def read(files: Path | Sequence[Path]) -> tuple[Image, NDArray[Any]]:
            image = Pipeline(config).read(files)
            return image, in_plane(image.pixels, image, config.axis)

        file = self.root / name
        if not file.is_file():
            raise ImageGone(f"{name}: is missing")
        try:
            image, pixels = read(file)
            if pixels.shape[:3] != shape and name in self._series:
                image, pixels = read(self._series[name])
        except InputError as error:
            raise ImageGone(str(error).replace(f"{self.root}/", "")) from error
        if pixels.shape[:3] != shape:
            got, wanted = (" x ".join(map(str, each)) for each in (pixels.shape[:3], shape))
            raise ImageGone(f"{name}: has {got} pixels, but its map has {wanted}")
        return image, pixels

    @cached_property
    def _series(self) -> Mapping[str, Sequence[Path]]:
        """The files of each case of the dataset: the name of a series is its first file."""
        return {case.name: case.files for case in load_dataset(self.root).cases}
