"""The doctor: one planted fault at a time, and none in a clean dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medad_fast.cli.main import main
from medad_fast.data.formats.nifti import write_nifti
from medad_fast.demo.brain import simulate_brain
from medad_fast.doctor import Finding, check_data, check_installation
from medad_fast.errors import InputError
from python_tests.data.files import write_series


def draw(path: Path, seed: int, *, size: int = 32, inverted: bool = False) -> None:
    generator = np.random.default_rng(seed)
    pixels = np.zeros((size, size), dtype=np.uint8)
    pixels[6:-6, 6:-6] = generator.integers(90, 160, (size - 12, size - 12))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(255 - pixels if inverted else pixels).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in range(12):
        draw(tmp_path / f"train/normal/sub-{number}.png", number)
    draw(tmp_path / "validation/normal/sub-30.png", 30)
    draw(tmp_path / "test/normal/sub-40.png", 40)
    draw(tmp_path / "test/abnormal/sub-50.png", 50)
    return tmp_path


def wrong(data: Path) -> list[Finding]:
    return [finding for finding in check_data(data) if finding.state == "wrong"]


def test_a_clean_data_set_has_nothing_wrong(data: Path) -> None:
    assert wrong(data) == []


def redraw(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change a picture in place."""
    Image.fromarray(change(np.asarray(Image.open(path)).copy())).save(path)


def marked(pixels: np.ndarray) -> np.ndarray:
    """With a letter L in a corner."""
    pixels[1:5, 1:3] = pixels[4:6, 1:5] = 255
    return pixels


def plant_unreadable(data: Path) -> None:
    (data / "train/normal/sub-3.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")


def plant_inverted(data: Path) -> None:
    draw(data / "train/normal/sub-2.png", 2, inverted=True)


def plant_half_inverted(data: Path) -> None:
    for number in range(7):
        draw(data / f"train/normal/sub-{number}.png", number, inverted=True)


def plant_bit_depth(data: Path) -> None:
    redraw(data / "train/normal/sub-2.png", lambda pixels: pixels.astype(np.uint16) * 257)


def plant_size(data: Path) -> None:
    draw(data / "train/normal/sub-2.png", 2, size=64)


def plant_duplicate_in_two_splits(data: Path) -> None:
    draw(data / "test/normal/sub-60.png", 5)


def plant_duplicate_of_two_patients(data: Path) -> None:
    draw(data / "train/normal/sub-60.png", 5)


def plant_mark(data: Path) -> None:
    redraw(data / "test/abnormal/sub-50.png", marked)


def plant_patient_in_two_splits(data: Path) -> None:
    draw(data / "test/normal/sub-4_again.png", 70)


