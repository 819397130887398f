"""Groups leave the dataset with the predictions; the values that they were made of do not."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from medad_fast import evaluate, predict
from medad_fast.artifacts.run import Run
from medad_fast.verbs.report import write_report
from python_tests.data.files import write_png, write_series
from python_tests.verbs.predict.brightness import anatomy

FILES = 24
PERSONAL = ("PatientName", "study_id", "BirthDate", "comment")


def write_data(root: Path) -> dict[str, list[str]]:
    """Twelve patients with two pictures each; returns the further columns of the manifest."""
    patients = [number // 2 for number in range(FILES)]
    columns = {
        **{name: [f"Qx{name[:2]}{each:02d}zv" for each in patients] for name in PERSONAL},
        "ward": [f"Qxwa{number:02d}zv" for number in range(FILES)],
        "hospital": ["Qxhospitalzv"] * FILES,
        "age": [f"{30.0625 + each * 4.1875:g}" for each in patients],
        "scanner": ["A", "B", "C"] * (FILES // 3),
        "dose": [f"{each * 1.0078125:g}" for each in patients],
    }
    with (root / "list.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split", "patient", *columns])
        for number, patient in enumerate(patients):
            label = ("normal", "abnormal")[number % 2]
            values = [column[number] for column in columns.values()]
            table.writerow([f"{number}.png", label, "test", f"p{patient}", *values])
    return columns


@pytest.fixture
def scored(run: Run, tmp_path: Path) -> dict[str, list[str]]:
    (tmp_path / "data").mkdir()
    for number in range(FILES):
        pixels = anatomy(number)[:, :, 0].clip(0, 255).astype(np.uint8)
        write_png(tmp_path / f"data/{number}.png", pixels)
    columns = write_data(tmp_path / "data")
    predict(run, tmp_path / "data/list.csv", tmp_path / "out")
    return columns


def test_groups_are_kept_in_their_order_with_their_files(
    scored: dict[str, list[str]], tmp_path: Path
) -> None:
    found = json.loads((tmp_path / "out/groups.json").read_text(encoding="utf-8"))
    assert list(found["columns"]) == ["age", "scanner", "dose"]
    assert list(found["columns"]["age"]) == ["18 to 39", "40 to 59", "60 to 79"]
    assert found["columns"]["age"]["18 to 39"] == [f"{number}.png" for number in range(6)]
    assert found["columns"]["scanner"]["B"] == [f"{number}.png" for number in range(1, FILES, 3)]
    for groups in found["columns"].values():
        files = itertools.chain.from_iterable(groups.values())
        assert sorted(files) == sorted(f"{number}.png" for number in range(FILES))
    personal = "its name sounds like something that tells persons apart"
    assert found["left_out"] == {
        **dict.fromkeys(PERSONAL, personal),
        "ward": "24 different values in 12 patients",
        "hospital": "all images have the same value",
    }
    subgroups = evaluate(tmp_path / "out", resamples=5)["subgroups"]
    assert subgroups["left_out"] == found["left_out"]
    for column, groups in found["columns"].items():
        assert [(each["group"], each["images"]) for each in subgroups["columns"][column]] == [
            (group, len(files)) for group, files in groups.items()
        ]


def test_no_value_of_a_refused_column_is_in_any_file(
    scored: dict[str, list[str]], tmp_path: Path
) -> None:
    evaluate(tmp_path / "out", resamples=5)
    write_report(tmp_path / "out")
    shown = {"0", *scored["scanner"]}
    groups = json.loads((tmp_path / "out/groups.json").read_text(encoding="utf-8"))["columns"]
    shown |= {word for group in groups["dose"] for word in group.split()}  # ends of quarters
    canaries = {value for column in scored.values() for value in column} - shown
    assert len(canaries) > 2 * FILES
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"groups.json", "predict.json", "metrics.json", "report.html"} <= {f.name for f in files}
    for path in files:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        # Numbers of other tables may hold the same digits by chance; whole words do not.
        words = set(content.replace(b'"', b" ").replace(b",", b" ").replace(b">", b" ").split())
        found = [value for value in canaries if value.encode() in words]
        found += [
            value for value in canaries if value.startswith("Qx") and value.encode() in content
        ]
        assert not found, path


def test_a_series_has_the_groups_of_its_folder(run: Run, tmp_path: Path) -> None:
    for number in range(4):
        volume = np.stack([anatomy(number)[:, :, 0].clip(0, 500)] * 2).astype(np.uint16)
        tags = {"SeriesInstanceUID": f"1.2.{number}", "Modality": "CT", "PatientID": f"{number}"}
        write_series(tmp_path / f"data/scan{number}", volume, BitsStored=12, **tags)
    rows = [f"scan{number},normal,test,{('PA', 'AP')[number // 2]}" for number in range(4)]
    (tmp_path / "data/manifest.csv").write_text("path,label,split,view\n" + "\n".join(rows) + "\n")
    predict(run, tmp_path / "data", tmp_path / "out")
    found = json.loads((tmp_path / "out/groups.json").read_text(encoding="utf-8"))
    assert found["columns"]["view"] == {
        "AP": ["scan2/002.dcm", "scan3/002.dcm"],
        "PA": ["scan0/002.dcm", "scan1/002.dcm"],
    }


def test_without_a_manifest_or_labels_there_are_no_groups(
    run: Run, dataset: Path, pictures: Path, tmp_path: Path
) -> None:
    predict(run, dataset, tmp_path / "out")
    nothing = {"columns": {}, "left_out": {}}
    assert json.loads((tmp_path / "out/groups.json").read_text(encoding="utf-8")) == nothing
    rows = [f"picture {number}.png,unlabeled,test,{number}" for number in range(3)]
    (pictures / "manifest.csv").write_text("path,label,split,ward\n" + "\n".join(rows) + "\n")
    predict(run, pictures, tmp_path / "out")
    assert json.loads((tmp_path / "out/groups.json").read_text(encoding="utf-8")) == nothing
