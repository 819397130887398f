"""DICOM images: files of one or several frames, and series of files as volumes.

The order of work is fixed: decode, padding mask, modality LUT or rescale, optional VOI window,
MONOCHROME1 last. See ``docs/reading.md``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.data.formats import ReadOptions, quiet
from medad_fast.data.formats.dicom.file import open_dataset
from medad_fast.data.formats.dicom.frames import (
    SlicePlace,
    frame_headers,
    place_of,
    plane_spacing_mm,
    stacked_geometry,
)
from medad_fast.data.formats.dicom.grey import grey_values, is_rescaled
from medad_fast.data.formats.dicom.pixels import GREY, check_header, decoded_frames, known_modality
from medad_fast.data.geometry import slice_spacing_mm
from medad_fast.data.image import Image, Provenance
from medad_fast.data.limits import check_size, naming
from medad_fast.errors import InputError

_ATTRIBUTES = ("PatientID", "SeriesInstanceUID", "BurnedInAnnotation")

_Frame = tuple[Image, SlicePlace | None]
"""One frame as a picture ``(1, rows, columns)`` as stored, and where it lies in the patient."""


def read_dicom(path: Path, options: ReadOptions) -> Image:
    """Read a DICOM file.

    Pixels are in the units of the modality LUT (Hounsfield units for CT). A file with a place in
    the patient is turned so that rows and columns run as for volumes. Several frames become a
    volume if they have evenly spaced places, else pictures in the order of the file.

    Raises:
        InputError: damaged, without pixels, or compressed in a way that no installed decoder
            reads.
        LimitError: larger than the stated limits.
    """
    frames = _read_frames(path, options)
    if len(frames) > 1 and not _are_volume(frames):
        return _pictures(frames)
    return _assembled(frames)


def read_dicom_series(paths: Sequence[Path], options: ReadOptions) -> Image:
    """Read the single-frame files of one series, in any order, as a volume of axial slices.

    Raises:
        InputError: as :func:`read_dicom`, or the files do not form one evenly spaced volume.
        LimitError: larger than the stated limits.
    """
    frames: list[_Frame] = []
    for path in paths:
        found = _read_frames(path, options)
        if len(found) != 1:
            raise InputError(f"{path}: holds {len(found)} frames; files of a series hold one each")
        frames += found
        first = frames[0][0].pixels
        rows, columns = first.shape[1:3]
        check_size(paths[0], len(paths), rows, columns, first.itemsize)
    return _assembled(frames)


def _read_frames(path: Path, options: ReadOptions) -> list[_Frame]:
    dataset = open_dataset(path)
    # The texts of pydicom's warnings and errors quote values of the file.
    with naming(path, "a DICOM image", tell=False), quiet():
        count = check_header(path, dataset)
        stored = decoded_frames(path, dataset, count)
        return [
            _frame(path, dataset, header, pixels, options)
            for header, pixels in zip(frame_headers(dataset, count), stored, strict=True)
        ]


def _frame(
    path: Path, dataset: Any, header: dict[str, Any], stored: NDArray[Any], options: ReadOptions
) -> _Frame:
    grey = str(dataset.PhotometricInterpretation) in GREY
    pixels, window = stored, None
    if grey:
        pixels, window = grey_values(path, header, stored, options.voi_window)
    image = Image(
        pixels=pixels[None],
        modality=known_modality(dataset),
        spacing_mm=plane_spacing_mm(header),
        geometry=None,
        provenance=Provenance(
            source=path,
            reader="dicom",
            bits_stored=int(dataset.get("BitsStored") or dataset.BitsAllocated),
            rescaled=grey and is_rescaled(header),
            inverted=dataset.PhotometricInterpretation == "MONOCHROME1",
            window=window,
        ),
        attributes={key: str(dataset.get(key, "") or "") for key in _ATTRIBUTES},
    )
    return image, place_of(path, header) if grey else None


def _places(frames: Sequence[_Frame]) -> list[SlicePlace] | None:
    """Where the frames lie, if all have a place."""
    places = [place for _, place in frames if place is not None]
    return places if len(places) == len(frames) else None


def _are_volume(frames: Sequence[_Frame]) -> bool:
    """Whether frames of one file are slices of one volume; warns if they only look like it."""
    places = _places(frames)
    if places is None:
        return False
    try:
        stacked_geometry(places)
    except InputError as error:
        warnings.warn(f"{error}; its frames are taken as pictures", stacklevel=3)
        return False
    return True


def _pictures(frames: Sequence[_Frame]) -> Image:
    return replace(frames[0][0], pixels=np.concatenate([image.pixels for image, _ in frames]))


def _assembled(frames: Sequence[_Frame]) -> Image:
    first, places = frames[0][0], _places(frames)
    if places is None:
        if len(frames) > 1:
            raise InputError(f"{first.provenance.source}: does not tell its place in the series")
        return _pictures(frames)
    geometry, order = stacked_geometry(places)
    # The source array is (columns, rows, slices): the order in which the affine counts.
    source = np.stack([frames[i][0].pixels[0].T for i in order], axis=-1)
    return replace(
        first,
        pixels=geometry.to_slices(source),
        spacing_mm=slice_spacing_mm(geometry),
        geometry=geometry,
        provenance=frames[order[0]][0].provenance,
    )
