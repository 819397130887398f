"""DICOM sources of each kind that results are written for, with all identifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from python_tests.data.files import dicom_dataset

STUDY, SERIES, FRAME_OF_REFERENCE = "1.2.826.1", "1.2.826.2", "1.2.826.3"
MR, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
CT, CR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.1"
US_FRAMES = "1.2.840.10008.5.1.4.1.1.3.1"
TURNED = [0.8, 0.6, 0.0, -0.6, 0.8, 0.0]
"""Rows and columns of a stack that is turned by 37 degrees."""


def grey(*shape: int, seed: int = 0, bits: int = 12) -> NDArray[np.uint16]:
    """A bright box of noise in the dark, unlike its own mirror images."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros(shape, np.uint16)
    rows, columns = shape[-2:]
    inside = (..., slice(rows // 8, rows - rows // 4), slice(columns // 6, columns - columns // 8))
    pixels[inside] = rng.integers(2 ** (bits - 1), 2**bits, pixels[inside].shape)
    return pixels


def write_source(path: Path, pixels: NDArray[Any], uid: str, **tags: Any) -> Path:
    """One file; ``tags`` as for :func:`dicom_dataset`, compressed where ``compress`` is true."""
    compress = tags.pop("compress", False)
    dataset = dicom_dataset(
        pixels,
        **{
            "SOPInstanceUID": uid,
            "StudyInstanceUID": STUDY,
            "SeriesInstanceUID": SERIES,
            "PatientName": "Doe^Jane",
            "PatientID": "17",
            "PatientBirthDate": "19700101",
            "PatientSex": "F",
            "StudyDate": "20250102",
            "StudyTime": "101112",
            "StudyID": "5",
            "AccessionNumber": "77",
            "ReferringPhysicianName": "Roe^Richard",
        }
        | tags,
    )
    dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    if compress:
        dataset.compress(RLELossless, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def series(folder: Path, cosines: list[float] | None = None, **tags: Any) -> list[Path]:
    """Five files of one stack, named against their order; 3 mm apart, pixels of 2 x 1.5 mm."""
    turn = cosines or [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    normal = np.cross(turn[:3], turn[3:])
    volume = grey(5, 48, 40)
    return [
        write_source(
            folder / f"{9 - k}.dcm",
            pixels,
            f"1.2.826.4.{k}",
            **{
                "SOPClassUID": MR,
                "FrameOfReferenceUID": FRAME_OF_REFERENCE,
                "ImagePositionPatient": np.round(
                    np.array([-30.5, 12.25, 7.0]) + 3 * k * normal, 6
                ).tolist(),
                "ImageOrientationPatient": turn,
                "PixelSpacing": [2.0, 1.5],
                "SliceThickness": 3.0,
                "BitsStored": 12,
            }
            | tags,
        )
        for k, pixels in enumerate(volume)
    ]


def enhanced(path: Path, **tags: Any) -> Path:
    """One file of five frames, in another order than they lie."""
    order = [2, 0, 4, 1, 3]
    shared, frames = Dataset(), []
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [2.0, 1.5], 3.0
    orientation.ImageOrientationPatient = [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    for k in order:
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = [10.0 + 3.0 * k, -20.0, 40.0]
        group.PlanePositionSequence = [position]
        frames.append(group)
    volume = grey(5, 48, 40)
    return write_source(
        path,
        volume[order].reshape(-1, 40),
        "1.2.826.5.1",
        **{
            "SOPClassUID": ENHANCED_MR,
            "FrameOfReferenceUID": FRAME_OF_REFERENCE,
            "Rows": 48,
            "NumberOfFrames": 5,
            "SharedFunctionalGroupsSequence": [shared],
            "PerFrameFunctionalGroupsSequence": frames,
            "BitsStored": 12,
        }
        | tags,
    )


def radiograph(path: Path, **tags: Any) -> Path:
    """A CR image: a spacing on the detector, and no frame of reference."""
    return write_source(
        path,
        grey(60, 44),
        "1.2.826.6.1",
        **{
            "SOPClassUID": CR,
            "Modality": "CR",
            "ImagerPixelSpacing": [0.2, 0.25],
            "PatientOrientation": ["L", "F"],
            "BitsStored": 12,
        }
        | tags,
    )


def film(path: Path, **tags: Any) -> Path:
    """Three frames of ultrasound in colour, which lie nowhere."""
    rgb = np.repeat((grey(3, 40, 36, bits=8)).astype(np.uint8)[..., None], 3, axis=-1)
    return write_source(
        path,
        rgb.reshape(-1, 36, 3),
        "1.2.826.7.1",
        **{"SOPClassUID": US_FRAMES, "Modality": "US", "Rows": 40, "NumberOfFrames": 3} | tags,
    )
