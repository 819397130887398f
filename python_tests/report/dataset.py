"""A folder of judged predictions on a few simulated discs, made without fitting anything."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medad_fast.artifacts.scores import (
    SOURCE_COLUMNS,
    ScoreRow,
    read_scores,
    score_cells,
    score_columns,
    write_table,
)
from medad_fast.data.formats.nifti import write_nifti
from medad_fast.evaluation import evaluate
from medad_fast.training.thresholds import choose, p_value

__all__ = ["THRESHOLD", "make_pictures", "make_results", "write_manifest"]

SIDE = 24
SLICES = 3
THRESHOLD = 0.5
AFFINE = np.diag([-2.0, 2.0, 5.0, 1.0])
SOURCE = ("nifti", "OT", 16, "yes", "no", "", "", "no", "5 2 2")


def make_results(
    folder: Path,
    *,
    data: Path,
    method: str = "autoencoder",
    normal: int = 5,
    abnormal: int = 4,
    unlabeled: int = 0,
    judged: bool = True,
    masks: bool = True,
) -> Path:
    """Write the data set (once) and one method's results on its volumes."""
    generator = np.random.default_rng(7)
    rows = []
    for number in range(normal + abnormal + unlabeled):
        ill = normal <= number < normal + abnormal
        kind = "abnormal" if ill else "normal" if number < normal else "unlabeled"
        name = f"test/{kind}/sub-{number}.nii.gz"
        image = generator.normal(100, 5, (SIDE, SIDE, SLICES)).astype(np.float32)
        mask = np.zeros((SIDE, SIDE, SLICES), dtype=np.uint8)
        if ill:
            mask[6:11, 8:14] = 1
        found = (0.02 * generator.random(image.shape) + 0.9 * mask).astype(np.float32)
        write_nifti(data / name, image, AFFINE)
        write_nifti(folder / "maps" / name, found, AFFINE)
        if ill and masks:
            write_nifti(data / f"test/masks/sub-{number}.nii.gz", mask, AFFINE)
        for place in range(SLICES):
            # One normal and one abnormal patient are judged wrongly: they are the worst errors.
            high = ill != (number in (0, normal))
            score = (0.7 if high else 0.2) + 0.01 * number + 0.001 * place
            rows.append(
                _row(
                    name,
                    score,
                    patient=f"hash{number}",
                    slice=place,
                    label=kind,
                    mask=f"test/masks/sub-{number}.nii.gz" if ill and masks else "",
                )
            )
    return _write(folder, rows, data, method, judged)


def make_pictures(
    folder: Path,
    *,
    data: Path,
    count: int,
    side: int,
    suffix: str = ".png",
    names: Sequence[str] = (),
    labels: Sequence[str] = ("normal", "abnormal"),
    judged: bool = True,
) -> Path:
    """The same of noisy pictures, two a patient: the hardest there are to store."""
    from PIL import Image

    generator = np.random.default_rng(3)
    rows = []
    for number in range(count):
        label = labels[number // 2 % len(labels)]
        name = names[number] if names else f"test/{number}{suffix}"
        pixels = generator.normal(128, 30, (side, side)).clip(0, 255).astype(np.uint8)
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(data / name)
        found = generator.random((side, side)).astype(np.float32)
        (folder / "maps" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / "maps" / f"{name}.npy", found)
        score = float(generator.normal(0.8 if label == "abnormal" else 0.2, 0.4))
        rows.append(_row(name, score, patient=f"p{number // 2}", label=label, suffix=".npy"))
    return _write(folder, rows, data, "autoencoder", judged)


def write_manifest(folder: Path, data: Path, columns: Mapping[str, Sequence[str]]) -> Path:
    """A ``manifest.csv`` of the scored files with further columns, one value a file."""
    rows = {row.path: row for row in read_scores(folder / "scores.csv")}
    with (data / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split", *columns])
        for place, row in enumerate(rows.values()):
            values = [column[place] for column in columns.values()]
            table.writerow([row.path, row.label, "test", *values])
    return data / "manifest.csv"


def _row(
    name: str,
    score: float,
    *,
    patient: str,
    label: str,
    slice: int = 0,
    mask: str = "",
    suffix: str = "",
) -> ScoreRow:
    return ScoreRow(
        path=name,
        patient=patient,
        slice=slice,
        split="test",
        label=label,  # type: ignore[arg-type]
        mask=mask,
        map=f"maps/{name}{suffix}",
        anomaly_score=score,
        threshold=THRESHOLD,
        prediction="abnormal" if score > THRESHOLD else "normal",
        p_value=p_value(score, _thresholds()),
    )


def _thresholds() -> dict[str, object]:
    calibration = [*np.linspace(0.1, THRESHOLD, 30).tolist(), 0.9]
    score = choose(calibration, target_fpr=0.07, volumes=range(31), patients=range(31))["score"]
    assert score["threshold"] == THRESHOLD
    return {"score": score, "map": {"low": 0.01, "high": 0.8, "threshold": 0.5}}


def _write(folder: Path, rows: list[ScoreRow], data: Path, method: str, judged: bool) -> Path:
    generator = np.random.default_rng(1)
    with write_table(folder / "scores.csv", score_columns()) as table:
        table.write(score_cells(row) for row in rows)
    with write_table(folder / "baselines.csv", ("mean", "file_size")) as table:
        table.write((float(generator.random()), "") for _ in rows)
    with write_table(folder / "sources.csv", SOURCE_COLUMNS) as table:
        table.write((path, *SOURCE) for path in dict.fromkeys(row.path for row in rows))
    about = {
        "format_version": 1,
        "data": {"root": str(data), "split": "test", "manifest": None},
        "run": {"path": f"/secret/place/runs/{method}", "method": method, "seed": 0},
        "preprocess": {"image_size": 32, "axis": "axial"},
        "thresholds": _thresholds(),
        "counts": {"files": 9, "failed_files": 0, "images": len(rows), "skipped_slices": 3},
        "patient_ids": "hashed",
        "versions": {"medad_fast": "0.1.0"},
    }
    (folder / "predict.json").write_text(json.dumps(about))
    if judged:
        evaluate(folder, resamples=20)
    return folder
