"""Tiny data sets of every kind of file, the same bytes at every call.

Each kind has what the readers treat in ways of their own: pictures of 8 and 16 bits and in colour
and one that is damaged, listed by a manifest; volumes that are flipped, turned or sheared; CT
series with a rescale intercept and file names against the order of their slices.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from safetensors.numpy import save_file

HEIGHT, WIDTH, SLICES = 36, 44, 4
LESION = (slice(14, 22), slice(18, 26))
PARTS = (  # split, label, patients, of whom the unlabeled ones are half abnormal
    ("train", "normal", 12),
    ("train", "unlabeled", 6),
    ("validation", "normal", 5),
    ("test", "normal", 4),
    ("test", "abnormal", 4),
)


def write_dataset(kind: str, folder: Path) -> Path:
    """Write the data set of one kind into a new folder; returns what to give as ``--data``."""
    return KINDS[kind](folder, np.random.default_rng(list(KINDS).index(kind)))


def _slices(
    rng: np.random.Generator, count: int, abnormal: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Slices of one subject, ``(count, HEIGHT, WIDTH)`` in [0, 1], and the masks of its lesions.

    A bright disc on black with two dark lungs in it, smaller from slice to slice. A lesion of an
    abnormal subject lies between the lungs, in all slices but the last.
    """
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    centre = rng.normal((HEIGHT / 2, WIDTH / 2), 2.0)
    distance = np.hypot(rows - centre[0], columns - centre[1])
    level, texture = rng.uniform(0.5, 0.7), rng.normal(0, 0.04, (count, HEIGHT, WIDTH))
    radius = rng.uniform(11, 14) - np.arange(count)[:, None, None]
    pixels = np.where(distance < radius, level + texture, 0.0)
    for side in (-1, 1):
        across = (columns - centre[1] - 6.5 * side) / 3
        pixels[:, np.hypot((rows - centre[0]) / 6, across) < 1] *= 0.4
    masks = np.zeros(pixels.shape, np.bool_)
    if abnormal:
        masks[(slice(0, max(1, count - 1)), *LESION)] = True
        pixels[masks] += rng.uniform(-0.4, 0.3, int(masks.sum()))
    return pixels.clip(0, 1), masks


def _is_abnormal(label: str, number: int) -> bool:
    return label == "abnormal" or (label == "unlabeled" and number % 2 == 0)


def _write_png(folder: Path, rng: np.random.Generator) -> Path:
    """Two pictures a patient, a manifest with patients, masks and two columns of subgroups."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    table = [["path", "label", "split", "patient", "mask", "scanner", "sex"]]
    parts = (*PARTS, ("test", "unlabeled", 1))
    people = [(split, label, number) for split, label, many in parts for number in range(many)]
    for person, (split, label, number) in enumerate(people):
        pixels, masks = _slices(rng, 2, _is_abnormal(label, number))
        for place in range(2):
            name = f"{person:02d}-{place}.png"
            mask = ""
            if label == "abnormal":
                mask = f"masks/{name}"
                Image.fromarray((255 * masks[place]).astype(np.uint8)).save(folder / mask)
            Image.fromarray(_stored(pixels[place], person + place)).save(folder / "images" / name)
            groups = ["AB"[number % 2], "FM"[number // 2 % 2]]
            table.append([f"images/{name}", label, split, f"patient {person}", mask, *groups])
    whole = (folder / "images" / "00-0.png").read_bytes()
    (folder / "images" / "damaged.png").write_bytes(whole[: len(whole) // 2])
    table.append(["images/damaged.png", "normal", "test", "patient x", "", "A", "F"])
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(table)
    return folder / "manifest.csv"


def _stored(pixels: NDArray[np.float64], number: int) -> NDArray[np.generic]:
    """Every fourth picture has 16 bits, every seventh is in colour, the others have 8 bits."""
    if number % 4 == 3:
        return np.round(65535 * pixels).astype(np.uint16)
    grey = np.round(255 * pixels).astype(np.uint8)
    return np.stack([grey, grey // 2, 255 - grey], axis=2) if number % 7 == 6 else grey


AFFINES = (
    np.diag([1.5, 1.2, 3.0, 1.0]),
    np.array([[-1.5, 0, 0, 30.0], [0, 1.2, 0, -20.0], [0, 0, -3.0, 9.0], [0, 0, 0, 1]]),  # flipped
    np.array([[0, 1.2, 0, 0], [1.5, 0, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 1.0]]),  # turned
    np.array([[1.5, 0.3, 0, 4.0], [0, 1.2, 0.4, 0], [0, 0, 3.0, 0], [0, 0, 0, 1]]),  # sheared
)


def _write_nifti(folder: Path, rng: np.random.Generator) -> Path:
    """Folders of volumes, test subjects with two; the last slice is nearly empty."""
    person = 0
    for split, label, many in PARTS:
        for number in range(many):
            for visit in range(2 if split == "test" else 1):
                pixels, masks = _slices(rng, SLICES, _is_abnormal(label, number))
                pixels[-1] *= np.hypot(*np.mgrid[:HEIGHT, :WIDTH]) < 8
                affine = AFFINES[(person + visit) % len(AFFINES)]
                ending = ("nii", "nii.gz")[(person + visit) % 2]
                path = f"sub-{person:02d}/{visit}.{ending}"
                stored = np.round(4000 * pixels - 20).astype(np.int16)
                _save_nifti(folder / split / label / path, stored, affine)
                if label == "abnormal":
                    _save_nifti(folder / "test/masks" / path, masks.astype(np.uint8), affine)
            person += 1
    return folder


def _save_nifti(path: Path, slices: NDArray[np.generic], affine: NDArray[np.float64]) -> None:
    """Slices ``(S, H, W)`` as voxels ``(W, H, S)``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(slices.transpose(2, 1, 0), affine)  # type: ignore[no-untyped-call]
    data = image.to_bytes()
    # By default gzip stores the time of writing.
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


