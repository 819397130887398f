"""From a folder of predictions to strict JSON: every figure, or the reason why there is none."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medad_fast import evaluate
from medad_fast.baselines import NAMES
from medad_fast.errors import InputError
from medad_fast.evaluate.metrics import auroc, average_precision, rank
from medad_fast.evaluate.pixels import PixelCollector, aupro
from medad_fast.scores import score_columns
from medad_fast.thresholds import choose, p_value
from python_tests.evaluate.predictions import SIDE, Predictions, square_mask

LEVELS = ("image", "volume", "patient", "pixel")


@pytest.fixture
def predictions(tmp_path: Path) -> Predictions:
    return Predictions(tmp_path)


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


def test_volumes_and_patients_are_scored_by_the_rules_that_were_asked_for(
    predictions: Predictions,
) -> None:
    """Volumes of three, three and six slices: a patient each, but the last has two of three."""
    predictions.change(
        lambda row: {
            "path": f"test/v{int(row.patient[1:]) // 2}{row.patient == 'p5'}.nii.gz",
            "patient": f"q{int(row.patient[1:]) // 2}",
        }
    )
    metrics = evaluate(predictions.write(), resamples=20)
    assert metrics["counts"]["volumes"] == 4
    assert metrics["counts"]["patients"] == 3
    assert metrics["aggregate"] == {"volume": "max", "patient": "max"}
    predictions.change(lambda row: {"label": "normal"} if row.patient == "q0" else {})
    rules = {"max": max, "top-2": lambda part: sum(sorted(part)[-2:]) / min(len(part), 2)}
    for name, rule in rules.items():
        metrics = evaluate(predictions.write(), resamples=20, volume_score=name, patient_score=name)
        volumes: dict[str, list[float]] = {}
        for row in predictions.rows:
            volumes.setdefault(row.path, []).append(row.anomaly_score)
        of_volume = {path: rule(part) for path, part in volumes.items()}
        patients = [[of_volume["test/v0False.nii.gz"]], [of_volume["test/v1False.nii.gz"]]]
        patients.append([of_volume["test/v2False.nii.gz"], of_volume["test/v2True.nii.gz"]])
        expected = auroc(rank([rule(part) for part in patients], [False, True, True])).value
        assert metrics["patient"]["auroc"]["value"] == expected
        ill = {row.path for row in predictions.rows if row.label == "abnormal"}
        truth = [path in ill for path in of_volume]
        expected = auroc(rank(list(of_volume.values()), truth)).value
        assert metrics["volume"]["auroc"]["value"] == expected


def test_patients_have_a_threshold_of_their_own_from_validation_patients(
    predictions: Predictions,
) -> None:
    assert evaluate(predictions.write(), resamples=5)["threshold"]["patient"]["value"] is None
    scores = np.random.default_rng(3).normal(0, 1, 90)
    patients = np.arange(90) // 3
    predictions.thresholds = choose(
        scores, maps=np.ones(3), volumes=patients.tolist(), patients=patients.tolist()
    )
    found = evaluate(predictions.write(), resamples=5, volume_score="top-2")["threshold"]
    own = choose(np.sort(scores.reshape(30, 3), axis=1)[:, 1:].mean(axis=1))["score"]
    for level in ("volume", "patient"):
        assert found[level]["value"] == pytest.approx(own["threshold"], abs=1e-15)
        assert found[level]["expected_fpr"] == own["expected_fpr"] == 1 / 31
    assert found["image"]["value"] == choose(scores)["score"]["threshold"]
    by_patient = choose(scores.reshape(30, 3).max(axis=1))["score"]
    found = evaluate(predictions.out, resamples=5)["threshold"]
    assert found["patient"]["value"] == by_patient["threshold"] > found["image"]["value"]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_volumes_and_patients_have_tables_with_decisions(predictions: Predictions) -> None:
    predictions.change(lambda row: {"path": f"test/{row.patient}.nii.gz"})
    predictions.change(lambda row: {"patient": "p4"} if row.patient == "p5" else {})
    predictions.change(
        lambda row: {"label": "unlabeled", "mask": ""} if row.patient == "p3" else {}
    )
    predictions.rows[3] = replace(predictions.rows[3], label="normal", mask="")  # of p1
    evaluate(predictions.write(), resamples=5)
    patients = table(predictions.out / "patients.csv")
    assert {row["prediction"] + row["p_value"] + row["threshold"] for row in patients} == {""}
    scores = np.random.default_rng(3).normal(0, 1, 90)
    numbers = (np.arange(90) // 3).tolist()
    predictions.thresholds = choose(scores, maps=np.ones(3), volumes=numbers, patients=numbers)
    evaluate(predictions.write(), resamples=5, volume_score="quantile-0.5")
    volumes = table(predictions.out / "volumes.csv")
    assert [row["path"] for row in volumes] == [f"test/p{number}.nii.gz" for number in range(6)]
    lower = [min(pair) for pair in np.reshape([r.anomaly_score for r in predictions.rows], (6, 2))]
    assert [float(row["anomaly_score"]) for row in volumes] == lower
    patients = table(predictions.out / "patients.csv")
    assert [row["patient"] for row in patients] == ["p0", "p1", "p2", "p3", "p4"]
    assert [row["label"] for row in patients] == [
        *("normal", "abnormal", "normal", "unlabeled", "abnormal")
    ]
    assert [row["images"] for row in patients] == ["2", "2", "2", "2", "4"]
    of_patient = [*lower[:4], max(lower[4:])]
    own = choose(np.median(scores.reshape(30, 3), axis=1))
    for row, score in zip(patients, of_patient, strict=True):
        assert float(row["anomaly_score"]) == score
        assert float(row["threshold"]) == own["score"]["threshold"]
        assert float(row["p_value"]) == p_value(score, own)
        above = score > own["score"]["threshold"]
        assert row["prediction"] == ("abnormal" if above else "normal")


def test_a_patient_with_one_abnormal_slice_is_abnormal_whatever_comes_after(
    predictions: Predictions,
) -> None:
    """The second slice of each abnormal patient is normal; scores are the slices' places."""
    places = {row.path: place for place, row in enumerate(predictions.rows)}
    predictions.change(lambda row: {"anomaly_score": float(places[row.path])})
    predictions.change(lambda row: {"label": "normal", "mask": ""} if places[row.path] % 2 else {})
    metrics = evaluate(predictions.write(), resamples=5)
    expected = auroc(rank([1.0, 3.0, 5.0, 7.0, 9.0, 11.0], [0, 1, 0, 1, 0, 1])).value
    assert metrics["patient"]["auroc"]["value"] == expected
    assert metrics["volume"] == metrics["image"]


