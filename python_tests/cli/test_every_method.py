"""Every method, from a folder of each kind of file to metrics, by the three verbs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

import medad_fast
from medad_fast.cli.main import main
from medad_fast.data.formats.nifti import write_nifti
from medad_fast.files import read_tensors
from medad_fast.methods import list_methods
from python_tests.data.files import write_dicom, write_png
from python_tests.methods.small import SLOW_LEARNERS, SMALL, discs

KINDS = ("png", "dicom", "nifti")
SIDE = 40
PARTS = {
    "train/normal": 32,
    "train/unlabeled": 16,
    "validation/normal": 4,
    "test/normal": 5,
    "test/abnormal": 5,
}
ABNORMAL = {"train/unlabeled": 8, "test/abnormal": 5}
LESION = slice(14, 26)


def pictures(part: str) -> NDArray[np.uint8]:
    """Discs ``(n, SIDE, SIDE)`` of one part of the dataset, abnormal ones with a check."""
    images = discs(PARTS[part], size=SIDE, seed=list(PARTS).index(part))
    if part in ABNORMAL:
        check = torch.tensor([[-1.0, 1.0], [1.0, -1.0]]).repeat_interleave(2, 0)
        images[: ABNORMAL[part], :, LESION, LESION] = check.repeat_interleave(2, 1).repeat(3, 3)
    return ((images[:, 0] + 1) * 127.5).round().byte().numpy()


def write_one(folder: Path, kind: str, number: int, pixels: NDArray[np.uint8]) -> None:
    if kind == "png":
        write_png(folder / f"{number}.png", pixels)
    elif kind == "dicom":
        # Slices without a place: each file is an image of its own.
        tags = {"Modality": "MR", "PatientID": f"{folder.name}{folder.parent.name}{number}"}
        write_dicom(folder / f"{number}.dcm", 16 * pixels.astype(np.uint16), **tags, BitsStored=12)
    else:
        volume = np.stack([pixels.T] * 2, axis=2).astype(np.int16)
        write_nifti(
            folder / f"sub-{folder.name}{folder.parent.name}{number}.nii.gz", volume, np.eye(4)
        )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("data")
    for kind in KINDS:
        for part in PARTS:
            for number, pixels in enumerate(pictures(part)):
                write_one(root / kind / part, kind, number, pixels)
    return {kind: root / kind for kind in KINDS}


def flags(name: str) -> list[str]:
    """The method's small settings as a user would type them."""
    words = []
    for field, value in {**SMALL[name], "image_size": 32}.items():
        flag = field.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            values = value if isinstance(value, (tuple, list)) else [value]
            words += [f"--{flag}={each}" for each in values]
    return words


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list_methods())
def test_fit_predict_and_evaluate_work(
    name: str, kind: str, data: dict[str, Path], tmp_path: Path
) -> None:
    source, run, results = str(data[kind]), tmp_path / "run", tmp_path / "results"
    line = ["fit", "--method", name, "--data", source, "--max-steps=12", "--device=cpu"]
    assert main([*line, "--out", str(run), *flags(name)]) == 0
    line = ["predict", "--data", source, "--device=cpu", "--run", str(run), "--out", str(results)]
    assert main(line) == 0
    assert main(["evaluate", str(results), "--resamples=5"]) == 0

    slices = 2 if kind == "nifti" else 1
    with (results / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10 * slices
    assert {row["label"] for row in rows} == {"normal", "abnormal"}
    assert len(list((results / "maps").rglob("*.*"))) == 10
    metrics = json.loads((results / "metrics.json").read_text())
    scores = np.array([float(row["anomaly_score"]) for row in rows])
    abnormal = np.array([row["label"] == "abnormal" for row in rows])
    assert metrics["image"]["auroc"]["value"] == pytest.approx(roc_auc_score(abnormal, scores))
    if name not in SLOW_LEARNERS:
        assert metrics["image"]["auroc"]["value"] > 0.5, "higher is more anomalous"
    first = rows[0]
    alone = medad_fast.load(run).predict(data[kind] / first["path"]).anomaly_score
    assert alone[int(first["slice"])].item() == pytest.approx(scores[0], rel=1e-4, abs=1e-5)
    assert (results / "report.html").is_file()


@pytest.mark.parametrize("name", list_methods())
def test_the_same_seed_gives_the_same_run_and_a_loaded_one_scores_alike(
    name: str, data: dict[str, Path], tmp_path: Path
) -> None:
    settings = {**SMALL[name], "image_size": 32, "max_steps": 3, "device": "cpu"}
    run = medad_fast.fit(name, data["png"], tmp_path / "run", seed=3, **settings)
    medad_fast.fit(name, data["png"], tmp_path / "again", seed=3, **settings)
    first, second = (tensors(tmp_path / folder) for folder in ("run", "again"))
    assert first.keys() == second.keys()
    for place, value in first.items():
        assert torch.equal(value, second[place]), place
    for file in ("thresholds.json", "training_outliers.json", "log.jsonl"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    loaded = medad_fast.load(tmp_path / "run")
    for place, value in run.method.state_dict().items():
        assert torch.equal(value, loaded.method.state_dict()[place]), place
    images = discs(3, seed=8)
    for before, after in zip(run.predict(images), loaded.predict(images), strict=True):
        assert torch.equal(before, after)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    manifest = json.loads((folder / "manifest.json").read_text())
    return read_tensors(folder / "model.safetensors", manifest["files"]["model.safetensors"])
