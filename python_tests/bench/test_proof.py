"""The proof that nothing changes: what it reads, and what it finds when something did."""

from __future__ import annotations

import base64
import copy
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from bench.proof.__main__ import main
from bench.proof.comparison import compare
from bench.proof.datasets import KINDS, write_dataset, write_resnet
from bench.proof.folders import dataset_groups, result_groups, run_groups
from bench.proof.page import figures
from bench.proof.values import array, numbers, numbers_in

Digest = dict[str, Any]


@pytest.fixture
def digest() -> Digest:
    groups = {
        "weights": {"encoder.weight": array(np.arange(6, dtype=np.float32).reshape(2, 3))},
        "scores": {"anomaly_score": numbers([0.123, 0.5]), "p_value": numbers([1, None])},
    }
    return {"failures": [], "cases": {"png/ddad": groups}}


def test_equal_digests_are_the_same_whatever_their_order(digest: Digest) -> None:
    other = copy.deepcopy(digest)
    scores = other["cases"]["png/ddad"]["scores"]
    scores["anomaly_score"] = scores.pop("anomaly_score")
    found = compare(digest, other)
    assert found.same
    assert found.equal == {"weights": 1, "scores": 2}
    assert not found.one_sided


def test_a_number_that_differs_is_shown_with_both_values(digest: Digest) -> None:
    other = copy.deepcopy(digest)
    other["cases"]["png/ddad"]["scores"]["anomaly_score"] = numbers([0.124, 0.5])
    found = compare(digest, other)
    assert not found.same
    assert found.differing == [
        "png/ddad: scores: anomaly_score: 1 of 2 differ, the first 0.123 against 0.124"
    ]


@pytest.mark.parametrize(("a", "b"), [(0.0, -0.0), (None, 0.0), (float("nan"), 0.0)])
def test_numbers_that_look_alike_differ(a: float, b: float, digest: Digest) -> None:
    other = copy.deepcopy(digest)
    digest["cases"]["png/ddad"]["scores"]["p_value"] = numbers([a])
    other["cases"]["png/ddad"]["scores"]["p_value"] = numbers([b])
    assert compare(digest, digest).same
    assert len(compare(digest, other).differing) == 1


def test_the_smallest_step_of_one_weight_is_found(tmp_path: Path) -> None:
    found = []
    for name, value in (("a", np.float32(1)), ("b", np.nextafter(np.float32(1), np.float32(2)))):
        (tmp_path / name).mkdir()
        weights = np.ones((3, 4), np.float32)
        weights[1, 2] = value
        save_file({"encoder.weight": weights}, tmp_path / name / "model.safetensors")
        found.append({"failures": [], "cases": {"png/ddad": run_groups(tmp_path / name)}})
    assert compare(found[0], found[0]).same
    (line,) = compare(found[0], found[1]).differing
    assert line == (
        "png/ddad: weights: encoder.weight: not the same F32 [3, 4], "
        "sum 12.0 against 12.00000011920929"
    )


def test_a_missing_group_or_case_is_as_bad_as_a_difference(digest: Digest) -> None:
    other = copy.deepcopy(digest)
    del other["cases"]["png/ddad"]["weights"]
    found = compare(digest, other)
    assert not found.same
    assert found.missing == ["png/ddad: group 'weights' is in A only"]
    assert compare(digest, {"failures": [], "cases": {}}).missing == [
        "case 'png/ddad' is in A only"
    ]
    assert not compare({**digest, "failures": ["medad fit: exit code 1"]}, digest).same
    nothing: Digest = {"failures": [], "cases": {}}
    assert not compare(nothing, nothing).same


def test_a_quantity_of_one_side_is_listed_unless_nothing_else_is_there(digest: Digest) -> None:
    other = copy.deepcopy(digest)
    other["cases"]["png/ddad"]["scores"]["uncertainty"] = numbers([0.1])
    found = compare(digest, other)
    assert found.same
    assert found.one_sided == ["png/ddad: scores: uncertainty is in B only"]
    other["cases"]["png/ddad"]["scores"] = {"score": numbers([0.123, 0.5])}
    assert compare(digest, other).missing == [
        "png/ddad: scores: A and B have no quantity in common"
    ]


def test_what_is_left_out_is_not_compared(digest: Digest) -> None:
    other = copy.deepcopy(digest)
    other["cases"]["png/ddad"]["scores"]["p_value"] = numbers([0.5, None])
    del other["cases"]["png/ddad"]["weights"]
    assert not compare(digest, other, ["weights/*"]).same
    assert compare(digest, other, ["weights/*", "scores/p_*"]).same