def test_a_score_that_equals_the_threshold_is_not_above_it(predictions: Predictions) -> None:
    threshold = predictions.thresholds["score"]["threshold"]
    predictions.change(lambda row: {"anomaly_score": threshold})
    found = evaluate(predictions.write(), resamples=5)["threshold"]["image"]
    assert (found["fpr"]["value"], found["tpr"]["value"]) == (0, 0)


def test_dice_is_pooled_and_also_per_image_and_patient(predictions: Predictions) -> None:
    metrics = evaluate(predictions.write(), resamples=20)
    found = metrics["threshold"]["pixel"]
    cut = predictions.thresholds["map"]["threshold"]
    counts = []
    for row in predictions.rows:
        called = np.load(predictions.out / row.map).astype(np.float64) > cut
        mask = square_mask(row.label == "abnormal") > 0
        counts.append([(called & mask).sum(), called.sum() + mask.sum(), mask.sum()])
    table = np.array(counts)
    by_patient = table.reshape(6, 2, 3).sum(axis=1)

    def mean_dice(part: np.ndarray) -> float:
        ill = part[part[:, 2] > 0]
        return float((2 * ill[:, 0] / ill[:, 1]).mean())

    pooled = 2 * table[:, 0].sum() / table[:, 1].sum()
    assert found["dice"]["value"] == pytest.approx(pooled, abs=1e-12)
    assert found["dice_per_image"]["value"] == pytest.approx(mean_dice(table), abs=1e-12)
    assert found["dice_per_patient"]["value"] == pytest.approx(mean_dice(by_patient), abs=1e-12)
    assert len({found[name]["value"] for name in ("dice", "dice_per_image")}) == 2


