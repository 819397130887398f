"""Evaluating and comparing never go back to the dataset: gone or not, every figure is the same."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from medad_fast import compare, evaluate, predict
from medad_fast.cli.main import main
from medad_fast.data.formats.nifti import write_nifti
from python_tests.data.files import write_dicom, write_png, write_series
from python_tests.report.html import Page
from python_tests.verbs.predict.brightness import AFFINE, Brightness, anatomy, make_run

Truth = dict[str, np.ndarray]
"""By map the mask of its file, in the order in which the map is stored."""


def picture(seed: int, ill: bool) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels ``(20, 24)`` uint8, and the mask of a lesion that is not quite what is bright."""
    generator = np.random.default_rng(seed)
    pixels, mask = generator.integers(40, 90, (20, 24)), np.zeros((20, 24), dtype=np.uint8)
    if ill:
        row, column = generator.integers(2, 12, 2)
        mask[row : row + 5, column : column + 4] = 1
        pixels[row + 1 : row + 6, column : column + 4] += 60
    return pixels.astype(np.uint8), mask


def png(root: Path) -> Truth:
    truth: Truth = {}
    rows = [["path", "label", "split", "patient", "mask", "sex", "age"]]
    for number in range(16):
        pixels, mask = picture(number, number % 2 == 1)
        write_png(root / f"img/{number}.png", pixels)
        name = f"truth/{number}.png" if number % 2 else ""
        if name:
            write_png(root / name, 255 * mask)
        truth[f"maps/img/{number}.png.npy"] = mask
        label = ("normal", "abnormal")[number % 2]
        sex, age = "FM"[number // 4 % 2], str(30 + 5 * (number // 2))
        rows.append([f"img/{number}.png", label, "test", f"p{number // 2}", name, sex, age])
    with (root / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return truth


def nifti(root: Path) -> Truth:
    truth: Truth = {}
    for number in range(6):
        ill, volume = number >= 3, anatomy(number)
        mask = np.zeros(volume.shape, dtype=np.uint8)
        name = f"test/{('normal', 'abnormal')[ill]}/sub-{number}.nii.gz"
        if ill:
            mask[6:10, 9:14, 1:3] = 1
            volume[7:11, 9:14, 1:3] += 150
            turned = nibabel.Nifti1Image(mask, AFFINE).as_reoriented([[2, -1], [0, 1], [1, -1]])
            (root / "test/masks").mkdir(parents=True, exist_ok=True)
            nibabel.save(turned, root / f"test/masks/sub-{number}.nii.gz")
        write_nifti(root / name, volume, AFFINE)
        truth[f"maps/{name}"] = mask
    return truth


def dicom(root: Path) -> Truth:
    """Slices without a place, slices that lie head over heels, and series."""
    truth: Truth = {}
    feet = {"ImageOrientationPatient": [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0], "PixelSpacing": [2.0, 1.0]}
    feet["ImagePositionPatient"] = [40.0, 40.0, 3.0]
    for number in range(12):
        ill = number % 2 == 1
        part = root / "test" / ("normal", "abnormal")[ill]
        tags = {"Modality": "MR", "PatientID": f"P{number}", "SeriesInstanceUID": f"1.2.{number}"}
        layers = [picture(10 * number + k, ill) for k in range(3)]
        pixels = np.stack([layer for layer, _ in layers]).astype(np.uint16) * 16
        mask = np.stack([layer for _, layer in layers])
        if number < 8:
            placed = feet if number >= 4 else {}
            write_dicom(part / f"{number}.dcm", pixels[0], BitsStored=12, **tags, **placed)
            name = f"maps/test/{part.name}/{number}.dcm"
            truth[f"{name}.nii.gz" if placed else f"{name}.npy"] = mask[0].T if placed else mask[0]
            if ill:
                write_png(root / f"test/masks/{number}.png", 255 * mask[0])
        else:
            write_series(part / f"s{number}", pixels, BitsStored=12, **tags)
            truth[f"maps/test/{part.name}/s{number}/003.dcm.nii.gz"] = mask.T
            if ill:
                # 1 x 2 x 3 mm from the origin, to the left and to the back as DICOM counts.
                affine = np.diag([-1.0, -2.0, 3.0, 1.0])
                write_nifti(root / f"test/masks/s{number}.nii.gz", mask.T, affine)
    return truth


def read_map(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    return np.asanyarray(nibabel.load(path).dataobj).squeeze()


@pytest.mark.filterwarnings("ignore:.*treated as CT")
@pytest.mark.parametrize("kind", [png, nifti, dicom])
def test_the_same_metrics_without_the_data_set(
    kind: Callable[[Path], Truth], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = kind(tmp_path / "data")
    run = make_run(Brightness())
    for name, target in (("a", 0.05), ("b", 0.3)):
        counts = predict(run, tmp_path / "data", tmp_path / name, target_fpr=target)["counts"]
        assert (counts["files"], counts["failed_files"]) == (len(truth), 0)
    metrics = evaluate(tmp_path / "a", resamples=20)
    maps = [read_map(tmp_path / "a" / name) for name in truth]
    assert [each.shape for each in maps] == [each.shape for each in truth.values()]
    expected = average_precision_score(
        np.concatenate([each.ravel() for each in truth.values()]),
        np.concatenate([each.ravel() for each in maps]),
    )
    assert metrics["pixel"]["average_precision"]["value"] == pytest.approx(expected, abs=1e-12)
    assert set(metrics["subgroups"]["columns"]) == ({"sex", "age"} if kind is png else set())
    before = {
        name: (tmp_path / "a" / name).read_bytes()
        for name in ("metrics.json", "volumes.csv", "patients.csv")
    }
    differences = compare(tmp_path / "a", tmp_path / "b", resamples=20)
    assert differences["pixel"]["aupro"]["a"] is not None

    shutil.rmtree(tmp_path / "data")
    assert main(["evaluate", str(tmp_path / "a"), "--resamples", "20"]) == 0
    for name, content in before.items():
        assert (tmp_path / "a" / name).read_bytes() == content
    assert compare(tmp_path / "a", tmp_path / "b", resamples=20) == differences
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "no image of" in said.err
    assert "--data" in said.err
    assert not Page(tmp_path / "a").pictures
    assert "No pictures:" in Page(tmp_path / "a").words
