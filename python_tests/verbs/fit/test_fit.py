"""From a folder of pictures to a run that loads: every method, same bits, refusals."""

from __future__ import annotations

import pytest
import torch

import medad_fast
from medad_fast.errors import DeviceError, InputError
from medad_fast.methods import list_methods
from medad_fast.verbs.fit import fit
from python_tests.methods.small import SMALL, discs
from python_tests.verbs.fit.small_fits import NAME, TINY, same_weights, write_pictures


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
    assert again.data["tuning_images"] + again.data["validation_images"] == 4
    assert again.data["unlabeled_images"] == (5 if run.method.uses_unlabeled else 0)
    assert again.thresholds["score"]["images"] == again.data["validation_images"]
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


def test_the_pipeline_has_the_methods_size_and_a_contradiction_is_refused(data, tmp_path):
    run = fit(NAME, data, tmp_path / "run", device="cpu", max_steps=1, **TINY)
    assert run.pipeline.config.image_size == 32
    assert run.pipeline.config.channels == 1
    with pytest.raises(InputError, match="preprocess image_size is 48 but the method's"):
        fit(NAME, data, tmp_path / "no", preprocess={"image_size": 48}, **TINY)


def test_a_methods_own_preprocessing_wins_over_the_recipes_and_a_flag_over_both(data, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "preprocess: {percentiles: [1, 99], min_foreground: 0.2}\n"
        f"methods: {{{NAME}: {{preprocess: {{percentiles: [2, 98]}}}}}}\n"
    )
    call = {"config": recipe, "device": "cpu", "max_steps": 1, **TINY}
    used = fit(NAME, data, tmp_path / "a", **call).pipeline.config
    assert (used.percentiles, used.min_foreground) == ((2.0, 98.0), 0.2)
    used = fit(NAME, data, tmp_path / "b", preprocess={"percentiles": [3, 97]}, **call)
    assert used.pipeline.config.percentiles == (3.0, 97.0)


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


def test_the_estimate_covers_the_stage_that_runs(data, tmp_path):
    told = []
    fit(NAME, data, tmp_path, device="cpu", on_estimate=told.append, **{**TINY, "epochs": 5})
    (estimate,) = told
    assert (estimate.step, estimate.steps, estimate.stage_number) == (10, 15, 1)
