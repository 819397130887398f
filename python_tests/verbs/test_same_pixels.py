"""The same pixels get the same score, whatever kind of file they are stored in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from medad_fast import fit, predict
from medad_fast.artifacts.run import Run
from medad_fast.artifacts.scores import read_scores
from medad_fast.data import read
from medad_fast.data.formats.nifti import write_nifti
from python_tests.data.files import write_png, write_series
from python_tests.methods.small import SMALL

PATIENTS, SLICES, SIDE = 10, 3, 40
TINY = {**SMALL["autoencoder"], "image_size": 32, "epochs": 1}


def body(seed: int) -> NDArray[np.uint16]:
    """Slices ``(S, rows, columns)`` of a disc of noise on 0, up to 900."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    inside = rows**2 + columns**2 < (SIDE / 3) ** 2
    values = rng.integers(300, 900, (SLICES, SIDE, SIDE))
    return np.where(inside, values, 0).astype(np.uint16)


def write_patient(folder: Path, patient: int, modality: str) -> list[Path]:
    return write_series(
        folder / f"p{patient}",
        body(patient),
        Modality=modality,
        PatientID=f"p{patient}",
        SeriesInstanceUID=f"1.2.{patient + 1}",
        PixelSpacing=[2.0, 2.0],
        BitsStored=16,
    )


def fitted(folder: Path, modality: str, **preprocess: Any) -> Run:
    for patient in range(PATIENTS):
        write_patient(folder / "data", patient, modality)
    return fit(
        "autoencoder", folder / "data", folder / "run", max_steps=2, preprocess=preprocess, **TINY
    )


@pytest.fixture(scope="module")
def ct(tmp_path_factory) -> Run:
    return fitted(tmp_path_factory.mktemp("ct"), "CT")


@pytest.fixture(scope="module")
def mr(tmp_path_factory) -> Run:
    return fitted(tmp_path_factory.mktemp("mr"), "MR")


@pytest.fixture(scope="module")
def mr_fixed(tmp_path_factory) -> Run:
    return fitted(tmp_path_factory.mktemp("mr_fixed"), "MR", grey_window=(0.0, 900.0))


def three_kinds(folder: Path, modality: str) -> dict[str, Path]:
    """A patient as a DICOM series, as a NIfTI volume and as PNG slices."""
    files = write_patient(folder / "dicom", 99, modality)
    image = read(files)
    assert image.geometry is not None
    stored = np.ascontiguousarray(image.geometry.to_source(image.pixels))
    write_nifti(folder / "nifti/a.nii.gz", stored, image.geometry.affine)
    for place, pixels in enumerate(body(99)):
        write_png(folder / f"png/{place}.png", pixels)
    return {kind: folder / kind for kind in ("dicom", "nifti", "png")}


def scores(run: Run | Path, data: Path, out: Path) -> NDArray[np.float64]:
    predict(run, data, out)
    return np.array([row.anomaly_score for row in read_scores(out / "scores.csv")])


@pytest.mark.parametrize(("name", "kinds"), [("ct", 3), ("mr_fixed", 3), ("mr", 2)])
def test_dicom_nifti_and_png_score_alike(name, kinds, tmp_path, request):
    run = request.getfixturevalue(name)
    modality = "CT" if name == "ct" else "MR"
    found = [
        scores(run, data, tmp_path / "out" / kind)
        for kind, data in list(three_kinds(tmp_path, modality).items())[:kinds]
    ]
    assert len(found[0]) == SLICES
    assert np.ptp(found[0]) > 1e-4
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=0, atol=1e-6)


def rewritten(files: list[Path], folder: Path, syntax: str) -> None:
    """The same series in another lossless transfer syntax."""
    folder.mkdir(parents=True)
    for path in files:
        dataset = pydicom.dcmread(path)
        if syntax in (RLELossless, JPEGLSLossless):
            dataset.compress(syntax)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(
            folder / path.name,
            implicit_vr=syntax == ImplicitVRLittleEndian,
            little_endian=True,
            enforce_file_format=True,
        )


SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg_ls": JPEGLSLossless,
}


def test_a_series_that_is_written_again_scores_the_same_bit_for_bit(ct, tmp_path):
    files = write_patient(tmp_path / "first", 99, "CT")
    first = scores(ct, tmp_path / "first", tmp_path / "out")
    again = tmp_path / "again"
    for name, syntax in SYNTAXES.items():
        rewritten(files, again / name, syntax)
    for number, path in enumerate(sorted(again.rglob("*.dcm"))):
        # Else they would be four copies of one series.
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID = f"1.2.{number // SLICES}.9"
        dataset.save_as(path)
    code = "import sys; from medad_fast.cli.main import main; sys.exit(main())"
    flags = ["--run", str(ct.path), "--data", str(again), "--out", str(tmp_path / "second")]
    subprocess.run([sys.executable, "-c", code, "predict", *flags], check=True)
    second = read_scores(tmp_path / "second/scores.csv")
    assert len(second) == SLICES * len(SYNTAXES)
    for name in SYNTAXES:
        mine = [row.anomaly_score for row in second if row.path.startswith(f"{name}/")]
        assert mine == first.tolist()
