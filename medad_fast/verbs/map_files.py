"""Where the maps of one prediction go, and in which forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from medad_fast.artifacts.overlay import overlay
from medad_fast.artifacts.scores import in_plane
from medad_fast.data import Case, Image, write_map
from medad_fast.data.geometry import Axis
from medad_fast.dicom_out.origin import MapOrigin
from medad_fast.dicom_out.writers import write_results
from medad_fast.errors import InputError
from medad_fast.files import atomic_write

__all__ = ["Results"]


@dataclass
class Results:
    """Writes what one prediction makes of each image below its folder."""

    folder: Path
    axis: Axis
    """The plane that the run slices volumes in."""
    origin: MapOrigin
    overlays: bool = False
    dicom: bool = False
    dicom_sources: int = 0
    """DICOM images that got DICOM results so far."""

    def write(
        self, case: Case, image: Image, maps: NDArray[np.float32], index: Sequence[int]
    ) -> str:
        """Write all forms of an image's map.

        Args:
            case: of the image.
            image: that was scored.
            maps: ``(S, H, W)``, slices as those of ``image``.
            index: places of the slices that were scored, in the run's plane.

        Returns:
            The name of the map, relative to the folder.

        Raises:
            InputError: a name leads out of the folder, or DICOM results cannot be made of the file.
            DeviceError: the disk is full or not writable.
        """
        if self.dicom and image.provenance.reader == "dicom":
            folder = self._place(f"dicom/{case.name}")
            write_results(folder, image, case.files, maps, self.origin)
            self.dicom_sources += 1
        written = write_map(self._place(f"maps/{case.name}"), maps, image)
        if self.overlays:
            self._draw(case, image, maps, index)
        return written.relative_to(self.folder).as_posix()

    def name_of(self, path: Path) -> str:
        """A path relative to the folder: folders above both may name a patient or the user."""
        return Path(relpath(path.resolve(), self.folder.resolve())).as_posix()

    def _draw(
        self, case: Case, image: Image, maps: NDArray[np.float32], index: Sequence[int]
    ) -> None:
        from PIL import Image as Picture

        shown, sliced = (in_plane(stack, image, self.axis) for stack in (image.pixels, maps))
        for place in index:
            name = f"overlays/{case.name}.png"
            if len(sliced) > 1:
                name = f"overlays/{case.name}/{place:04d}.png"
            low, high = self.origin.low, self.origin.high
            pixels = overlay(shown[place], sliced[place], low=low, high=high)
            with atomic_write(self._place(name)) as temporary:
                Picture.fromarray(pixels).save(temporary)

    def _place(self, name: str) -> Path:
        """Where a result goes; a name from a manifest must not lead out of the folder."""
        if ".." in PurePosixPath(name).parts:
            raise InputError(f"{name}: a path below the data set expected")
        return self.folder / name
