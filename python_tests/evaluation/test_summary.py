"""From a folder of predictions to strict JSON: every figure, or the reason why there is none."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medad_fast import evaluate
from medad_fast.artifacts import predictions as read
from medad_fast.artifacts.scores import score_columns
from medad_fast.errors import InputError
from medad_fast.evaluation.ranking import auroc, rank
from medad_fast.training.baselines import NAMES
from python_tests.evaluation.predictions import SIDE, Predictions

LEVELS = ("image", "volume", "patient", "pixel")


def figures(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    blocks = [*(metrics[level] for level in LEVELS), *metrics["baselines"].values()]
    blocks += [metrics["oracle"][level] for level in LEVELS]
    return [found for block in blocks for found in block.values() if isinstance(found, dict)]


def refuse(token: str) -> float:
    raise AssertionError(f"{token} is not strict JSON")


def test_metrics_json_has_the_promised_keys_and_is_strict(predictions: Predictions) -> None:
    folder = predictions.write()
    metrics = evaluate(folder, resamples=50)
    text = (folder / "metrics.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=refuse) == metrics
    assert set(metrics) == {
        *LEVELS,
        *("baselines", "counts", "threshold", "maps", "oracle", "aggregate", "bootstrap"),
        *("published", "subgroups"),
    }
    for level in ("image", "volume", "patient"):
        assert set(metrics[level]) == {"auroc", "average_precision"}
    of_patients = {"average_precision_per_patient", "aupro_per_patient"}
    assert set(metrics["pixel"]) == {"auroc", "average_precision", "aupro"} | of_patients
    assert tuple(metrics["baselines"]) == NAMES
    for figure in figures(metrics):
        assert {"value", "low", "high"} <= set(figure)
        assert ("reason" in figure) == (figure["value"] is None)
        if figure["value"] is not None:
            assert 0 <= figure["low"] <= figure["high"] <= 1
    for level in LEVELS:
        for name in ("fpr", "tpr", "dice"):
            assert {"value", "low", "high"} <= set(metrics["threshold"][level][name])


def test_figures_are_those_of_the_tables(predictions: Predictions) -> None:
    metrics = evaluate(predictions.write(), resamples=50)
    rows = predictions.rows
    truth = [row.label == "abnormal" for row in rows]
    expected = auroc(rank([row.anomaly_score for row in rows], truth)).value
    assert metrics["image"]["auroc"]["value"] == expected
    by_patient = np.array([row.anomaly_score for row in rows]).reshape(6, 2).max(axis=1)
    assert metrics["patient"]["auroc"]["value"] == auroc(rank(by_patient, truth[::2])).value
    for place, name in enumerate(NAMES[:-1]):
        column = auroc(rank(predictions.baselines[:, place], truth)).value
        assert metrics["baselines"][name]["auroc"]["value"] == column
    nothing = metrics["baselines"]["file_size"]["auroc"]
    assert nothing["value"] is None
    assert "one image" in nothing["reason"]


def test_counts_maps_and_thresholds_are_told(predictions: Predictions) -> None:
    metrics = evaluate(predictions.write(), resamples=20)
    lesion_pixels = 6 * 12
    assert metrics["counts"] == {
        "images": 12,
        "normal": 6,
        "abnormal": 6,
        "unlabeled": 0,
        "volumes": 12,
        "patients": 6,
        "skipped_slices": 3,
        "failed_files": 1,
        "pixels": 12 * SIDE * SIDE,
        "lesion_pixels": lesion_pixels,
        "lesion_share": lesion_pixels / (12 * SIDE * SIDE),
        "lesions": 6,
    }
    assert metrics["maps"]["normal"] < metrics["maps"]["abnormal"]
    assert metrics["maps"]["high"] == predictions.thresholds["map"]["high"]
    threshold = predictions.thresholds["score"]["threshold"]
    normal = [row.anomaly_score for row in predictions.rows if row.label == "normal"]
    decided = metrics["threshold"]
    assert decided["image"]["value"] == threshold
    assert decided["image"]["fpr"]["value"] == np.mean([score > threshold for score in normal])
    best = metrics["oracle"]["pixel"]["dice"]["value"]
    assert 0 < decided["pixel"]["dice"]["value"] <= best <= 1
    assert metrics["oracle"]["label"].startswith("oracle")


def test_a_score_that_equals_the_threshold_is_not_above_it(predictions: Predictions) -> None:
    threshold = predictions.thresholds["score"]["threshold"]
    predictions.change(lambda row: {"anomaly_score": threshold})
    found = evaluate(predictions.write(), resamples=5)["threshold"]["image"]
    assert (found["fpr"]["value"], found["tpr"]["value"]) == (0, 0)


def test_same_seed_same_bits_and_hashes_do_not_matter(predictions: Predictions) -> None:
    first = evaluate(predictions.write(), resamples=30, seed=4)
    predictions.change(lambda row: {"patient": f"{99 - int(row.patient[1:])}x"})
    assert evaluate(predictions.write(), resamples=30, seed=4) == first
    other = evaluate(predictions.out, resamples=30, seed=5)
    assert other["image"]["auroc"]["value"] == first["image"]["auroc"]["value"]
    assert other["image"]["auroc"] != first["image"]["auroc"]


def test_one_patient_is_resampled_by_image(predictions: Predictions) -> None:
    assert evaluate(predictions.write(), resamples=20)["bootstrap"]["unit"]["image"] == "patient"
    predictions.change(lambda row: {"patient": "only"})
    metrics = evaluate(predictions.write(), resamples=20)
    assert metrics["bootstrap"]["unit"] == {
        "image": "image",
        "volume": "volume",
        "patient": "patient",
        "pixel": "image",
    }
    assert metrics["image"]["auroc"]["low"] < metrics["image"]["auroc"]["high"]
    assert metrics["patient"]["auroc"]["reason"] == "no normal patient"


@pytest.mark.parametrize("label", ["normal", "abnormal", "unlabeled"])
def test_one_class_gives_nulls_with_reasons(predictions: Predictions, label: str) -> None:
    predictions.change(lambda row: {"label": label, "mask": ""})
    metrics = evaluate(predictions.write(), resamples=20)
    for figure in figures(metrics):
        assert (figure["value"], figure["low"], figure["high"]) == (None, None, None)
        assert figure["reason"]
    for level in ("image", "pixel"):
        rates = metrics["threshold"][level]
        assert (rates["fpr"]["value"] is None) == (label != "normal")
        assert (rates["tpr"]["value"] is None) == (label != "abnormal" or level == "pixel")


def test_without_masks_pixels_are_undefined_but_images_are_not(predictions: Predictions) -> None:
    predictions.change(lambda row: {"mask": ""})
    metrics = evaluate(predictions.write(), resamples=20)
    assert metrics["pixel"]["aupro"]["reason"] == "no abnormal image has a mask"
    for name in ("tpr", "dice", "dice_per_image", "dice_per_patient"):
        found = metrics["threshold"]["pixel"][name]
        assert (found["value"], found["reason"]) == (None, "no abnormal image has a mask")
    assert metrics["image"]["auroc"]["value"] is not None
    assert metrics["counts"]["pixels"] == 6 * SIDE * SIDE


def test_unlabeled_slices_count_nowhere(predictions: Predictions) -> None:
    before = evaluate(predictions.write(), resamples=20)
    extra = replace(predictions.rows[0], label="unlabeled", patient="new", anomaly_score=9.0)
    predictions.rows.insert(0, extra)
    predictions.baselines = np.vstack([predictions.baselines[:1], predictions.baselines])
    after = evaluate(predictions.write(), resamples=20)
    for level in ("image", "pixel", "patient", "baselines", "threshold"):
        assert after[level] == before[level]
    assert after["counts"]["unlabeled"] == 1


def test_a_folder_that_moved_is_evaluated_alike(predictions: Predictions, tmp_path: Path) -> None:
    first = evaluate(predictions.write(), resamples=10)
    predictions.out.rename(tmp_path / "moved")
    assert evaluate(tmp_path / "moved", resamples=10) == first


def test_a_map_elsewhere_has_no_mask(predictions: Predictions) -> None:
    predictions.change(lambda row: {"map": row.map.replace("maps/", "")})
    for path in (predictions.out / "maps").iterdir():
        path.rename(predictions.out / path.name)
    with pytest.raises(InputError, match=r"a map in maps/ expected, got '2\.npy'"):
        evaluate(predictions.write(), resamples=5)


def test_further_scores_of_an_image_are_read_by_name(predictions: Predictions) -> None:
    plain = evaluate(predictions.write(), resamples=5)
    predictions.change(lambda row: {"further": {"stage_1": 2 * row.anomaly_score, "b": 0.5}})
    folder = predictions.write()
    header = (folder / "scores.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.endswith(",p_value,score_stage_1,score_b")
    assert read.Predictions.read(folder).rows == predictions.rows
    assert evaluate(folder, resamples=5) == plain
    with pytest.raises(InputError, match="further score's name"):
        score_columns(["of stage 1"])
    for odd in ("score_B", "stage", "score_b,score_b"):
        text = (folder / "scores.csv").read_text(encoding="utf-8")
        (folder / "scores.csv").write_text(text.replace("score_b", odd), encoding="utf-8")
        with pytest.raises(InputError, match=r"columns path,patient|cells"):
            evaluate(folder, resamples=5)
        predictions.write()


def test_resamples_that_were_dropped_are_counted(predictions: Predictions) -> None:
    predictions.change(lambda row: {"label": "normal", "mask": ""} if row.patient != "p1" else {})
    metrics = evaluate(predictions.write(), resamples=200)
    dropped = metrics["bootstrap"]["dropped"]
    assert math.isclose(dropped["image.auroc"] / 200, (5 / 6) ** 6, abs_tol=0.1)
    assert dropped["patient.auroc"] == dropped["pixel.aupro"] == dropped["image.auroc"]


def without(predictions: Predictions, *names: str) -> None:
    """Take an entry out of ``predict.json``."""
    file = predictions.out / "predict.json"
    about = json.loads(file.read_text(encoding="utf-8"))
    *above, last = names
    del functools.reduce(dict.__getitem__, above, about)[last]
    file.write_text(json.dumps(about), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: (p.out / "predict.json").unlink(), "no predict.json"),
        (lambda p: (p.out / "predict.json").write_text("{"), "predict.json"),
        (lambda p: (p.out / "predict.json").write_text("[]"), r"JSON object expected, got list"),
        (lambda p: without(p, "data"), r"entry data is missing"),
        (lambda p: without(p, "data", "root"), r"entry data\.root is missing"),
        (lambda p: without(p, "preprocess", "axis"), r"entry preprocess\.axis is missing"),
        (lambda p: (p.out / "groups.json").unlink(), "groups.json"),
        (lambda p: (p.out / "scores.csv").write_text("a,b\n1,2\n"), "columns path,patient"),
        (lambda p: (p.out / "scores.csv").unlink(), "scores.csv"),
        (lambda p: (p.out / "baselines.csv").write_text("mean\n1\n"), "12 rows expected"),
        (lambda p: (p.out / "maps/3.npy").write_bytes(b"no"), "3.npy"),
        (lambda p: (p.out / "maps/3.npy").unlink(), "3.npy"),
        (lambda p: np.save(p.out / "maps/3.npy", np.zeros((3, 3))), "masks/3.npy: .* 1 x 3 x 3"),
        (lambda p: np.save(p.out / "maps/3.npy", np.zeros((3, 3), np.int64)), "floating point"),
        (lambda p: (p.out / "masks/3.npy").write_bytes(b"no"), "masks/3.npy"),
        (lambda p: (p.out / "masks/3.npy").unlink(), "masks/3.npy"),
        (lambda p: np.save(p.out / "masks/3.npy", np.zeros((SIDE, SIDE))), "uint8 .* expected"),
    ],
)
def test_a_damaged_folder_is_named_and_leaves_no_metrics(
    predictions: Predictions, damage: Callable[[Predictions], object], words: str
) -> None:
    folder = predictions.write()
    damage(predictions)
    with pytest.raises(InputError, match=words):
        evaluate(folder, resamples=5)
    assert not (folder / "metrics.json").exists()


@pytest.mark.parametrize(
    ("column", "cell"),
    [("anomaly_score", "nan"), ("label", "ill"), ("slice", "-1"), ("threshold", "inf")],
)
def test_a_wrong_cell_is_named_by_line_and_column(
    predictions: Predictions, column: str, cell: str
) -> None:
    folder = predictions.write()
    lines = (folder / "scores.csv").read_text(encoding="utf-8").splitlines()
    cells = lines[2].split(",")
    cells[score_columns().index(column)] = cell
    lines[2] = ",".join(cells)
    (folder / "scores.csv").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=f"line 3: {column}"):
        evaluate(folder, resamples=5)


def test_resamples_must_be_positive(predictions: Predictions) -> None:
    with pytest.raises(InputError, match="resamples"):
        evaluate(predictions.write(), resamples=0)
