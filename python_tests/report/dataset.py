"""A folder of judged predictions on a few simulated discs, made without fitting anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import numpy as np

from medad_fast import evaluate
from medad_fast.artifacts.predictions import Groups, Predictions
from medad_fast.artifacts.scores import ScoreRow, read_scores
from medad_fast.data import Image, Provenance
from medad_fast.data.formats.nifti import write_nifti
from medad_fast.evaluation.subgroups import groups_of
from medad_fast.files import write_json
from medad_fast.training.baselines import NAMES
from medad_fast.training.thresholds import choose, p_value

SIDE = 24
SLICES = 3
THRESHOLD = 0.5
AFFINE = np.diag([-2.0, 2.0, 5.0, 1.0])
SIMULATED = "All of this is simulated."


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
    """Write the dataset (once) and one method's results on its volumes."""
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
            write_nifti(folder / "masks" / name, mask, AFFINE)
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


def write_groups(folder: Path, columns: Mapping[str, Sequence[str]]) -> None:
    """Group the scored files by further columns of a manifest, one value a file."""
    rows = [row for row in read_scores(folder / "scores.csv") if row.label != "unlabeled"]
    told = {
        path: {name: values[place] for name, values in columns.items()}
        for place, path in enumerate(dict.fromkeys(row.path for row in rows))
    }
    images = Counter(row.path for row in rows)
    groups = groups_of(told, images, len({row.patient for row in rows}))
    write_json(folder / "groups.json", asdict(groups))


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
    told = Provenance(data, "nifti", 16, rescaled=True)
    image = Image(np.zeros((1, 1, 1)), "OT", (5.0, 2.0, 2.0), None, told)
    folder.mkdir(parents=True, exist_ok=True)
    with Predictions.write(folder) as results:
        for _, group in groupby(rows, key=lambda row: row.path):
            of_file = list(group)
            trivial = generator.random((len(of_file), len(NAMES)))
            trivial[:, -1] = np.nan  # no file holds one image
            results.add(image, of_file, trivial.tolist(), skipped=1)
    about = {
        "data": {"root": str(data), "split": "test", "simulated": SIMULATED},
        "run": {"path": f"/secret/place/runs/{method}", "method": method, "seed": 0},
        "preprocess": {"image_size": 32, "axis": "axial"},
        "thresholds": _thresholds(),
        "patient_ids": "hashed",
    }
    results.finish(about, Groups())
    if judged:
        evaluate(folder, resamples=20)
    return folder
