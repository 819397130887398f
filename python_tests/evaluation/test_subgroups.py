"""Each group's figures are those of its images alone; ages are binned, names stay away."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medad_fast import evaluate
from medad_fast.artifacts.predictions import Groups
from medad_fast.artifacts.scores import ScoreRow, read_scores, score_cells, score_columns
from medad_fast.data.dataset import Label
from medad_fast.errors import InputError
from medad_fast.evaluation.levels import Cut
from medad_fast.evaluation.metrics import Resampler
from medad_fast.evaluation.subgroups import SMALL, groups_of, subgroups
from medad_fast.files import write_table
from python_tests.artifacts.score_rows import score_row
from python_tests.evaluation.predictions import Predictions
from python_tests.report.dataset import make_pictures, write_groups


def rows_of(labels: list[Label], scores: list[float] | None = None) -> list[ScoreRow]:
    generator = np.random.default_rng(0)
    values = scores or generator.normal(0.5, 0.3, len(labels)).tolist()
    return [
        score_row(score, label, f"{number}")
        for number, (label, score) in enumerate(zip(labels, values, strict=True))
    ]


def tables(rows: list[ScoreRow], **columns: list[str]) -> dict[str, Any]:
    told = {
        row.path: {name: values[place] for name, values in columns.items()}
        for place, row in enumerate(rows)
    }
    groups = groups_of(told, dict.fromkeys(told, 1), len({row.patient for row in rows}))
    return subgroups(rows, groups, Cut(0.5), Resampler(20, 0))


BOTH = ["normal", "abnormal"] * 15


def test_figures_are_those_of_the_subset_judged_alone(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "r", data=tmp_path / "d", count=40, side=8, judged=False)
    scanner = [("A", "B", "B")[number // 4 % 3] for number in range(40)]
    write_groups(folder, {"scanner": scanner})
    metrics = evaluate(folder, resamples=50, seed=3)
    found = {each["group"]: each for each in metrics["subgroups"]["columns"]["scanner"]}
    assert set(found) == {"A", "B"}
    rows = read_scores(folder / "scores.csv")
    for group, figures in found.items():
        alone = tmp_path / group
        shutil.copytree(folder, alone)
        subset = [row for row, name in zip(rows, scanner, strict=True) if name == group]
        with write_table(alone / "scores.csv", score_columns()) as table:
            table.write(score_cells(row) for row in subset)
        with write_table(alone / "baselines.csv", ("mean", "file_size")) as table:
            table.write((0.0, "") for _ in subset)
        expected = evaluate(alone, resamples=50, seed=3)
        assert figures["auroc"] == expected["image"]["auroc"]
        assert figures["average_precision"] == expected["image"]["average_precision"]
        assert figures["fpr"] == expected["threshold"]["image"]["fpr"]
        assert figures["tpr"] == expected["threshold"]["image"]["tpr"]
        for name in ("images", "normal", "abnormal", "patients"):
            assert figures[name] == expected["counts"][name]
    assert found["A"]["auroc"] != found["B"]["auroc"]


def test_ages_are_binned_whatever_they_look_like() -> None:
    ages = ["057Y", "58", "17 years", "17.5", "80", "101", "39.9", "", "0", "79"] * 3
    found = tables(rows_of(BOTH), age=ages)["columns"]["age"]
    assert {each["group"]: each["images"] for each in found} == {
        "under 18": 9,
        "18 to 39": 3,
        "40 to 59": 6,
        "60 to 79": 3,
        "80 and over": 6,
        "not given": 3,
    }
    assert next(each["group"] for each in found) == "under 18"
    for value in ("057Y", "17.5", "101", "39.9"):
        assert value not in json.dumps(found)


def test_other_numbers_stand_as_they_are_or_in_quarters() -> None:
    found = tables(
        rows_of(BOTH),
        field_strength=["3", "1.5", "1.50"] * 10,
        dose=[str(number) for number in range(30)],
    )["columns"]
    assert [(each["group"], each["images"]) for each in found["field_strength"]] == [
        ("1.5", 20),
        ("3", 10),
    ]
    assert [each["group"] for each in found["dose"]] == [
        "0 to 7",
        "above 7 to 14",
        "above 14 to 22",
        "above 22 to 29",
    ]
    assert [each["images"] for each in found["dose"]] == [8, 7, 8, 7]


@pytest.mark.parametrize(
    "column",
    [
        "PatientName",
        "patient_id",
        "BirthDate",
        "dob",
        "ReferringPhysicianName",
        "Study Date",
        "MRN",
    ],
)
def test_what_may_name_a_person_leaves_no_trace(column: str) -> None:
    found = tables(rows_of(BOTH), **{column: ["Secret^A", "Secret^B"] * 15})
    assert not found["columns"]
    assert "Secret" not in json.dumps(found)
    assert column in found["left_out"]


def test_words_that_many_patients_do_not_share_make_no_table() -> None:
    found = tables(rows_of(BOTH), ward=[f"w{number}" for number in range(30)], site=["x"] * 30)
    assert not found["columns"]
    assert found["left_out"] == {
        "ward": "30 different values in 30 patients",
        "site": "all images have the same value",
    }


def test_a_small_group_is_called_small() -> None:
    labels = ["normal", "abnormal"] * (SMALL + 4)
    sex = ["F"] * (2 * SMALL) + ["M"] * 8
    found = tables(rows_of(labels), sex=sex)["columns"]["sex"]
    assert {each["group"]: each["small"] for each in found} == {"F": False, "M": True}


def test_a_group_of_one_class_has_a_reason_not_a_number() -> None:
    sex = ["F", "M"] * 15
    found = {each["group"]: each for each in tables(rows_of(BOTH), sex=sex)["columns"]["sex"]}
    assert found["F"]["auroc"]["value"] is None
    assert found["F"]["auroc"]["reason"] == "no abnormal image"
    assert found["F"]["tpr"]["value"] is None
    assert found["F"]["fpr"]["value"] is not None


def test_without_a_manifest_there_are_none(tmp_path: Path) -> None:
    metrics = evaluate(Predictions(tmp_path).write(), resamples=5)
    assert metrics["subgroups"] == {"small": SMALL, "columns": {}, "left_out": {}}


def test_groups_without_an_image_have_no_row(tmp_path: Path) -> None:
    predictions = Predictions(tmp_path)
    paths = [row.path for row in predictions.rows]
    predictions.groups = Groups({"site": {"A": paths[:5], "B": ["test/gone.png"]}}, {"name": "why"})
    found = evaluate(predictions.write(), resamples=5)["subgroups"]
    assert [(each["group"], each["images"]) for each in found["columns"]["site"]] == [("A", 5)]
    assert found["left_out"] == {"name": "why"}


@pytest.mark.parametrize("content", ["{}", "[]", "no", '{"columns": {"a": 1}, "left_out": {}}'])
def test_damaged_groups_are_named(tmp_path: Path, content: str) -> None:
    folder = Predictions(tmp_path).write()
    (folder / "groups.json").write_text(content)
    with pytest.raises(InputError, match=r"groups\.json"):
        evaluate(folder, resamples=5)
