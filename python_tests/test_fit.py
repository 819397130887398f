"""From a folder of pictures to a run: settings, precedence, resuming, locking."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image as Picture
from safetensors.torch import load_file

import medad_fast
from medad_fast.errors import BusyError, CheckpointError, DeviceError, InputError
from medad_fast.fit import first_of_pools, fit
from medad_fast.folder_lock import folder_lock
from medad_fast.io import load_study
from medad_fast.methods import list_methods
from medad_fast.training import Interrupted
from python_tests.methods.small import SMALL, discs

NAME = "autoencoder"
TINY = {**SMALL[NAME], "image_size": 32, "epochs": 2}


def write_pictures(folder: Path, count: int, seed: int) -> None:
    folder.mkdir(parents=True)
    pixels = ((discs(count, size=40, seed=seed)[:, 0] + 1) * 120).byte().numpy()
    for place, picture in enumerate(pixels):
        Picture.fromarray(picture).save(folder / f"{seed}-{place:02d}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_pictures(root / "train/normal", 10, 1)
    write_pictures(root / "validation/normal", 4, 2)
    write_pictures(root / "train/unlabeled", 5, 4)
    write_pictures(root / "test/normal", 2, 3)
    return root


def weights(folder):
    return load_file(folder / "model.safetensors")


def same_weights(a, b):
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def stop_at(step_number, number=signal.SIGTERM):
    def progress(step):
        if step.step == step_number:
            os.kill(os.getpid(), number)

    return progress


@pytest.mark.parametrize("name", list_methods())
def test_fits_every_method_and_writes_a_run_that_loads(name, data, tmp_path):
    settings = {**SMALL[name], "image_size": 32}
    run = fit(name, data, tmp_path / "run", device="cpu", max_steps=2, **settings)
    assert (tmp_path / "run/manifest.json").is_file()
    assert not (tmp_path / "run/state").exists()
    again = medad_fast.load(tmp_path / "run")
    images = discs(3)
    assert torch.equal(run.predict(images).anomaly_map, again.predict(images).anomaly_map)
    assert again.data["train_images"] == 10
    assert again.data["validation_images"] == 4
    assert again.data["unlabeled_images"] == (5 if run.method.uses_unlabeled else 0)
    assert again.thresholds["score"]["images"] == 4
    assert again.method.config == run.method.config


def test_without_unlabeled_images_ddad_warns_and_its_run_says_what_it_scores(tmp_path):
    write_pictures(tmp_path / "data/train/normal", 10, 1)
    write_pictures(tmp_path / "data/validation/normal", 4, 2)
    settings = {**SMALL["ddad"], "image_size": 32, "epochs": 1}
    with pytest.warns(UserWarning, match="no unlabeled images.*scores R_intra"):
        run = fit("ddad", tmp_path / "data", tmp_path / "run", device="cpu", **settings)
    again = medad_fast.load(tmp_path / "run")
    assert again.method.config.score == "R_intra"
    images = discs(3)
    assert torch.equal(run.predict(images).anomaly_map, again.predict(images).anomaly_map)


def test_the_same_call_gives_the_same_weights_and_thresholds(data, tmp_path):
    runs = [fit(NAME, data, tmp_path / name, device="cpu", seed=4, **TINY) for name in "ab"]
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert runs[0].thresholds == runs[1].thresholds
    fit(NAME, data, tmp_path / "c", device="cpu", seed=5, **TINY)
    assert not same_weights(tmp_path / "a", tmp_path / "c")


def test_the_order_of_the_files_on_disk_does_not_matter(data, tmp_path):
    write_pictures(tmp_path / "other/train/normal", 10, 1)
    write_pictures(tmp_path / "other/validation/normal", 4, 2)
    for path in sorted((tmp_path / "other/train/normal").iterdir(), reverse=True):
        path.write_bytes(path.read_bytes())
    for root, out in ((data, "a"), (tmp_path / "other", "b")):
        fit(NAME, root, tmp_path / out, device="cpu", **TINY)
    assert same_weights(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("cut", [1, 2, 4, 5])
def test_a_stopped_fit_resumes_to_the_same_run(cut, data, tmp_path):
    fit(NAME, data, tmp_path / "whole", device="cpu", **TINY)
    out = tmp_path / "cut"
    with pytest.raises(Interrupted):
        fit(NAME, data, out, device="cpu", progress=stop_at(cut), **TINY)
    assert not (out / "manifest.json").exists()
    with pytest.raises(InputError, match="holds an unfinished run: resume it"):
        fit(NAME, data, out, device="cpu", **TINY)
    fit(NAME, data, out, device="cpu", resume=True, **TINY)
    assert same_weights(tmp_path / "whole", out)
    for name in ("thresholds.json", "log.jsonl", "config.yaml"):
        assert (tmp_path / "whole" / name).read_bytes() == (out / name).read_bytes()


def test_resuming_with_other_settings_or_data_is_refused_by_name(data, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        fit(NAME, data, out, device="cpu", progress=stop_at(1), **TINY)
    with pytest.raises(InputError, match="begun with another config"):
        fit(NAME, data, out, device="cpu", resume=True, **{**TINY, "epochs": 3})
    with pytest.raises(InputError, match="begun with another seed"):
        fit(NAME, data, out, device="cpu", resume=True, seed=1, **TINY)
    write_pictures(tmp_path / "other/train/normal", 10, 8)
    with pytest.raises(InputError, match="begun with another images"):
        fit(NAME, tmp_path / "other", out, device="cpu", resume=True, **TINY)
    (out / "state/request.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"request\.json"):
        fit(NAME, data, out, device="cpu", resume=True, **TINY)


def test_a_finished_run_is_never_overwritten_and_resuming_it_loads_it(data, tmp_path):
    run = fit(NAME, data, tmp_path, device="cpu", max_steps=1, **TINY)
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(InputError, match="already holds a finished run"):
        fit(NAME, data, tmp_path, device="cpu", max_steps=1, **TINY)
    again = fit(NAME, data, tmp_path, device="cpu", resume=True, max_steps=1, **TINY)
    assert again.thresholds == run.thresholds
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_flags_win_over_the_recipe_and_the_recipe_over_defaults(data, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "about: a test\nseed: 6\nmax_steps: 2\npreprocess: {min_foreground: 0.1}\n"
        f"methods: {{{NAME}: {{width: 4, units: 1, image_size: 32, batch_size: 5, loss: l1}}}}\n"
    )
    run = fit(NAME, data, tmp_path / "run", device="cpu", config=recipe, batch_size=2)
    config = run.method.config
    assert (config.batch_size, config.loss, config.width, config.epochs) == (2, "l1", 4, 400)
    assert run.seed == 6
    assert run.pipeline.config.min_foreground == 0.1
    assert json.loads((tmp_path / "run/log.jsonl").read_text())["step"] == 2


def test_the_pipeline_has_the_methods_size_and_a_contradiction_is_refused(data, tmp_path):
    run = fit(NAME, data, tmp_path / "run", device="cpu", max_steps=1, **TINY)
    assert run.pipeline.config.image_size == 32
    assert run.pipeline.config.channels == 1
    with pytest.raises(InputError, match="preprocess image_size is 48 but the method's"):
        fit(NAME, data, tmp_path / "no", preprocess={"image_size": 48}, **TINY)


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"method": "other"}, "method must be one of patchcl-ae, .*, got 'other'"),
        ({"widht": 3}, "has no setting 'widht'"),
        ({"seed": -1}, "seed must be"),
        ({"max_steps": 0}, "max_steps must be"),
        ({"config": "nowhere.yaml"}, "recipe nowhere.yaml cannot be read"),
        ({"preprocess": {"unknown": 1}}, "unknown"),
        ({"device": "gpu"}, "device must be"),
    ],
)
def test_bad_calls_are_refused_before_anything_is_written(call, message, data, tmp_path):
    call = {"method": NAME, "data": data, "out": tmp_path / "run", **call}
    with pytest.raises(InputError, match=message):
        fit(**call)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_a_device_error(data, tmp_path):
    with pytest.raises(DeviceError, match="no CUDA GPU"):
        fit(NAME, data, tmp_path / "run", device="cuda", **TINY)


def test_a_folder_in_use_is_busy_and_free_again_when_its_holder_is_killed(data, tmp_path):
    hold = (
        "import sys, time; from pathlib import Path; "
        "from medad_fast.folder_lock import folder_lock\n"
        "with folder_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match=f"in use by process {holder.pid} on"):
            fit(NAME, data, tmp_path, **TINY)
        holder.kill()
    (tmp_path / ".partial-1-model.safetensors").write_bytes(b"half")
    with folder_lock(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


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


def test_the_estimate_covers_the_stage_that_runs(data, tmp_path):
    told = []
    fit(NAME, data, tmp_path, device="cpu", on_estimate=told.append, **{**TINY, "epochs": 5})
    (estimate,) = told
    assert (estimate.step, estimate.steps, estimate.stage_number) == (10, 15, 1)


def recipe_file(folder, text):
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_a_run_keeps_the_figures_of_its_recipe_and_where_it_departs(data, tmp_path):
    figure = "{method: autoencoder, of: error, source: Table 1, known: printed, auroc: 0.7}"
    recipe = recipe_file(
        tmp_path,
        "preprocess: {min_foreground: 0.1}\nmethods: {autoencoder: {image_size: 32, width: 4, "
        f"units: 1, epochs: 1}}}}\npublished: [{figure}]",
    )
    same = fit(NAME, data, tmp_path / "same", device="cpu", config=recipe).published
    assert (same["recipe"], same["changed"]) == ("mine", [])
    assert [each["auroc"] for each in same["figures"]] == [0.7]
    other = fit(
        NAME,
        data,
        tmp_path / "other",
        device="cpu",
        config=recipe,
        max_steps=1,
        width=8,
        preprocess={"min_foreground": 0.2},
    ).published
    assert sorted(other["changed"]) == ["max_steps", "min_foreground", "width"]
    plain = fit(NAME, data, tmp_path / "plain", device="cpu", max_steps=1, **TINY)
    assert plain.published is None
    medad_fast.predict(tmp_path / "same", data, tmp_path / "results")
    assert medad_fast.evaluate(tmp_path / "results", resamples=5)["published"] == same


@pytest.mark.parametrize(
    ("pools", "names"),
    [
        ({}, ["2", "1", "0", "3", "4", "5"]),
        ({"normal": 1, "abnormal": 2}, ["2", "3", "4"]),
        ({"abnormal": 9}, ["3", "4", "5"]),
    ],
)
def test_of_unlabeled_pools_the_first_are_taken_that_the_recipe_asks_for(pools, names, tmp_path):
    write_pictures(tmp_path / "images", 16, 0)
    for place, picture in enumerate(sorted((tmp_path / "images").iterdir())):
        picture.rename(tmp_path / "images" / f"{place}.png")
    normal = [f"{place}.png" for place in range(6, 16)]
    unlabeled = {"0": ["2.png", "1.png", "0.png"], "1": ["3.png", "4.png", "5.png"]}
    table = {"train": {"0": normal, "unlabeled": unlabeled}, "test": {}}
    (tmp_path / "data.json").write_text(json.dumps(table))
    cases = load_study(tmp_path).select("train", "unlabeled")
    taken = first_of_pools(cases, pools)
    assert [case.name for case in taken] == [f"images/{name}.png" for name in names]
    recipe = recipe_file(tmp_path, f"unlabeled: {json.dumps(pools)}\nmethods: {{ddad: {{}}}}")
    run = fit(
        "ddad",
        tmp_path,
        tmp_path / "run",
        device="cpu",
        config=recipe,
        max_steps=1,
        **{**SMALL["ddad"], "image_size": 32},
    )
    assert run.data["unlabeled_images"] == len(names)


def test_a_method_that_does_without_unlabeled_images_departs_from_its_recipe(tmp_path):
    write_pictures(tmp_path / "data/train/normal", 10, 1)
    fields = {**SMALL["ddad"], "image_size": 32}
    figure = {"method": "ddad", "of": "R_dual", "source": "x", "known": "printed", "auroc": 0.9}
    content = {"methods": {"ddad": fields}, "published": [figure], "max_steps": 1}
    recipe = recipe_file(tmp_path, json.dumps(content))
    with pytest.warns(UserWarning, match="no unlabeled images"):
        run = fit("ddad", tmp_path / "data", tmp_path / "run", device="cpu", config=recipe)
    assert run.published["changed"] == ["score"]
