"""What a prediction draws of each image beside its map: overlays, and DICOM objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medad_fast.artifacts.overlay import overlay
from medad_fast.artifacts.predictions import PredictionsWriter
from medad_fast.data import Case, Image
from medad_fast.data.geometry import Axis, in_plane
from medad_fast.dicom_out.writers import MapOrigin, write_results
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
        if self.dicom and image.provenance.reader == "dicom":
            folder = self.results.place(f"dicom/{case.name}")
            write_results(folder, image, case.files, maps, self.origin)
            self.dicom_sources += 1