def plant_shortcut(data: Path) -> None:
    for number in range(12):
        draw(data / f"test/normal/sub-{100 + number}.png", 100 + number)
        path = data / f"test/abnormal/sub-{200 + number}.png"
        draw(path, 200 + number)
        redraw(path, lambda pixels: np.where(pixels > 0, pixels // 2 + 20, 0).astype(np.uint8))


def plant_colour(data: Path) -> None:
    redraw(
        data / "train/normal/sub-2.png", lambda pixels: np.stack([pixels, pixels // 2, pixels], 2)
    )


def plant_blank(data: Path) -> None:
    redraw(data / "test/normal/sub-40.png", lambda pixels: 0 * pixels)


def plant_empty_mask(data: Path) -> None:
    draw(data / "test/masks/sub-50.png", 0)
    redraw(data / "test/masks/sub-50.png", lambda pixels: 0 * pixels)


def plant_small_mask(data: Path) -> None:
    draw(data / "test/masks/sub-50.png", 0, size=20)


def plant_one_class(data: Path) -> None:
    (data / "test/abnormal/sub-50.png").unlink()


PLANTED: dict[Callable[[Path], None], tuple[str, str]] = {
    plant_unreadable: ("readable files", "sub-3.png"),
    plant_inverted: ("polarity", "sub-2.png"),
    plant_half_inverted: ("polarity", "7 of 15 images look like negatives"),
    plant_bit_depth: ("bit depth", "8 in 14, 16 in 1; for example train/normal/sub-2.png"),
    plant_size: ("size", "sub-2.png"),
    plant_duplicate_in_two_splits: ("identical pixels in two splits", "sub-60.png"),
    plant_duplicate_of_two_patients: ("identical pixels of two patients", "sub-60.png"),
    plant_mark: ("burned-in marks", "1 of 15 images; for example test/abnormal/sub-50.png"),
    plant_patient_in_two_splits: ("dataset", "same patient"),
    plant_shortcut: ("shortcuts", "normal from abnormal test images"),
    plant_colour: ("colour", "sub-2.png"),
    plant_blank: ("pixels", "one grey level only; for example test/normal/sub-40.png"),
    plant_empty_mask: ("pixels", "mask is empty; for example test/abnormal/sub-50.png"),
    plant_small_mask: ("readable files", "sub-50.png"),
    plant_one_class: ("test classes", "no abnormal test images"),
}


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_fault_is_found_and_ends_in_an_exit_code(
    plant: Callable[[Path], None], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(data)
    check, text = PLANTED[plant]
    (found,) = wrong(data)
    assert found.check == check
    assert text in found.text
    assert main(["doctor", str(data)]) == 2
    assert " ".join(check.split()) in " ".join(capsys.readouterr().out.split())


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """Ten patients with a DICOM series each."""
    for number in range(10):
        write_one_series(tmp_path, number)
    return tmp_path


def write_one_series(root: Path, number: int, **tags: Any) -> list[Path]:
    volume = np.zeros((3, 32, 32), np.uint16)
    inside = np.random.default_rng(number).integers(300, 900, (3, 20, 20))
    volume[:, 6:-6, 6:-6] = inside
    told = {"PatientID": f"p{number}", "SeriesInstanceUID": f"1.2.{number + 1}"} | tags
    split = "train/normal" if number < 9 else "test/normal"
    return write_series(root / f"{split}/{number}", volume, **told)


DICOM_FAULTS: dict[str, dict[str, Any]] = {
    "modality": {"Modality": "CT"},
    "pixel spacing (mm)": {"PixelSpacing": [4.0, 4.0]},
    "burned-in text": {"BurnedInAnnotation": "YES"},
}


@pytest.mark.parametrize("check", DICOM_FAULTS)
def test_a_fault_in_dicom_headers_is_found(check: str, series: Path) -> None:
    clean = {finding.check for finding in wrong(series)}
    assert clean == {"test classes"}
    write_one_series(series, 4, **DICOM_FAULTS[check])
    (found,) = [finding for finding in wrong(series) if finding.check not in clean]
    assert found.check == check
    assert "train/normal/4/" in found.text


def test_pixels_that_are_no_numbers_are_found(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).random((8, 8, 4)).astype(np.float32)
    volume[2, 3, 1] = np.nan
    write_nifti(tmp_path / "a.nii.gz", volume, np.eye(4))
    assert any("NaN" in finding.text for finding in wrong(tmp_path))


def test_many_unreadable_files_are_counted(data: Path) -> None:
    for number in range(12):
        (data / f"train/normal/sub-{number}.png").write_bytes(b"nothing")
    found = [finding.text for finding in wrong(data) if finding.check == "readable files"]
    assert len(found) == 11
    assert found[-1] == "2 further files cannot be read"


def test_marks_that_all_images_have_are_a_note(data: Path) -> None:
    for path in data.rglob("*.png"):
        redraw(path, marked)
    (found,) = [finding for finding in check_data(data) if finding.check == "burned-in marks"]
    assert found.state == "note"


def test_the_demo_data_set_has_nothing_wrong(tmp_path: Path) -> None:
    simulate_brain(tmp_path, train=8, validation=2, test=6)
    assert [f for f in check_data(tmp_path) if f.state == "wrong"] == []


def test_too_few_normal_images_are_found(data: Path) -> None:
    for number in range(6):
        (data / f"train/normal/sub-{number}.png").unlink()
    (found,) = wrong(data)
    assert found.text.startswith("6 normal images")


def test_another_size_is_worth_a_note(data: Path) -> None:
    draw(data / "train/normal/sub-2.png", 2, size=40)
    notes = [finding for finding in check_data(data) if finding.state == "note"]
    assert any(note.check == "size" and "sub-2.png" in note.text for note in notes)


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        check_data(tmp_path / "nowhere")


def test_the_installation_that_runs_these_tests_is_sound() -> None:
    findings = check_installation()
    assert [finding for finding in findings if finding.state == "wrong"] == []
    assert {"torch", "CPU kernels", "DICOM decoders", "disk"} <= {f.check for f in findings}
