"""A saved run is what was saved, or an error that names the file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil

import nibabel
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from medad_fast.artifacts import run as checkpoint
from medad_fast.artifacts.run import FILES, Run, load
from medad_fast.data.pipeline import Pipeline
from medad_fast.data.preprocess import PreprocessConfig
from medad_fast.errors import CheckpointError, DeviceError, InputError
from medad_fast.methods import list_methods
from medad_fast.training.baselines import Baselines
from medad_fast.training.outliers import Outlier
from medad_fast.training.thresholds import choose
from python_tests.methods.small import discs, small


def make_run(folder, name="patchcl-ae", **overrides):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").write_text('{"stage": "contrast", "step": 1}\n')
    images = discs(8)
    method = small(name, **overrides).eval()
    run = Run(
        path=folder,
        name=name,
        method=method,
        pipeline=Pipeline(PreprocessConfig(image_size=32, channels=1)),
        thresholds=choose(method.predict(images).anomaly_score),
        baselines=Baselines.fit(images),
        seed=3,
        data={"train_images": 8},
        splits={"salt": "s", "train": [], "validation": []},
    )
    run.save()
    return run


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("saved")).path


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def rehash(folder, *names):
    """Make the manifest agree with changed files, as an attacker or a careless tool would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in names:
        manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", list_methods())
def test_a_loaded_run_scores_bit_for_bit_like_the_saved_one(name, tmp_path):
    run = make_run(tmp_path, name)
    again = load(tmp_path)
    images = discs(5, seed=4)
    for before, after in zip(run.predict(images), again.predict(images), strict=True):
        assert torch.equal(before, after)
    assert again.method.config == run.method.config
    assert again.pipeline.config == run.pipeline.config
    assert (again.name, again.seed, again.data) == (run.name, run.seed, run.data)
    assert (again.thresholds, again.splits) == (run.thresholds, run.splits)
    for key, value in run.baselines.values(images).items():
        torch.testing.assert_close(
            again.baselines.values(images)[key], value, rtol=0, atol=0, equal_nan=True
        )


