"""What every reader returns: pixels with a defined meaning, and where they came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.errors import InputError


@dataclass(frozen=True)
class Provenance:
    """How the numbers in ``Image.pixels`` were obtained from the file."""

    source: Path
    """The file, or the first file of a series."""
    reader: str
    """Name of the format (``"dicom"``, ``"nifti"``, ``"picture"``), or ``"array"``."""
    bits_stored: int
    """Bits per sample in the file."""
    rescaled: bool = False
    """Whether a modality LUT or a slope and intercept was applied."""
    inverted: bool = False
    """Whether MONOCHROME1 was inverted."""
    window: tuple[float, float] | None = None
    """Lower and upper edge of the window that was applied, in the units of the pixels."""
    rotated: bool = False
    """Whether a rotation or reflection from EXIF was applied."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """How the slices of an :class:`Image` lie in the array that the file holds.

    ``np.transpose(source, axes)`` followed by flipping the axes for which ``flips`` is true gives
    the slices ``(S, H, W)``; :meth:`to_source` undoes it.
    """

    axes: tuple[int, int, int]
    """The source's axes in the order slices, rows, columns."""
    flips: tuple[bool, bool, bool]
    """Which of slices, rows, columns run backwards in the source."""
    affine: NDArray[np.float64]
    """Voxel indices of the source array to millimetres (RAS+), ``(4, 4)``."""

    def to_slices(self, source: NDArray[Any]) -> NDArray[Any]:
        """``(X, Y, Z)`` in the file's order to ``(S, H, W)``; a view."""
        slices = np.transpose(source, self.axes)
        return slices[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]

    def to_source(self, slices: NDArray[Any]) -> NDArray[Any]:
        """``(S, H, W)`` back to the file's own axis order; a view."""
        flipped = slices[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]
        return np.transpose(flipped, tuple(int(i) for i in np.argsort(self.axes)))


@dataclass(frozen=True, eq=False)
class Image:
    """A picture, or a volume as a stack of slices, with values as stored after the modality LUT.

    Slices of volumes are shown rows anterior to posterior and columns patient right to left.
    Brighter is always larger: MONOCHROME1 has been inverted by the reader.
    """

    pixels: NDArray[Any]
    """``(S, H, W)`` grey or ``(S, H, W, 3)`` colour; ``S`` is 1 for a picture."""
    modality: str
    """DICOM's code (``"MR"``, ``"CT"``, ``"CR"``, ``"DX"`` ...), or ``"OT"`` where unknown."""
    spacing_mm: tuple[float, float, float] | None
    """Distance between slices, rows and columns, where the file gives it."""
    geometry: Geometry | None
    """Place of the slices in the source volume; ``None`` for pictures."""
    provenance: Provenance
    attributes: dict[str, str] = field(default_factory=dict)
    """What grouping and checks need (``PatientID``, ``SeriesInstanceUID``, ``BurnedInAnnotation``).
    Never written to any output as they are."""

    @property
    def is_volume(self) -> bool:
        """Whether the slices belong to one volume with a known geometry."""
        return self.geometry is not None


def image_of_array(pixels: NDArray[Any], *, modality: str = "OT") -> Image:
    """An image of pixels that are in memory already.

    Args:
        pixels: ``(H, W)`` or ``(S, H, W)`` in stored units, of any real dtype. Slices are taken as
            shown: rows anterior to posterior, columns the patient's right to left.
        modality: DICOM's code, which decides how grey levels are scaled.

    Raises:
        InputError: another number of axes, no pixels, or a dtype that is not real.
    """
    if pixels.ndim not in (2, 3) or pixels.size == 0 or pixels.dtype.kind not in "buif":
        raise InputError(
            "an array of pixels must be real with shape (H, W) or (S, H, W), got "
            f"{pixels.dtype} {pixels.shape}"
        )
    return Image(
        pixels=pixels if pixels.ndim == 3 else pixels[None],
        modality=modality,
        spacing_mm=None,
        geometry=None,
        provenance=Provenance(Path("array"), "array", 8 * pixels.dtype.itemsize),
    )
