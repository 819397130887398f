"""Small files of each kind, written the way scanners and other software write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage


def dicom_dataset(pixels: NDArray[Any], **tags: Any) -> FileDataset:
    """A single-frame dataset; tags of ``None`` are left out."""
    signed = pixels.dtype.kind == "i"
    colour = pixels.ndim == 3
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = tags.pop("TransferSyntaxUID", ExplicitVRLittleEndian)
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    values: dict[str, Any] = {
        "SOPClassUID": SecondaryCaptureImageStorage,
        "SOPInstanceUID": "1.2.3",
        "Modality": "MR",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 3 if colour else 1,
        "PlanarConfiguration": 0 if colour else None,
        "BitsAllocated": 8 * pixels.itemsize,
        "BitsStored": 8 * pixels.itemsize,
        "HighBit": (tags.get("BitsStored") or 8 * pixels.itemsize) - 1,
        "PixelRepresentation": int(signed),
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "PixelData": pixels.tobytes() + b"\0" * (pixels.nbytes % 2),
    } | tags
    for tag, value in values.items():
        if value is not None:
            setattr(dataset, tag, value)
    return dataset


def write_dicom(path: Path, pixels: NDArray[Any], **tags: Any) -> Path:
    """Write a single-frame DICOM file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dicom_dataset(pixels, **tags), enforce_file_format=True)
    return path


def write_series(folder: Path, volume: NDArray[Any], **tags: Any) -> list[Path]:
    """One axial slice per file, ``volume`` (S, rows, columns) from feet to head, 1 x 2 x 3 mm."""
    paths = []
    for k, pixels in enumerate(volume):
        place = {
            "SeriesInstanceUID": "1.2.3.4",
            "ImagePositionPatient": [0.0, 0.0, 3.0 * k],
            "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            "PixelSpacing": [2.0, 1.0],
        }
        # Names against the order of the slices: only the header tells it.
        path = folder / f"{len(volume) - k:03d}.dcm"
        paths.append(write_dicom(path, pixels, **(place | tags)))
    return paths


def write_png(path: Path, pixels: NDArray[Any]) -> Path:
    """Write an 8- or 16-bit PNG."""
    import PIL.Image

    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)
    return path


def grey_png(path: Path, value: int = 0) -> Path:
    """A 4 x 4 PNG that differs from others by ``value``."""
    return write_png(path, np.full((4, 4), value, np.uint8))
