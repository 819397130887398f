"""Which images a fit learns from, holds out and refuses, and what it records of them."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image as Picture

import medad_fast
from medad_fast.data.cohort import pixel_digests
from medad_fast.errors import InputError
from medad_fast.methods import create, list_methods
from medad_fast.verbs.fit import fit
from python_tests.methods.small import SMALL
from python_tests.verbs.fit.small_fits import NAME, TINY, write_pictures


def test_without_a_validation_split_some_patients_are_held_out_and_recorded(tmp_path):
    write_pictures(tmp_path / "data/train/normal", 12, 1)
    run = fit(NAME, tmp_path / "data", tmp_path / "run", device="cpu", max_steps=1, **TINY)
    names = {split: {c["case"] for c in run.splits[split]} for split in ("train", "validation")}
    assert len(names["validation"]) == run.data["validation_images"] >= 1
    assert len(names["train"]) == run.data["train_images"]
    assert not names["train"] & names["validation"]


def test_a_folder_of_pictures_without_any_layout_is_taken_as_normal(tmp_path):
    write_pictures(tmp_path / "data", 10, 1)
    run = fit(NAME, tmp_path / "data", tmp_path / "run", device="cpu", max_steps=1, **TINY)
    assert run.data["train_images"] + run.data["validation_images"] == 10


def test_too_few_normal_images_are_refused(tmp_path):
    write_pictures(tmp_path / "data/train/normal", 7, 1)
    write_pictures(tmp_path / "data/validation/normal", 2, 2)
    with pytest.raises(InputError, match=r"7 normal training images .* at least 8"):
        fit(NAME, tmp_path / "data", tmp_path / "run", **TINY)


def test_validation_images_keep_their_volume_and_patient_for_decisions_on_patients(tmp_path):
    for patient in range(6):
        for scan in range(2):
            write_pictures(tmp_path / f"d/train/normal/sub-{patient}/{scan}", 2, 2 * patient + scan)
    run = fit(NAME, tmp_path / "d", tmp_path / "run", device="cpu", target_fpr=0.25, **TINY)
    score = medad_fast.load(tmp_path / "run").thresholds["score"]
    assert (score["images"], score["target_fpr"], score["expected_fpr"]) == (4, 0.25, 0.2)
    assert sorted(score["volumes"]) == [0, 1, 2, 3]
    assert score["patients"] == [0, 0, 0, 0]
    assert score == run.thresholds["score"]
    with pytest.raises(InputError, match="target_fpr"):
        fit(NAME, tmp_path / "d", tmp_path / "other", target_fpr=0, **TINY)
    assert not (tmp_path / "other").exists()


def test_identical_pixels_in_two_splits_are_refused_whatever_the_file(tmp_path):
    write_pictures(tmp_path / "d/train/normal", 8, 1)
    write_pictures(tmp_path / "d/validation/normal", 2, 2)
    with Picture.open(tmp_path / "d/train/normal/1-03.png") as picture:
        picture.convert("RGB").save(tmp_path / "d/validation/normal/copy.png")
    with pytest.raises(InputError, match=r"copy\.png \(validation\).*1-03\.png \(train\)"):
        fit(NAME, tmp_path / "d", tmp_path / "run", device="cpu", **TINY)


def test_a_test_image_that_was_learned_from_is_listed_and_not_judged(tmp_path):
    write_pictures(tmp_path / "d/train/normal", 8, 1)
    write_pictures(tmp_path / "d/validation/normal", 2, 2)
    run = fit(NAME, tmp_path / "d", tmp_path / "run", device="cpu", **TINY)
    write_pictures(tmp_path / "d/test/normal", 2, 3)
    for split, name in (("train", "1-05"), ("validation", "2-01")):
        (tmp_path / f"d/test/normal/x{name}.png").write_bytes(
            (tmp_path / f"d/{split}/normal/{name}.png").read_bytes() + b"another file"
        )
    about = medad_fast.predict(run, tmp_path / "d", tmp_path / "out")
    assert (about["counts"]["images"], about["counts"]["failed_files"]) == (2, 2)
    errors = (tmp_path / "out/errors.jsonl").read_text().splitlines()
    for line, source in zip(errors, ("1-05.png (train)", "2-01.png (validation)"), strict=True):
        assert source in json.loads(line)["reason"]
    # Loose files have no labels and are not judged: anyone may look at the training images.
    about = medad_fast.predict(run, tmp_path / "d/train/normal", tmp_path / "loose")
    assert about["counts"]["images"] == 8


def test_patients_are_recorded_as_salted_hashes_only(data, tmp_path):
    a, b = (
        fit(NAME, data, tmp_path / name, device="cpu", max_steps=1, **TINY).splits for name in "ab"
    )
    assert set(a) == {"train", "validation"}  # no salt: with it, a list of patients would do
    assert [c["case"] for c in a["train"]] == [c["case"] for c in b["train"]]
    assert not {c["patient"] for c in a["train"]} & {c["patient"] for c in b["train"]}


def test_an_abnormal_image_among_the_normal_ones_is_named_by_its_relative_path(data, tmp_path):
    root = tmp_path / "data"
    write_pictures(root / "train/normal", 20, 1)
    write_pictures(root / "validation/normal", 4, 2)
    odd = torch.rand(40, 40, generator=torch.Generator().manual_seed(0)).mul(255).byte().numpy()
    Picture.fromarray(odd).save(root / "train/normal/odd.png")
    run = fit(NAME, root, tmp_path / "run", device="cpu", **{**TINY, "epochs": 6})
    (outlier,) = run.training_outliers
    assert (outlier.path, outlier.slice) == ("train/normal/odd.png", 0)
    text = (tmp_path / "run/training_outliers.json").read_text()
    assert str(tmp_path) not in text
    assert medad_fast.load(tmp_path / "run").training_outliers == run.training_outliers


@pytest.mark.parametrize("name", list_methods())
def test_what_sets_the_threshold_is_as_new_to_the_method_as_what_it_will_score(
    name, data, tmp_path, monkeypatch
):
    """Otherwise scores of normal images lie higher than those of validation, and the rate too."""
    settings = {**SMALL[name], "image_size": 32}
    method = create(name, **settings)
    finish, seen = type(method).finish, []

    def recording(self, train_normal, validation_normal):
        seen.extend(pixel_digests(torch.cat([*train_normal, *validation_normal])))
        finish(self, train_normal, validation_normal)

    monkeypatch.setattr(type(method), "finish", recording)
    run = fit(name, data, tmp_path, device="cpu", max_steps=1, **settings)
    pixels = {
        split: {digest for case in cases if case["label"] == "normal" for digest in case["pixels"]}
        for split, cases in run.splits.items()
    }
    tuning = pixels.get("tuning", set())
    assert set(seen) == (pixels["train"] | tuning)
    assert not (set(seen) & pixels["validation"])
    assert len(tuning) == run.data["tuning_images"] == (2 if method.tunes else 0)
    assert len(pixels["validation"]) == run.thresholds["score"]["images"] == 4 - len(tuning)


def test_cradl_tunes_only_where_it_has_a_choice():
    assert create("cradl", **SMALL["cradl"], components=(1, 2)).tunes
    for settings in ({"components": (2,)}, {"components": (1, 2), "density": "flow"}):
        assert not create("cradl", **{**SMALL["cradl"], **settings}).tunes


def test_a_test_image_that_a_method_tuned_on_is_known(tmp_path):
    write_pictures(tmp_path / "d/train/normal", 8, 1)
    write_pictures(tmp_path / "d/validation/normal", 2, 2)
    settings = {**SMALL["salad"], "image_size": 32}
    run = fit("salad", tmp_path / "d", tmp_path / "run", device="cpu", max_steps=1, **settings)
    (tuned,) = run.splits["tuning"]
    (tmp_path / "d/test/normal").mkdir(parents=True)
    for path in (tmp_path / "d/validation/normal").iterdir():
        path.rename(tmp_path / "d/test/normal" / path.name)
    write_pictures(tmp_path / "e/test/normal", 1, 3)
    for path in (tmp_path / "e/test/normal").iterdir():
        path.rename(tmp_path / "d/test/normal" / path.name)
    medad_fast.predict(run, tmp_path / "d", tmp_path / "out")
    reasons = (tmp_path / "out/errors.jsonl").read_text()
    assert f"{tuned['case']} (validation)" in reasons
    assert len(reasons.splitlines()) == 2


def test_a_picture_twice_in_validation_is_no_leak_wherever_its_copies_go(tmp_path):
    write_pictures(tmp_path / "d/train/normal", 8, 1)
    write_pictures(tmp_path / "d/validation/normal", 1, 2)
    (original,) = (tmp_path / "d/validation/normal").iterdir()
    (original.parent / "copy.png").write_bytes(original.read_bytes())
    settings = {**SMALL["salad"], "image_size": 32}
    run = fit("salad", tmp_path / "d", tmp_path / "run", device="cpu", max_steps=1, **settings)
    assert (run.data["tuning_images"], run.data["validation_images"]) == (1, 1)


def test_pictures_without_contrast_are_no_copies_of_each_other(tmp_path):
    """Resizing gives them a trace of contrast, the same for all."""
    write_pictures(tmp_path / "d/train/normal", 8, 1)
    write_pictures(tmp_path / "d/validation/normal", 2, 2)
    for place in ("train/normal", "validation/normal"):
        Picture.new("L", (240, 240)).save(tmp_path / "d" / place / "black.png")
    settings = {**TINY, "image_size": 64}
    fit(NAME, tmp_path / "d", tmp_path / "run", device="cpu", max_steps=1, **settings)


def test_an_unlabeled_image_that_was_learned_from_is_known(tmp_path):
    write_pictures(tmp_path / "d/train/normal", 8, 1)
    write_pictures(tmp_path / "d/validation/normal", 2, 2)
    write_pictures(tmp_path / "d/train/unlabeled", 3, 3)
    write_pictures(tmp_path / "d/test/normal", 1, 4)
    (copied, *_) = sorted((tmp_path / "d/train/unlabeled").iterdir())
    (tmp_path / "d/test/normal/copy.png").write_bytes(copied.read_bytes() + b"another file")
    settings = {**SMALL["ddad"], "image_size": 32}
    run = fit("ddad", tmp_path / "d", tmp_path / "run", device="cpu", max_steps=1, **settings)
    about = medad_fast.predict(run, tmp_path / "d", tmp_path / "out")
    assert (about["counts"]["images"], about["counts"]["failed_files"]) == (1, 1)
    assert f"{copied.name} (train)" in (tmp_path / "out/errors.jsonl").read_text()
    # What a method did not learn from it may be asked about.
    other = fit(NAME, tmp_path / "d", tmp_path / "plain", device="cpu", max_steps=1, **TINY)
    about = medad_fast.predict(other, tmp_path / "d", tmp_path / "out2")
    assert about["counts"]["images"] == 2


def test_folders_that_say_abnormal_are_not_learned_as_normal(tmp_path):
    write_pictures(tmp_path / "a/normal", 9, 1)
    write_pictures(tmp_path / "a/Abnormal", 2, 2)
    with pytest.raises(InputError, match=r"lies in a folder Abnormal"):
        fit(NAME, tmp_path / "a", tmp_path / "run", **TINY)
    write_pictures(tmp_path / "b/train/normal", 9, 1)
    write_pictures(tmp_path / "b/val/normal", 2, 2)
    with pytest.raises(InputError, match=r"val: is not a folder of this layout.*validation"):
        fit(NAME, tmp_path / "b", tmp_path / "run", **TINY)
    assert not (tmp_path / "run").exists()