def test_pixel_metrics_per_patient_are_means_over_patients_with_lesions(
    predictions: Predictions,
) -> None:
    predictions.rows = predictions.rows[::2] + predictions.rows[1::2]  # patients not in a row
    found = evaluate(predictions.write(), resamples=50)["pixel"]
    values: dict[str, list[float]] = {"average_precision": [], "aupro": []}
    for patient in ("p1", "p3", "p5"):
        collector = PixelCollector()
        for row in predictions.rows:
            if row.patient == patient:
                collector.add(np.load(predictions.out / row.map), square_mask(True), 0)
        ranking = collector.sort().ranking()
        for metric in (average_precision, aupro):
            value = metric(ranking).value
            assert value is not None
            values[metric.__name__].append(value)
    for name, each in values.items():
        figure = found[f"{name}_per_patient"]
        assert figure["value"] == pytest.approx(np.mean(each), abs=1e-12)
        assert min(each) <= figure["low"] <= figure["value"] <= figure["high"] <= max(each)
        assert figure["value"] != found[name]["value"]


@pytest.mark.parametrize("argument", ["volume_score", "patient_score"])
@pytest.mark.parametrize("rule", ["mean", "top-0", "quantile-0", "quantile-1.1", "top-x", ""])
def test_a_rule_that_does_not_exist_is_refused(
    predictions: Predictions, argument: str, rule: str
) -> None:
    with pytest.raises(InputError, match=argument):
        evaluate(predictions.write(), resamples=5, **{argument: rule})


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


def test_masks_are_found_where_the_data_moved_to(predictions: Predictions, tmp_path: Path) -> None:
    folder = predictions.write()
    first = evaluate(folder, resamples=10)
    predictions.data.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"masks.*png"):
        evaluate(folder, resamples=10)
    assert evaluate(folder, data=tmp_path / "moved", resamples=10) == first


def test_resamples_that_were_dropped_are_counted(predictions: Predictions) -> None:
    predictions.change(lambda row: {"label": "normal", "mask": ""} if row.patient != "p1" else {})
    metrics = evaluate(predictions.write(), resamples=200)
    dropped = metrics["bootstrap"]["dropped"]
    assert math.isclose(dropped["image.auroc"] / 200, (5 / 6) ** 6, abs_tol=0.1)
    assert dropped["patient.auroc"] == dropped["pixel.aupro"] == dropped["image.auroc"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: (p.out / "predict.json").unlink(), "no predict.json"),
        (lambda p: (p.out / "predict.json").write_text("{"), "predict.json"),
        (lambda p: (p.out / "predict.json").write_text("[]"), r"entry data is missing"),
        (lambda p: (p.out / "predict.json").write_text('{"data": {}}'), r"data\.root is missing"),
        (lambda p: (p.out / "scores.csv").write_text("a,b\n1,2\n"), "columns path,patient"),
        (lambda p: (p.out / "scores.csv").unlink(), "scores.csv"),
        (lambda p: (p.out / "baselines.csv").write_text("mean\n1\n"), "12 rows expected"),
        (lambda p: (p.out / "maps/3.npy").write_bytes(b"no"), "3.npy"),
        (lambda p: (p.out / "maps/3.npy").unlink(), "3.npy"),
        (lambda p: np.save(p.out / "maps/3.npy", np.zeros((3, 3))), "3 x 3|1 x 3"),
        (lambda p: np.save(p.out / "maps/3.npy", np.zeros((3, 3), np.int64)), "floating point"),
        (lambda p: (p.data / "masks/3.png").write_bytes(b"no"), "3.png"),
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
