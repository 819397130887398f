"""No output, message, log or traceback names a patient: canaries in every place that might."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from medad_fast.cli.main import main
from medad_fast.data import read
from medad_fast.errors import MedadError
from python_tests.cli.canaries import (
    CANARIES,
    DEMANDED,
    canary_dicom,
    canary_jpeg,
    canary_nifti,
    canary_png,
    found_in,
    swapped,
)

TINY = ["--image-size", "32", "--width", "4", "--max-steps", "1"]

ABOVE = {"predict.json": {"folder above the data"}}
"""Where the dataset lies, seen from the results, must be told somewhere to judge its masks."""


def planted_data(root: Path) -> Path:
    """A manifest of good and bad files of every kind, each with canaries."""
    rows = []

    def add(path: Path, label: str, split: str, patient: str = "") -> None:
        rows.append(f"{path.relative_to(root)},{label},{split},{patient},{column}")

    column = CANARIES["manifest column"]
    for number in range(12):
        split = "train" if number < 8 else "validation" if number < 10 else "test"
        add(canary_dicom(root / f"d/{number}.dcm", number), "normal", split)
    named = CANARIES["manifest patient"]
    add(canary_nifti(root / "n/20.nii.gz", 20), "normal", "test", named)
    add(canary_png(root / "p/30.png", 30), "normal", "test", f"{named}b")
    add(canary_jpeg(root / "p/31.jpg", 31), "abnormal", "test", f"{named}c")
    add(canary_dicom(root / "d/40.dcm", 40), "abnormal", "test")
    for path in bad_files(root / "bad"):
        add(path, "normal", "test", f"{named}{path.stem}")
    text = "path,label,split,patient,comment\n" + "\n".join(rows) + "\n"
    (root / "manifest.csv").write_text(text, encoding="utf-8")
    return root


def bad_files(folder: Path) -> Iterator[Path]:
    """Files that readers stumble over, most of them over a canary itself."""
    for number, (old, name) in enumerate(
        (
            (b"1.25000000", "PatientName"),  # a slope that is no number
            (b"MONOCHROME2", "PatientID"),
            (b"SMOOTHER01", "StudyID"),
        ),
        start=50,
    ):
        path = canary_dicom(
            folder / f"{number}.dcm", number, RescaleSlope="1.25000000", RescaleIntercept="0"
        )
        if old == b"SMOOTHER01":
            data = path.read_bytes()
            path.write_bytes(data[: len(data) - 900])
        else:
            swapped(path, old, name)
        yield path
    yield canary_dicom(folder / "53.dcm", 53, Rows=None)
    path = canary_dicom(folder / "54.dcm", 54)
    yield swapped(path, b"1.2.840.10008.1.2.1\0", "AccessionNumber")
    for path in (
        canary_png(folder / "55.png", 55),
        canary_nifti(folder / "56.nii.gz", 56),
        canary_jpeg(folder / "57.jpg", 57),
    ):
        path.write_bytes(path.read_bytes()[:-300])
        yield path
    path = canary_png(folder / "58.png", 58)
    at = path.read_bytes().index(b"zTXt") + 12
    data = bytearray(path.read_bytes())
    data[at] ^= 255
    path.write_bytes(bytes(data))
    yield path


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("identity")


@pytest.fixture(scope="module")
def commands(place) -> tuple[str, Path]:
    """Everything that all verbs say and log, and the folder with all that they wrote."""
    out = place / "out"
    data = planted_data(place / CANARIES["folder above the data"] / "data")
    said = _run_all(data, out)
    return said, out


def _run_all(data: Path, out: Path) -> str:
    import contextlib
    import io

    said = io.StringIO()
    handler = logging.StreamHandler(said)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    run = str(out / "run")
    common = ["--run", run, "--data", str(data), "--device", "cpu"]
    try:
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setenv("MEDAD_TRACEBACK", "1")
            fit = ["fit", "--method", "autoencoder", "--data", str(data), "--out", run]
            assert main([*fit, "--device", "cpu", *TINY]) == 0
            for name in ("a", "b"):
                assert main(["predict", *common, "--out", str(out / name), "--overlays"]) == 3
                assert main(["evaluate", str(out / name), "--resamples", "5"]) == 0
            compare = ["compare", str(out / "a"), str(out / "b"), "--resamples", "5"]
            assert main([*compare, "--out", str(out / "compared.json")]) == 0
            assert main(["predict", *common, "--out", str(out / "dicom"), "--dicom-out"]) == 3
            assert main(["predict", *common, "--out", str(out / "strict"), "--strict"]) == 2
            assert main(["doctor", str(data)]) == 2
            for path in sorted((data / "bad").iterdir()):
                main(["predict", *common[:2], "--data", str(path), "--out", str(out / "one")])
            broken = data / "broken.csv"
            broken.write_text((data / "manifest.csv").read_text().partition("\n")[2])
            assert main(["fit", *fit[1:4], str(broken), "--out", str(out / "no")]) == 2
            shifted = "path,label,split\n" + f"d/0.dcm,{CANARIES['manifest patient']},train\n"
            broken.write_text(shifted)
            assert main(["fit", *fit[1:4], str(broken), "--out", str(out / "no")]) == 2
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    # The folder was named on the command line: a message may repeat it.
    return said.getvalue().replace(str(data), "DATA")


def test_there_are_more_than_32_canaries_and_no_two_alike():
    words = {word.lower() for word in CANARIES.values()}
    assert len(words) == len(CANARIES) >= 32
    assert all(found_in("", word.encode()) == {name} for name, word in CANARIES.items())


def test_nothing_said_or_logged_names_a_patient(commands):
    said, _ = commands
    assert "cannot be" in said
    assert "Traceback" in said
    assert found_in("", said.encode("utf-8", "surrogateescape")) == set()


def test_no_file_written_names_a_patient(commands):
    _, out = commands
    files = [path for path in out.rglob("*") if path.is_file()]
    suffixes = {path.suffix for path in files}
    assert {".csv", ".json", ".html", ".gz", ".npy", ".png", ".safetensors", ".jsonl"} <= suffixes
    for path in files:
        if out / "dicom/dicom" in path.parents:
            continue
        found = found_in(path.relative_to(out).as_posix(), path.read_bytes())
        assert found <= ABOVE.get(path.name, set()), path


def test_dicom_results_carry_what_the_standard_demands_and_nothing_more(commands):
    _, out = commands
    files = [path for path in (out / "dicom/dicom").rglob("*.dcm") if path.is_file()]
    assert len(files) >= 6
    for path in files:
        assert found_in("", path.read_bytes()) == set(DEMANDED), path


@pytest.mark.parametrize("kind", ["50", "51", "52", "53", "54", "55", "56", "57", "58"])
def test_no_exception_or_its_causes_quote_a_file(kind, commands, place):
    (path,) = place.rglob(f"bad/{kind}.*")
    try:
        read(path)
    except MedadError as error:
        told = "".join(traceback.format_exception(error)).replace(str(path.parent), "")
        assert found_in("", told.encode()) == set()


def test_keep_ids_is_the_switch_that_writes_them(commands, place, capsys):
    _, out = commands
    (data,) = place.rglob("data")
    words = ["--run", str(out / "run"), "--data", str(data), "--device", "cpu", "--keep-ids"]
    assert main(["predict", *words, "--out", str(place / "kept")]) == 3
    kept = {"PatientID", "manifest patient"}
    assert found_in("", (place / "kept/scores.csv").read_bytes()) == kept
    for path in (place / "kept").rglob("*"):
        if path.is_file() and path.name != "scores.csv":
            assert found_in("", path.read_bytes()) <= ABOVE.get(path.name, set()), path
