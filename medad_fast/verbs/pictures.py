"""What a prediction draws of each image beside its map: overlays, and DICOM objects."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.artifacts.grids import in_plane
from medad_fast.artifacts.overlay import colourise, overlay
from medad_fast.artifacts.predictions import PredictionsWriter
from medad_fast.data import Case, Image
from medad_fast.data.geometry import Axis
from medad_fast.dicom_out.mark import burn_in
from medad_fast.dicom_out.origin import NOT_FOR_DIAGNOSIS, MapOrigin
from medad_fast.dicom_out.source import dicom_source
from medad_fast.dicom_out.writers import (
    write_captures,
    write_parametric_map,
    write_segmentation,
)
from medad_fast.files import atomic_write

__all__ = ["Pictures"]


@dataclass
class Pictures:
    """Draws what was asked for into the folder of a prediction."""

    results: PredictionsWriter
    axis: Axis
    """The plane that the run slices volumes in."""
    origin: MapOrigin
    overlays: bool = False
    dicom: bool = False
    dicom_sources: int = 0
    """DICOM images that got DICOM results so far."""

    def draw_overlays(
        self, case: Case, image: Image, maps: NDArray[np.float32], index: Sequence[int]
    ) -> None:
        """Draw the map over the slices at the places ``index`` in the run's plane, if asked for.

        Raises:
            InputError: a name leads out of the folder.
            DeviceError: the disk is full or not writable.
        """
        from PIL import Image as Picture

        if not self.overlays:
            return
        shown, sliced = (in_plane(stack, image, self.axis) for stack in (image.pixels, maps))
        for place in index:
            name = f"overlays/{case.name}.png"
            if len(sliced) > 1:
                name = f"overlays/{case.name}/{place:04d}.png"
            low, high = self.origin.low, self.origin.high
            pixels = overlay(shown[place], sliced[place], low=low, high=high)
            with atomic_write(self.results.place(name)) as temporary:
                Picture.fromarray(pixels).save(temporary)

    def write_dicom(self, case: Case, image: Image, maps: NDArray[np.float32]) -> None:
        """Write the maps ``(S, H, W)`` of a DICOM image as DICOM objects, if asked for.

        Raises:
            InputError: a name leads out of the folder, or none can be made of the file.
            DeviceError: the disk is full or not writable.
        """
        if not self.dicom or image.provenance.reader != "dicom":
            return
        folder = self.results.place(f"dicom/{case.name}")
        shutil.rmtree(folder, ignore_errors=True)
        source = dicom_source(image, case.files)
        stored = source.as_stored(maps)
        try:
            if source.placed:
                write_parametric_map(folder / "map.dcm", stored, source, self.origin)
            low, high = self.origin.low, self.origin.high
            shown = np.stack([colourise(each, low=low, high=high) for each in stored])
            write_segmentation(folder, shown, source, self.origin)
            pictures = self._captures(source.as_stored(image.pixels), stored)
            write_captures(folder, pictures, source, self.origin)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self.dicom_sources += 1

    def _captures(self, pixels: NDArray[Any], maps: NDArray[np.float32]) -> list[NDArray[np.uint8]]:
        """Overlays in stored order, all frames of an image on one grey scale, marked."""
        origin = self.origin
        small = (
            f"{origin.method}, run {origin.run[:12]}, medad_fast {origin.version}, "
            f"map {origin.low:.3g} to {origin.high:.3g} (no unit)"
        )
        darkest, brightest = (float(np.percentile(pixels, share)) for share in (0.5, 99.5))
        grey = {"darkest": darkest, "brightest": brightest}
        drawn = (
            overlay(each, anomaly_map, low=origin.low, high=origin.high, **grey)
            for each, anomaly_map in zip(pixels, maps, strict=True)
        )
        return [burn_in(each, NOT_FOR_DIAGNOSIS, small) for each in drawn]