SPACING = (2.5, 1.5, 1.2)  # mm between slices, rows, columns
ORIGIN = (-20.5, -31.25, 7.0)


def _write_dicom(folder: Path, rng: np.random.Generator) -> Path:
    """Folders of CT series without a validation split; masks are NIfTI on the series' grid."""
    person = 0
    for split, label, many in PARTS:
        for number in range(many if split != "validation" else 0):
            pixels, masks = _slices(rng, SLICES, _is_abnormal(label, number))
            name = f"series{person:02d}"
            _save_series(folder / split / label / name, pixels, person)
            if label == "abnormal":
                between, down, across = SPACING
                x, y, z = ORIGIN
                # DICOM counts towards left and posterior, NIfTI towards right and anterior.
                affine = np.diag([-across, -down, between, 1.0])
                affine[:3, 3] = -x, -y, z
                path = folder / "test/masks" / f"{name}.nii.gz"
                _save_nifti(path, masks.astype(np.uint8), affine)
            person += 1
    return folder


def _save_series(folder: Path, slices: NDArray[np.float64], person: int) -> None:
    folder.mkdir(parents=True)
    between, down, across = SPACING
    for place, pixels in enumerate(slices):
        uid = f"1.2.826.0.1.{person + 1}.{place + 1}"
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = UID(uid)
        dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        tags: dict[str, object] = {
            "SOPClassUID": CTImageStorage,
            "SOPInstanceUID": uid,
            "StudyInstanceUID": f"1.2.826.0.2.{person + 1}",
            "SeriesInstanceUID": f"1.2.826.0.3.{person + 1}",
            "FrameOfReferenceUID": f"1.2.826.0.4.{person + 1}",
            "PatientID": f"patient {person}",
            "PatientName": "Doe^Jane",
            "StudyDate": "20250102",
            "StudyTime": "101112",
            "Modality": "CT",
            "Rows": HEIGHT,
            "Columns": WIDTH,
            "SamplesPerPixel": 1,
            "BitsAllocated": 16,
            "BitsStored": 12,
            "HighBit": 11,
            "PixelRepresentation": 0,
            "PhotometricInterpretation": "MONOCHROME2",
            "RescaleSlope": 1,
            "RescaleIntercept": -1024,
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "ImagePositionPatient": [ORIGIN[0], ORIGIN[1], ORIGIN[2] + between * place],
            "PixelSpacing": [down, across],
            "SliceThickness": between,
            # Air, then tissue around 300 Hounsfield units.
            "PixelData": np.round(2200 * pixels).astype(np.uint16).tobytes(),
        }
        for tag, value in tags.items():
            setattr(dataset, tag, value)
        path = folder / f"{len(slices) - place:03d}.dcm"  # against the order of the slices
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)


KINDS: dict[str, Callable[[Path, np.random.Generator], Path]] = {
    "png": _write_png,
    "nifti": _write_nifti,
    "dicom": _write_dicom,
}
"""What writes each kind of data set."""


def write_resnet(path: Path) -> None:
    """Write weights of a ResNet-18 by their customary names, drawn from a fixed seed."""
    rng = np.random.default_rng(18)
    tensors: dict[str, NDArray[np.float32]] = {}

    def convolution(name: str, outputs: int, inputs: int, side: int) -> None:
        scale = np.sqrt(2 / (inputs * side * side))
        drawn = scale * rng.standard_normal((outputs, inputs, side, side), np.float32)
        tensors[f"{name}.weight"] = drawn.astype(np.float32)

    def norm(name: str, channels: int) -> None:
        tensors[f"{name}.weight"] = rng.uniform(0.8, 1.2, channels).astype(np.float32)
        tensors[f"{name}.bias"] = rng.uniform(-0.1, 0.1, channels).astype(np.float32)
        tensors[f"{name}.running_mean"] = rng.uniform(-0.1, 0.1, channels).astype(np.float32)
        tensors[f"{name}.running_var"] = rng.uniform(0.8, 1.2, channels).astype(np.float32)

    convolution("conv1", 64, 3, 7)
    norm("bn1", 64)
    inputs = 64
    for stage, outputs in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            name = f"layer{stage}.{block}"
            convolution(f"{name}.conv1", outputs, inputs, 3)
            norm(f"{name}.bn1", outputs)
            convolution(f"{name}.conv2", outputs, outputs, 3)
            norm(f"{name}.bn2", outputs)
            if inputs != outputs:
                convolution(f"{name}.downsample.0", outputs, inputs, 1)
                norm(f"{name}.downsample.1", outputs)
            inputs = outputs
    save_file(tensors, path)
