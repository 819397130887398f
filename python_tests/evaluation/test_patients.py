"""Figures of volumes and patients, and of pixels patient by patient."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medad_fast import evaluate
from medad_fast.errors import InputError
from medad_fast.evaluation.pixels import PixelCollector, aupro
from medad_fast.evaluation.ranking import auroc, average_precision, rank
from medad_fast.training.thresholds import choose, p_value
from python_tests.evaluation.predictions import Predictions, square_mask


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


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
