"""Every layout of a dataset has its documented outcome."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from medad_fast.data import load_dataset, require_trainable
from medad_fast.errors import InputError
from python_tests.data.files import grey_png, write_dicom, write_series


def _counts(dataset) -> dict[str, int]:
    counts: dict[str, int] = {}
    for case in dataset.cases:
        key = f"{case.split}/{case.label}"
        counts[key] = counts.get(key, 0) + 1
    return counts


def _folders(root: Path, **sizes: int) -> Path:
    """A folder layout; ``train_normal=3`` makes three pictures in ``train/normal``."""
    for name, count in sizes.items():
        for k in range(count):
            grey_png(root / name.replace("_", "/") / f"{k}.png", k)
    return root


def test_the_folder_layout_gives_labels_splits_and_masks(tmp_path):
    root = _folders(
        tmp_path,
        train_normal=3,
        train_unlabeled=2,
        validation_normal=1,
        test_normal=2,
        test_abnormal=2,
        test_masks=1,
    )
    dataset = load_dataset(root)
    assert _counts(dataset) == {
        "train/normal": 3,
        "train/unlabeled": 2,
        "validation/normal": 1,
        "test/normal": 2,
        "test/abnormal": 2,
    }
    first, second = dataset.select("test", "abnormal")
    assert first.mask == root / "test" / "masks" / "0.png"
    assert second.mask is None
    assert first.name == "test/abnormal/0.png"
    assert len({case.patient for case in dataset.cases}) == 10


def test_masks_are_found_by_name_whatever_their_format(tmp_path):
    _folders(tmp_path, train_normal=1)
    write_dicom(tmp_path / "test" / "abnormal" / "a.dcm", np.zeros((4, 4), np.uint8))
    series = np.zeros((3, 4, 4), np.int16)
    write_series(tmp_path / "test" / "abnormal" / "one" / "scan", series)
    grey_png(tmp_path / "test" / "masks" / "a.png")
    grey_png(tmp_path / "test" / "masks" / "one" / "scan.png")
    masks = [case.mask for case in load_dataset(tmp_path).select("test", "abnormal")]
    assert [mask.name for mask in masks if mask] == ["a.png", "scan.png"]


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({}, "holds no image"),
        ({"train_abnormal": 1}, "train/abnormal: is not a folder of this layout"),
        ({"train_normal": 1, "test_masks": 1}, "is a mask without an image"),
        ({"train": 1}, "lies outside"),
    ],
)
def test_a_layout_that_contradicts_itself_is_refused(tmp_path, sizes, reason):
    with pytest.raises(InputError, match=reason):
        load_dataset(_folders(tmp_path, **sizes))


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"test_abnormal": 3}, "no normal training images.*only test/abnormal"),
        ({"train_unlabeled": 9}, "no normal training images.*only train/unlabeled"),
        ({"train_normal": 7}, "has 7 normal training images or volumes, at least 8"),
    ],
)
def test_too_few_normal_images_are_refused_before_training(tmp_path, sizes, reason):
    dataset = load_dataset(_folders(tmp_path, **sizes))
    with pytest.raises(InputError, match=reason):
        require_trainable(dataset)


def test_a_test_set_of_one_class_can_be_loaded(tmp_path):
    dataset = load_dataset(_folders(tmp_path, train_normal=8, test_normal=2))
    require_trainable(dataset)
    assert _counts(dataset)["test/normal"] == 2


def test_loose_files_are_unlabeled_images_to_score_unless_told_otherwise(tmp_path):
    _folders(tmp_path, a=2, b_c=1)
    assert _counts(load_dataset(tmp_path)) == {"test/unlabeled": 3}
    assert _counts(load_dataset(str(tmp_path), loose_files_are="normal")) == {"train/normal": 3}


def test_one_file_and_a_pattern_are_loose_files(tmp_path):
    _folders(tmp_path, a=2, b=1)
    (case,) = load_dataset(tmp_path / "a" / "0.png").cases
    assert case.name == "0.png"
    dataset = load_dataset(str(tmp_path / "*" / "0.png"))
    assert [case.name for case in dataset.cases] == ["a/0.png", "b/0.png"]
    assert len(load_dataset(str(tmp_path / "**" / "*.png")).cases) == 3


@pytest.mark.parametrize("name", ["missing", "*.nothing", "pipe"])
def test_nothing_to_read_is_said_in_one_line(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"does not exist|holds no image|neither") as caught:
        load_dataset(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def _manifest(root: Path, *lines: str) -> Path:
    for k in range(4):
        grey_png(root / f"{k}.png", k)
    path = root / "manifest.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


def test_a_manifest_gives_patients_masks_and_groups(tmp_path):
    path = _manifest(
        tmp_path,
        "path,label,split,patient,mask,scanner",
        "0.png,normal,train,p1,,A",
        "1.png,unlabeled,train,,,B",
        '2.png,abnormal,test,"p,2",3.png,A',
    )
    for data in (path, tmp_path):
        first, second, third = load_dataset(data).cases
        assert (first.patient, first.groups) == ("p1", {"scanner": "A"})
        assert (second.patient, second.label, second.mask) == ("1.png", "unlabeled", None)
        assert (third.patient, third.mask) == ("p,2", tmp_path / "3.png")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["path,label", "0.png,normal"], "wants the columns path,label,split"),
        (["path,label,split", "0.png,healthy,train"], "line 2: its label is none of"),
        (["path,label,split", "0.png,normal,dev"], "line 2: its split is none of"),
        (["path,label,split", "0.png,abnormal,train"], "no use in the split train"),
        (["path,label,split", "no.png,normal,train"], "does not exist"),
        (["path,label,split", "../0.png,normal,train"], "is not a path inside"),
        (["path,label,split", "/etc/passwd,normal,train"], "is not a path inside"),
        (["path,label,split,mask", "0.png,abnormal,test,no.png"], "mask .* does not exist"),
        (["path,label,split", "0.png,normal"], "line 2 does not have 3 fields"),
        (["path,label,split", "0.png,normal,train,1"], "line 2 does not have 3 fields"),
        (["path,label,split", "0.png,normal,train", "0.png,normal,train"], "is the same file"),
        (["path,label,split", '"0.png,normal,train'], "CSV"),
        (["path,label,split"], "holds no image"),
    ],
)
def test_a_wrong_manifest_is_refused_by_line(tmp_path, lines, reason):
    with pytest.raises(InputError, match=reason):
        load_dataset(_manifest(tmp_path, *lines))


def _data_json(root: Path, table: object) -> Path:
    for k in range(6):
        grey_png(root / "images" / f"{k}.png", k)
    path = root / "data.json"
    path.write_text(json.dumps(table))
    return path


def test_the_public_json_layout_is_read(tmp_path):
    path = _data_json(
        tmp_path,
        {
            "train": {"0": ["0.png"], "unlabeled": {"0": ["1.png"], "1": ["2.png"]}},
            "test": {"0": ["3.png"], "1": ["4.png", "5.png"]},
        },
    )
    for data in (path, tmp_path):
        dataset = load_dataset(data)
        assert _counts(dataset) == {
            "train/normal": 1,
            "train/unlabeled": 2,
            "test/normal": 1,
            "test/abnormal": 2,
        }
        assert dataset.cases[0].name == "images/0.png"


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ([1], "must be an object"),
        ({"train": {"2": []}}, "train must be an object with no keys but 0, unlabeled"),
        ({"train": {"0": "0.png"}}, "train.0 must be a list"),
        ({"train": {"0": [7]}}, "train.0 must be a list"),
        ({"train": {"0": ["../data.json"]}}, "not a path inside"),
        ({"train": {"0": ["9.png"]}}, "does not exist"),
        ({"train": {"0": []}}, "holds no image"),
    ],
)
def test_a_wrong_json_layout_is_refused(tmp_path, table, reason):
    with pytest.raises(InputError, match=reason):
        load_dataset(_data_json(tmp_path, table))


def test_a_patient_in_two_splits_is_told_by_files_not_by_name(tmp_path):
    for split, k in (("train", 0), ("test", 1)):
        path = tmp_path / split / "normal" / f"{k}.dcm"
        write_dicom(path, np.full((4, 4), k, np.uint8), PatientID="SECRET^NAME")
    with pytest.raises(InputError, match="same patient") as caught:
        load_dataset(tmp_path)
    assert "train/normal/0.dcm" in str(caught.value)
    assert "test/normal/1.dcm" in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_a_subject_in_the_path_is_the_patient(tmp_path):
    grey_png(tmp_path / "sub-01" / "ses-1" / "sub-01_ses-1_T1w.png", 1)
    grey_png(tmp_path / "sub-01" / "ses-2" / "sub-01_ses-2_T1w.png", 2)
    grey_png(tmp_path / "sub-sim-007_T1w.png", 3)
    patients = [case.patient for case in load_dataset(tmp_path).cases]
    assert patients == ["sub-01", "sub-01", "sub-sim-007"]


def test_files_are_walked_once_in_order_without_following_loops(tmp_path):
    grey_png(tmp_path / "b" / "ünïcode name\n.png", 1)
    grey_png(tmp_path / "a.png", 2)
    (tmp_path / "b" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "again.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not an image")
    names = [case.name for case in load_dataset(tmp_path).cases]
    assert names == ["a.png", "b/ünïcode name\n.png"]


def test_a_file_under_two_labels_is_refused(tmp_path):
    _folders(tmp_path, train_normal=1)
    (tmp_path / "test" / "abnormal").mkdir(parents=True)
    os.link(tmp_path / "train" / "normal" / "0.png", tmp_path / "test" / "abnormal" / "x.png")
    with pytest.raises(InputError, match="is the same file as"):
        load_dataset(tmp_path)


def test_a_dicom_file_needs_no_suffix(tmp_path):
    write_dicom(tmp_path / "IM0001", np.zeros((4, 4), np.uint8))
    (tmp_path / "README").write_text("no image")
    assert [case.name for case in load_dataset(tmp_path).cases] == ["IM0001"]


def test_finished_predictions_within_a_folder_of_images_are_none_of_its_images(tmp_path):
    root = _folders(tmp_path, scans=2, results_overlays=2)
    assert len(load_dataset(root).cases) == 4
    (root / "results/predict.json").write_text("{}")
    assert [case.name for case in load_dataset(root).cases] == ["scans/0.png", "scans/1.png"]


def test_masks_are_no_images_where_the_folder_test_is_given_by_itself(tmp_path):
    root = _folders(tmp_path, test_normal=2, test_abnormal=1, test_masks=1)
    names = [case.name for case in load_dataset(root / "test").cases]
    assert names == ["abnormal/0.png", "normal/0.png", "normal/1.png"]