def test_the_command_compares_files(
    digest: Digest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text(json.dumps(digest))
    digest["cases"]["png/ddad"]["scores"]["p_value"] = numbers([0.5, None])
    b.write_text(json.dumps(digest))
    assert main(["compare", str(a), str(a)]) == 0
    assert "Nothing moved." in capsys.readouterr().out
    assert main(["compare", str(a), str(b)]) == 1
    assert "the first 1.0 against 0.5" in capsys.readouterr().out
    assert main(["compare", str(a), str(b), "--leave-out", "scores/p_value"]) == 0
    digest["cases"] |= {"nifti/ddad": {}}
    b.write_text(json.dumps(digest))
    assert main(["compare", str(a), str(b), "--leave-out", "scores/p_value"]) == 1
    capsys.readouterr()
    assert main(["compare", str(b), str(b), "--cases", "png/*"]) == 0
    assert main(["compare", str(b), str(b), "--cases", "dicom"]) == 1  # nothing to compare


def test_numbers_of_a_tree_keep_their_path_and_text_does_not_count() -> None:
    tree = {"a": {"value": 1, "reason": "none"}, "b": [1, 2.5], "c": [{"x": True}, "y", None]}
    assert numbers_in(tree) == {
        "a.value": numbers([1]),
        "b": numbers([1, 2.5]),
        "c.0.x": numbers([1]),
        "c.2": numbers([None]),
    }


def test_rows_are_compared_by_image_and_patients_without_their_names(tmp_path: Path) -> None:
    head = "path,patient,slice,label,anomaly_score,prediction\n"
    rows = ["b.png,aa,0,normal,0.5,normal\n", "a.png,bb,0,abnormal,0.75,abnormal\n"]
    patients = ["aa,normal,0.5\n", "bb,abnormal,0.75\n"]
    found = []
    for name, step in (("first", 1), ("second", -1)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "scores.csv").write_text(head + "".join(rows[::step]))
        (folder / "baselines.csv").write_text("mean\n" + "".join(["2\n", "1\n"][::step]))
        (folder / "patients.csv").write_text(
            "patient,label,anomaly_score\n" + "".join(patients[::step])
        )
        found.append(result_groups(folder))
    assert found[0] == found[1]
    assert found[0]["scores"]["anomaly_score"] == numbers([0.75, 0.5])
    assert found[0]["trivial baselines"]["mean"] == numbers([1, 2])
    assert found[0]["patients"]["label"] == numbers([0, 1])


def test_a_quantity_is_found_where_it_moved_to(tmp_path: Path) -> None:
    thresholds, outliers = {"score": {"threshold": 0.5}}, [{"path": "a", "anomaly_score": 0.75}]
    statistics = {"pixel_mean": np.zeros(3), "pixel_sd": np.ones(3)}
    weights = {"encoder.weight": np.ones(2, np.float32)}
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "thresholds.json").write_text(json.dumps(thresholds))
    (old / "training_outliers.json").write_text(json.dumps({"most_anomalous": outliers}))
    save_file(weights, old / "model.safetensors")
    save_file(statistics, old / "baselines.safetensors")
    new.mkdir()
    run = {"thresholds": thresholds, "training_outliers": outliers}
    (new / "run.json").write_text(json.dumps(run))
    moved = {f"baselines.{name}": value for name, value in statistics.items()}
    save_file(weights | moved, new / "model.safetensors")
    assert run_groups(old) == run_groups(new)
    assert len(run_groups(old)) == 4


def test_a_report_is_its_figures_without_names_and_versions() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((1, 2), np.uint8)).save(stream, "PNG")
    picture = base64.b64encode(stream.getvalue()).decode()
    page = f"""<html><head><title>7</title><style>p {{margin: 3px}}</style></head><body>
        <section id="summary"><p>Called 3 of 1,234 images, 95 % sure.</p>
        <dl><dt>Versions</dt><dd>torch 2.13.0</dd><dt>Images</dt><dd>18</dd></dl>
        <svg><path d="M1 2h3.5"/><text x="4">n = 5</text></svg></section>
        <table><tr><td>0.667 <bdi>99.png</bdi></td><td>1e-3</td></tr></table>
        <img src="data:image/png;base64,{picture}">
        <script>let x = 8</script></body></html>"""
    found = figures(page)
    assert found.pop("picture 0")["shape"] == [1, 2]
    assert found == {
        "summary: words": numbers([3, 18, 95, 1234]),
        "summary: charts": numbers([1, 2, 3.5, 4, 5]),
        "page: tables": numbers([0.667, 0.001]),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_data_set_has_the_same_bytes_every_time(kind: str, tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        write_dataset(kind, folder)
    assert dataset_groups(folders[0]) == dataset_groups(folders[1])


def test_the_weights_are_those_of_a_resnet(tmp_path: Path) -> None:
    from medad_fast.nets.resnet import ResNet18

    write_resnet(tmp_path / "weights.safetensors")
    ResNet18().load_published(tmp_path / "weights.safetensors")


def test_it_knows_nothing_of_the_release_that_it_runs_in() -> None:
    check = "import sys, bench.proof.__main__; sys.exit('medad_fast' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", check], cwd=root, check=False).returncode == 0
