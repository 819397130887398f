"""The doctor: one planted fault at a time, and none in a clean data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medad_fast.doctor import Finding, check_data, check_installation
from medad_fast.errors import InputError


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


def test_an_unreadable_file_is_named(data: Path) -> None:
    (data / "train/normal/sub-3.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (found,) = wrong(data)
    assert "sub-3.png" in found.text


def test_identical_pixels_in_two_splits_are_named(data: Path) -> None:
    draw(data / "test/normal/sub-60.png", 5)
    (found,) = wrong(data)
    assert "sub-60.png" in found.text
    assert "sub-5.png" in found.text


def test_a_patient_in_two_splits_is_found(data: Path) -> None:
    draw(data / "test/normal/sub-4_again.png", 70)
    (found,) = wrong(data)
    assert "same patient" in found.text


def test_too_few_normal_images_are_found(data: Path) -> None:
    for number in range(6):
        (data / f"train/normal/sub-{number}.png").unlink()
    (found,) = wrong(data)
    assert found.text.startswith("6 normal images")


def test_a_test_set_of_one_class_is_found(data: Path) -> None:
    (data / "test/abnormal/sub-50.png").unlink()
    (found,) = wrong(data)
    assert "no abnormal test images" in found.text


def test_one_inverted_image_among_many_is_found(data: Path) -> None:
    draw(data / "train/normal/sub-2.png", 2, inverted=True)
    (found,) = wrong(data)
    assert found.check == "polarity"
    assert "sub-2.png" in found.text


def test_another_size_is_worth_a_note(data: Path) -> None:
    draw(data / "train/normal/sub-2.png", 2, size=40)
    notes = [finding for finding in check_data(data) if finding.state == "note"]
    assert any(note.check == "size" and "sub-2.png" in note.text for note in notes)


def test_colour_among_grey_is_found(data: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    pixels[:4] = pixels[-4:] = 0
    Image.fromarray(pixels).save(data / "train/normal/sub-2.png")
    assert [finding.check for finding in wrong(data)] == ["colour"]


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        check_data(tmp_path / "nowhere")


def test_the_installation_that_runs_these_tests_is_sound() -> None:
    findings = check_installation()
    assert [finding for finding in findings if finding.state == "wrong"] == []
    assert {"torch", "CPU kernels", "DICOM decoders", "disk"} <= {f.check for f in findings}