def test_the_files_are_text_and_safetensors_only(saved):
    assert sorted(path.name for path in saved.iterdir()) == sorted([*FILES, "manifest.json"])
    for name in FILES:
        data = (saved / name).read_bytes()
        assert b"\x80\x02" not in data[:2]
        if name.endswith(".safetensors"):
            load_file(saved / name)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_every_truncation_is_noticed_and_the_file_is_named(name, folder):
    whole = (folder / name).read_bytes()
    for length in sorted({0, 1, 8, 64, *range(100, len(whole), len(whole) // 6 + 1)}):
        (folder / name).write_bytes(whole[: min(length, len(whole) - 1)])
        with pytest.raises(CheckpointError, match=re.escape(name)):
            load(folder)


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_noticed_and_the_file_is_named(name, folder):
    whole = (folder / name).read_bytes()
    places = np.random.default_rng(0).integers(0, len(whole) * 8, 12)
    for place in places.tolist():
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        (folder / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=re.escape(name)):
            load(folder)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_every_missing_file_is_noticed_and_named(name, folder):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=re.escape(name)):
        load(folder)


def change_manifest(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def as_version_1(folder, *without):
    """What releases before the version was raised wrote."""
    files = json.loads((folder / "manifest.json").read_text())["files"]
    for name in without:
        (folder / name).unlink()
        del files[name]
    change_manifest(folder, format_version=1, files=files)


def test_a_newer_format_is_refused_in_words(folder):
    newer = checkpoint.FORMAT_VERSION + 1
    change_manifest(folder, format_version=newer)
    message = rf"version {newer}.*reads versions 1 to {newer - 1}.*newer medad-fast"
    with pytest.raises(CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize("version", [0, -1, "2", 1.5, None, True])
def test_what_is_no_format_version_is_refused(folder, version):
    change_manifest(folder, format_version=version)
    with pytest.raises(
        CheckpointError, match=r"manifest\.json is damaged: .* is no format version"
    ):
        load(folder)


def test_outliers_come_back_equal_whatever_their_names(saved, tmp_path):
    outliers = (Outlier("a/\udcff\n.png", 3, 0.1 + 0.2), Outlier("b", 0, -1.5))
    shutil.copy(saved / "log.jsonl", tmp_path)
    dataclasses.replace(load(saved), path=tmp_path, training_outliers=outliers).save()
    (tmp_path / "training_outliers.json").read_bytes().decode("ascii")
    assert load(tmp_path).training_outliers == outliers


@pytest.mark.parametrize("without", [(), ("training_outliers.json",)])
def test_a_run_of_version_1_scores_as_it_did(folder, without):
    images = discs(5, seed=4)
    before = load(folder).score(images).anomaly_score
    as_version_1(folder, *without)
    run = load(folder)
    assert torch.equal(run.score(images).anomaly_score, before)
    assert run.training_outliers == ()


def test_a_run_of_version_2_scores_as_it_did(folder):
    images = discs(5, seed=4)
    before = load(folder)
    change_manifest(folder, format_version=2)
    run = load(folder)
    assert torch.equal(run.score(images).anomaly_score, before.score(images).anomaly_score)
    assert run.training_outliers == before.training_outliers


def test_a_run_of_version_1_without_calibration_says_what_it_lacks(folder):
    thresholds = json.loads((folder / "thresholds.json").read_text())
    del thresholds["score"]["calibration"]
    (folder / "thresholds.json").write_text(json.dumps(thresholds))
    rehash(folder, "thresholds.json")
    as_version_1(folder, "training_outliers.json")
    with pytest.raises(CheckpointError, match=r"version 1.*p-values.*fit it again") as caught:
        load(folder)
    assert "damaged" not in str(caught.value)


def test_the_list_of_outliers_is_missed_in_version_2(folder):
    as_version_1(folder, "training_outliers.json")
    change_manifest(folder, format_version=2)
    with pytest.raises(CheckpointError, match=r"must list .*training_outliers\.json"):
        load(folder)


def test_a_run_is_told_by_the_sha256_of_its_manifest(folder, saved):
    own = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert load(folder).sha256 == own
    (folder / "log.jsonl").write_text("{}\n")
    rehash(folder, "log.jsonl")
    assert load(folder).sha256 != own == load(saved).sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("decoder.to_image.bias"), "lacks tensor 'decoder.to_image.bias'"),
        (lambda t: t.update(extra=torch.zeros(1)), "has an unknown tensor 'extra'"),
        (
            lambda t: t.update({"decoder.to_image.bias": torch.zeros(2)}),
            r"must be torch.float32 \(1,\), got torch.float32 \(2,\)",
        ),
        (
            lambda t: t.update({"decoder.to_image.bias": torch.zeros(1).half()}),
            "must be torch.float32",
        ),
        (
            lambda t: t.update({"decoder.to_image.bias": torch.tensor([torch.nan])}),
            "values that are not finite",
        ),
    ],
)
def test_tensors_that_do_not_belong_are_named(change, message, folder):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    rehash(folder, "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(method="other"),
        lambda c: c.pop("preprocess"),
        lambda c: c["config"].update(width=0),
        lambda c: c["config"].update(wide=4),
        lambda c: c["preprocess"].update(image_size="large"),
        lambda c: c["preprocess"].update(unknown=1),
    ],
)
def test_settings_that_cannot_be_name_the_file(change, folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    change(config)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rehash(folder, "config.yaml")
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        load(folder)


def test_yaml_that_would_run_code_is_refused(folder):
    (folder / "config.yaml").write_text("!!python/object/apply:os.system ['touch canary']")
    rehash(folder, "config.yaml")
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        load(folder)


def test_a_manifest_cannot_point_outside_the_folder(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../other"] = "0"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="must list"):
        load(folder)


def test_a_folder_without_a_run_is_told_from_an_unfinished_one(tmp_path):
    with pytest.raises(CheckpointError, match="is not a folder"):
        load(tmp_path / "none")
    with pytest.raises(CheckpointError, match="not a finished run"):
        load(tmp_path)


def test_a_disk_error_leaves_no_run(tmp_path, monkeypatch):
    def full(*_):
        raise DeviceError("no space")

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    with pytest.raises(DeviceError):
        make_run(tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_prepared_images_are_checked(saved):
    run = load(saved)
    for wrong in (
        torch.zeros(1, 3, 32, 32),
        torch.zeros(1, 1, 48, 48),
        torch.zeros(1, 1, 32, 32, dtype=torch.uint8),
        torch.full((1, 1, 32, 32), 2.0),
        torch.full((1, 1, 32, 32), torch.nan),
        torch.zeros(32),
    ):
        with pytest.raises(InputError, match="source must"):
            run.predict(wrong)
    assert run.predict(torch.zeros(0, 1, 32, 32)).anomaly_map.shape == (0, 1, 32, 32)


def test_tensors_and_arrays_score_alike(saved):
    images = discs(3)
    run = load(saved)
    for a, b in zip(run.predict(images), run.predict(images.numpy()), strict=True):
        assert torch.equal(a, b)


def test_a_stack_in_stored_units_scores_on_its_own_grid(saved):
    stack = ((discs(3, size=40)[:, 0] + 1) * 500).numpy().astype(np.uint16)
    score, anomaly_map = load(saved).predict(stack)
    assert score.shape == (3,)
    assert anomaly_map.shape == (3, 1, 40, 40)
    one, map_of_one = load(saved).predict(stack[0])
    assert (one.shape, map_of_one.shape) == ((1,), (1, 1, 40, 40))
    with pytest.raises(InputError, match="must be real with shape"):
        load(saved).predict(stack.astype(str))


def test_an_empty_slice_of_a_volume_has_no_score_and_an_empty_map(saved, tmp_path):
    stack = ((discs(3, size=40)[:, 0] + 1) * 500).numpy().astype(np.int16)
    stack[1] = 0
    nibabel.save(nibabel.Nifti1Image(stack.transpose(2, 1, 0), np.eye(4)), tmp_path / "v.nii.gz")
    score, anomaly_map = load(saved).predict(tmp_path / "v.nii.gz")
    assert anomaly_map.shape == (3, 1, 40, 40)
    assert score.isnan().tolist() == [False, True, False]
    assert anomaly_map.flatten(1).any(1).tolist() == [True, False, True]
