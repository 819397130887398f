"""Files that cannot be scored: listed, and nothing else changes."""

from __future__ import annotations

import importlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medad_fast import predict
from medad_fast.artifacts.run import Run
from medad_fast.artifacts.scores import ScoreRow, read_scores
from medad_fast.data import load_dataset
from medad_fast.data.formats.nifti import write_nifti
from medad_fast.errors import InputError
from medad_fast.methods.base import Prediction
from python_tests.data.files import write_png
from python_tests.verbs.predict.brightness import AFFINE, SLICES, Brightness, anatomy, make_run


class Nameless(Brightness):
    """Its scores are no numbers."""

    def predict(self, images: Tensor) -> Prediction:
        return Prediction(*(part * torch.nan for part in super().predict(images)))


def rows_without_patient(path: Path) -> list[ScoreRow]:
    return [replace(row, patient="") for row in read_scores(path / "scores.csv")]


def errors_of(path: Path) -> list[dict[str, Any]]:
    lines = (path / "errors.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_a_bad_file_is_listed_and_changes_nothing_else(
    run: Run, dataset: Path, tmp_path: Path
) -> None:
    predict(run, dataset, tmp_path / "clean")
    (dataset / "test/normal/sub-bad.nii.gz").write_bytes(b"not a volume")
    about = predict(run, dataset, tmp_path / "out")
    assert about["counts"]["failed_files"] == 1
    assert [(line["file"], line["class"]) for line in errors_of(tmp_path / "out")] == [
        ("test/normal/sub-bad.nii.gz", "InputError")
    ]
    assert rows_without_patient(tmp_path / "out") == rows_without_patient(tmp_path / "clean")
    first, second = ((tmp_path / name / "baselines.csv").read_bytes() for name in ("out", "clean"))
    assert first == second
    assert errors_of(tmp_path / "clean") == []


def test_bad_files_among_a_thousand_are_listed_and_stop_nothing(run: Run, tmp_path: Path) -> None:
    pixels = anatomy(0)[:, :, 0].clip(0, 255).astype(np.uint8)
    whole = write_png(tmp_path / "whole.png", pixels).read_bytes()
    rng = np.random.default_rng(0)
    bad = set(rng.choice(1000, 100, replace=False).tolist())
    damage = (b"", b"not a picture", whole[:60], whole[:-30], b"\x89PNG\r\n\x1a\n" + bytes(99))
    for number in range(1000):
        path = tmp_path / f"in/{number // 100}/{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number in bad:
            path.write_bytes(damage[number % len(damage)])
        else:
            write_png(path, np.roll(pixels, number % 20, 0) + np.uint8(number % 7))
    # A link to nowhere and a pipe are no files of the dataset.
    (tmp_path / "in/gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "in/pipe.png")
    about = predict(run, str(tmp_path / "in/**/*.png"), tmp_path / "out")
    assert about["counts"] == {
        "files": 1000,
        "failed_files": 100,
        "empty_files": 0,
        "images": 900,
        "skipped_slices": 0,
    }
    listed = [line["file"] for line in errors_of(tmp_path / "out")]
    assert listed == [f"{number // 100}/{number:03d}.png" for number in sorted(bad)]
    for path in sorted((tmp_path / "in").glob("*/*.png")):
        if int(path.stem) in bad:
            path.unlink()
    predict(run, tmp_path / "in", tmp_path / "clean")
    assert rows_without_patient(tmp_path / "out") == rows_without_patient(tmp_path / "clean")


def test_strict_stops_at_the_first_bad_file(run: Run, dataset: Path, tmp_path: Path) -> None:
    (dataset / "test/normal/sub-SECRET1.nii.gz").write_bytes(b"not a volume")
    with pytest.raises(InputError, match="SECRET1"):
        predict(run, dataset, tmp_path / "out", strict=True)
    assert not (tmp_path / "out/scores.csv").exists()
    assert not (tmp_path / "out/predict.json").exists()


def test_a_mask_of_another_grid_is_a_bad_file(run: Run, dataset: Path, tmp_path: Path) -> None:
    small = np.ones((20, 24, SLICES - 1), dtype=np.uint8)
    write_nifti(dataset / "test/masks/sub-SECRET9.nii.gz", small, AFFINE)
    predict(run, dataset, tmp_path / "out")
    (error,) = errors_of(tmp_path / "out")
    assert error["file"] == "test/abnormal/sub-SECRET9.nii.gz"
    assert "mask" in error["reason"]


def test_nothing_to_score_is_an_error(run: Run, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no validation images"):
        predict(run, dataset, tmp_path / "out", split="validation")
    for path in (dataset / "test").rglob("*.nii.gz"):
        path.write_bytes(b"not a volume")
    with pytest.raises(InputError, match="of 3 files 3 cannot be used"):
        predict(run, dataset, tmp_path / "out")
    assert len(errors_of(tmp_path / "out")) == 3
    assert not list((tmp_path / "out").glob("scores*"))


def test_scores_that_are_no_numbers_never_reach_the_table(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 cannot be used"):
        predict(make_run(Nameless()), dataset, tmp_path / "out")
    assert "not finite" in errors_of(tmp_path / "out")[0]["reason"]


def test_a_case_whose_name_leads_elsewhere_is_a_bad_file(
    run: Run, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "../outside.nii.gz"
    found = load_dataset(dataset)
    changed = tuple(
        replace(case, name=name) if "SECRET0" in case.name else case for case in found.cases
    )
    module = importlib.import_module("medad_fast.verbs.predict")
    monkeypatch.setattr(module, "load_dataset", lambda data: replace(found, cases=changed))
    predict(run, dataset, tmp_path / "a/b/out")
    (error,) = errors_of(tmp_path / "a/b/out")
    assert error["file"] == name
    assert not list(tmp_path.rglob("outside*"))
