"""A folder of judged predictions on a few simulated discs, made without fitting anything."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from medad_fast.evaluate import evaluate
from medad_fast.io.nifti import write_nifti
from medad_fast.scores import ScoreRow, score_cells, score_columns, write_table

__all__ = ["THRESHOLD", "make_results"]

SIDE = 24
SLICES = 2
THRESHOLD = 0.5
AFFINE = np.diag([-2.0, 2.0, 5.0, 1.0])


def make_results(
    folder: Path, *, data: Path, method: str = "autoencoder", normal: int = 5, abnormal: int = 4
) -> Path:
    """Write the data set (once) and one method's results, judged."""
    generator = np.random.default_rng(7)
    rows, baselines = [], []
    for number in range(normal + abnormal):
        ill = number >= normal
        kind = "abnormal" if ill else "normal"
        name = f"test/{kind}/sub-{number}.nii.gz"
        image = generator.normal(100, 5, (SIDE, SIDE, SLICES)).astype(np.float32)
        mask = np.zeros((SIDE, SIDE, SLICES), dtype=np.uint8)
        if ill:
            mask[6:11, 8:14] = 1
        found = (0.02 * generator.random(image.shape) + 0.9 * mask).astype(np.float32)
        write_nifti(data / name, image, AFFINE)
        write_nifti(folder / "maps" / name, found, AFFINE)
        if ill:
            write_nifti(data / f"test/masks/sub-{number}.nii.gz", mask, AFFINE)
        for place in range(SLICES):
            # One normal and one abnormal patient are judged wrongly: they are the worst errors.
            high = ill != (number in (0, normal))
            score = (0.7 if high else 0.2) + 0.01 * number + 0.001 * place
            rows.append(
                ScoreRow(
                    path=name,
                    patient=f"hash{number}",
                    slice=place,
                    split="test",
                    label=kind,
                    mask=f"test/masks/sub-{number}.nii.gz" if ill else "",
                    map=f"maps/{name}",
                    anomaly_score=score,
                    threshold=THRESHOLD,
                    prediction="abnormal" if score > THRESHOLD else "normal",
                    p_value=0.04 if score > THRESHOLD else 0.5,
                )
            )
            baselines.append((float(generator.random()), ""))
    with write_table(folder / "scores.csv", score_columns()) as table:
        table.write(score_cells(row) for row in rows)
    with write_table(folder / "baselines.csv", ("mean", "file_size")) as table:
        table.write(baselines)
    (folder / "predict.json").write_text(json.dumps(_about(data, method, len(rows))))
    evaluate(folder, resamples=20)
    return folder


def _about(data: Path, method: str, images: int) -> dict[str, object]:
    score = {"threshold": THRESHOLD, "target_fpr": 0.05, "expected_fpr": 0.05}
    return {
        "format_version": 1,
        "data": {"root": str(data), "split": "test"},
        "run": {"path": f"runs/{method}", "method": method, "seed": 0},
        "preprocess": {"image_size": 32, "axis": "axial"},
        "thresholds": {"score": score, "map": {"low": 0.01, "high": 0.8, "threshold": 0.5}},
        "counts": {"files": 9, "failed_files": 0, "images": images, "skipped_slices": 3},
        "patient_ids": "hashed",
        "versions": {"medad_fast": "0.1.0"},
    }
