"""What a figure of the quality benchmark depends on, and what is fitted."""

from __future__ import annotations

import dataclasses
import json

from bench.quality import plan
from bench.quality.plan import BUDGET_SECONDS, Fit
from bench.quality.simulated import SETS
from medad_fast.methods import config_class, list_methods
from medad_fast.recipes import load_recipe
from python_tests.bench.quality_fits import fit_of

COUNTS = {"train": 8, "validation": 2, "test": 3, "unlabeled": 0}


def test_each_thing_that_matters_changes_the_key():
    fits = [
        fit_of(),
        fit_of(seed=1),
        fit_of(name="chest"),
        fit_of(method="patchcl-ae"),
        fit_of(overrides={"learning_rate": 0.01}),
        fit_of(hours=1.0),
        fit_of(max_steps=2),
        fit_of(share=0.0),
        fit_of(counts=COUNTS),
    ]
    assert len({fit.key for fit in fits}) == len(fits)
    assert len({fit.stem for fit in fits}) == len(fits)


def test_an_override_that_says_what_the_recipe_says_is_the_same_fit():
    width = load_recipe("quality-oct").methods["autoencoder"]["width"]
    assert fit_of(overrides={"width": width}).key == fit_of().key


def test_more_hours_lengthen_every_schedule_and_never_shorten_one():
    usual, longer = fit_of().settings(), fit_of(hours=1.0).settings()
    assert longer["epochs"] == usual["epochs"] * 3600 / BUDGET_SECONDS
    assert fit_of(hours=0.001).settings() == usual
    for name in SETS:
        for method in plan.available(SETS[name]):
            config, more = (fit_of(method, name, hours=h).settings() for h in (None, 0.1))
            assert {key for key in config if config[key] != more[key]} == {
                key for key in config if key.endswith("epochs") and isinstance(config[key], int)
            }


def test_every_set_has_a_recipe_for_methods_that_exist():
    for each in SETS.values():
        recipe = load_recipe(each.recipe)
        assert "ynthetic" in recipe.about
        assert "synthetic" in each.title or "phantom" in each.title
        for fields in recipe.methods.values():
            assert 64 <= fields["image_size"] <= 128
            assert fields["channels"] == recipe.preprocess["channels"]
        assert "autoencoder" in recipe.methods
        assert set(plan.available(each)) | set(plan.missing(each)) == set(list_methods())


def test_the_plan_is_seed_by_seed_and_each_fit_once():
    fits = plan.plan(["chest", "oct"], ["autoencoder", "patchcl-ae"], 2)
    order = [(fit.seed, fit.set.name, fit.method) for fit in fits]
    assert order == [
        (seed, name, method)
        for seed in (0, 1)
        for name in ("chest", "oct")
        for method in ("autoencoder", "patchcl-ae")
    ]
    assert len({fit.key for fit in fits}) == len(fits)


def test_a_fit_is_plain_data():
    assert dataclasses.is_dataclass(Fit)
    json.dumps(fit_of().identity())


def test_other_code_is_another_key_and_a_record_of_it_is_of_the_same_fit(monkeypatch):
    fit = fit_of()
    before, record = fit.key, json.loads(json.dumps({**fit.identity(), "hours": None}))
    monkeypatch.setattr(plan, "source_of", lambda method, name: "another")
    assert fit.key != before
    assert fit.made(record)
    assert not fit_of(seed=1).made(record)
    assert not fit_of(hours=1.0).made(record)
    assert not fit.made({**record, "preprocess": {}})
    assert not fit.made({**record, "subjects": {"test": 3}})
    assert not fit.made({**record, "config": {**record["config"], "width": 999}})


def test_settings_that_are_new_must_have_their_defaults():
    fit = fit_of("salad")
    record = json.loads(json.dumps({**fit.identity(), "hours": None}))
    default = config_class("salad")()
    for name in record["config"]:
        config = {other: value for other, value in record["config"].items() if other != name}
        usual = json.loads(json.dumps(getattr(default, name))) == record["config"][name]
        assert fit.made({**record, "config": config}) == usual
    assert not fit.made({**record, "config": {**record["config"], "gone": 1}})
