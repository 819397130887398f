"""Fit, predict and evaluate on the command line: what each says, keeps and refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from medad_fast.cli.main import main
from medad_fast.data.formats.nifti import read_nifti, write_nifti
from python_tests.cli.command_line import METHOD, said


def chain_data(root: Path) -> Path:
    """The fewest small brains that can be fitted on."""
    from medad_fast.demo.brain import simulate_brain

    return simulate_brain(root, seed=1, train=8, validation=2, test=4, slices=2, size=48)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("chain")
    data = str(chain_data(root / "data"))
    small = ["--image-size=32", "--width=4", "--units=1", "--batch-size=4", "--max-steps=2"]
    assert main(["fit", *METHOD, "--data", data, "--out", str(root / "run"), *small]) == 0
    arguments = ["predict", "--run", str(root / "run"), "--data", data, "--out", str(root / "res")]
    assert main([*arguments, "--overlays"]) == 0
    return root


def test_the_chain_from_files_to_a_report(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = said(capsys, ["evaluate", str(chain / "res"), "--resamples", "10"])
    assert code == 0
    told = {line.partition(":")[0] for line in text.splitlines()}
    assert "Oracle, thresholds chosen on the test set itself" in told
    assert "At the thresholds from validation (target FPR 0.05)" in told
    assert (chain / "res/report.html").is_file()
    assert list((chain / "res/overlays").rglob("*.png"))


def test_a_damaged_file_is_reported_and_the_rest_is_scored(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = sorted((chain / "data/test").rglob("normal/*.nii.gz"))[0]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/good.nii.gz").write_bytes(good.read_bytes())
    (tmp_path / "in/bad.nii.gz").write_bytes(good.read_bytes()[:200])
    out = tmp_path / "out"
    arguments = ["--run", str(chain / "run"), "--data", str(tmp_path / "in"), "--out", str(out)]
    code, text, err = said(capsys, ["predict", *arguments])
    assert code == 3
    assert "errors.jsonl" in err
    assert "1 of 2 files" in text
    assert "bad.nii.gz" in (out / "errors.jsonl").read_text()
    code, _, err = said(capsys, ["predict", *arguments, "--strict"])
    assert code == 2
    assert "bad.nii.gz" in err


def test_an_empty_folder_and_a_patient_in_two_splits_are_refused(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = said(
        capsys, ["fit", *METHOD, "--data", str(tmp_path / "empty"), "--out", str(tmp_path / "r")]
    )
    assert code == 2
    assert "empty" in err
    volume, affine = read_nifti(sorted((chain / "data").rglob("*.nii.gz"))[0])
    for place in ("train/normal", "test/normal"):
        write_nifti(tmp_path / "two" / place / f"sub-7_{place[:4]}.nii.gz", volume, affine)
    code, _, err = said(
        capsys, ["fit", *METHOD, "--data", str(tmp_path / "two"), "--out", str(tmp_path / "r")]
    )
    assert code == 2
    assert "same patient" in err
    assert err.count("\n") == 1


def test_a_second_fit_does_not_overwrite_the_first(
    chain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["fit", *METHOD, "--data", str(chain / "data"), "--out", str(chain / "run")]
    code, _, err = said(capsys, line)
    assert code == 2
    assert "already holds a finished run" in err


def test_fit_tells_time_and_memory_and_the_least_normal_training_images(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--image-size=32", "--width=4", "--units=1", "--batch-size=4", "--max-steps=12"]
    line = ["fit", *METHOD, "--data", str(chain / "data"), "--out", str(tmp_path / "run"), *small]
    code, out, err = said(capsys, line)
    assert code == 0
    assert re.search(
        r"stage 1 \(reconstruct\): about \d+ s for the other 2 steps, peak memory", err
    )
    told = out[out.index("Most anomalous of the") :]
    kept = json.loads((tmp_path / "run/training_outliers.json").read_text())["most_anomalous"]
    assert len(kept) >= 1
    assert all(each["path"] in told for each in kept)
    assert str(chain) not in told.split("Run: ")[0]


def test_a_recipe_of_one_method_needs_no_name_and_shows_what_to_compare_with(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.yaml"
    figure = "{method: autoencoder, of: its error, source: Table 1, known: printed, auroc: 0.7}"
    fields = "{image_size: 32, width: 4, units: 1, epochs: 1}"
    recipe.write_text(f"methods: {{autoencoder: {fields}}}\npublished: [{figure}]\n")
    data, run, results = str(chain / "data"), str(tmp_path / "run"), str(tmp_path / "res")
    line = ["fit", "--config", str(recipe), "--data", data, "--out", run, "--batch-size=8"]
    assert said(capsys, line)[0] == 0
    assert said(capsys, ["predict", "--run", run, "--data", data, "--out", results])[0] == 0
    code, out, _ = said(capsys, ["evaluate", results, "--resamples", "5"])
    assert code == 0
    assert "Published, recipe mine" in out
    assert "Published: its error: Table 1 (printed)" in out
    assert "departs from the recipe in: batch_size" in out
    code, _, err = said(capsys, ["fit", "--data", data, "--out", run])
    assert (code, "--method" in err) == (2, True)
