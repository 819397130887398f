"""What a fit takes from a recipe, and what its run says of the published protocol."""

from __future__ import annotations

import json

import pytest

import medad_fast
from medad_fast.data import load_dataset
from medad_fast.data.dataset import first_of_pools
from medad_fast.verbs.fit import fit
from python_tests.methods.small import SMALL
from python_tests.verbs.fit.small_fits import NAME, TINY, recipe_file, write_pictures


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
    cases = load_dataset(tmp_path).select("train", "unlabeled")
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
