"""What a figure of the quality benchmark depends on, and what is fitted."""

from __future__ import annotations

import dataclasses
import json

import pytest

from bench.quality import plan, source
from bench.quality.plan import BUDGET_SECONDS, Fit
from bench.quality.simulated import SETS
from medad_fast.methods import config_class, list_methods
from medad_fast.recipes import load_recipe
from python_tests.bench.quality_fits import fit_of

COUNTS = {"train": 8, "validation": 2, "test": 3, "unlabeled": 0}


def test_comments_docstrings_and_layout_change_no_digest():
    plain = source.normalised("def f(x):\n    return x + 1\nclass A:\n    x: int = 3\n")
    wordy = '"""Says."""\ndef f( x ):\n    """Adds."""\n    # why\n    return (x\n        + 1)\n'
    wordy += 'class A:\n    x: int = 3\n    """An attribute."""\n'
    assert source.normalised(wordy) == plain
    assert source.normalised("def f(x):\n    return x + 2\n") != plain
    assert source.normalised('def f():\n    """Only this."""\n').endswith("pass")


def test_a_methods_code_is_followed_to_its_nets_and_ops_and_no_further():
    modules = source.modules_of(["medad_fast.methods.patchcl_ae"])
    assert "medad_fast.nets.discriminator" in modules
    assert "medad_fast.ops.patch_nce_loss" in modules
    assert "medad_fast.methods.parts.score" in modules
    assert not [name for name in modules if name.startswith(("medad_fast.data", "medad_fast.cli"))]
    assert "medad_fast.methods" not in modules  # the list of methods: others may join it
    kernels = [path.name for path in source._kernels("medad_fast.ops.patch_nce_loss")]
    assert kernels == ["patch_nce_loss.h", "patch_nce_loss.cpp", "patch_nce_loss_cpu.cpp"]
    assert source._plain("int a; // why\n /* and\n so */ int  b;") == "int a; int b;"


@pytest.mark.parametrize("method", list_methods())
def test_every_methods_own_files_are_in_its_digest(method, monkeypatch):
    from medad_fast.methods import PLACES

    followed = []
    plan.source_of.cache_clear()
    monkeypatch.setattr(plan, "digest", lambda modules: followed.extend(modules) or "digest")
    plan.source_of(method, "oct")
    plan.source_of.cache_clear()
    assert f"medad_fast.methods.{PLACES[method][0]}" in followed
    assert config_class(method).__module__ in followed
    assert "medad_fast.training.loop" in followed
    assert "bench.quality.sets.oct_lesions" in followed
    assert "bench.quality.sets.chest" not in followed


def test_another_line_of_code_is_another_key(monkeypatch):
    before = fit_of().key
    digest = source.digest(source.modules_of(["medad_fast.methods.autoencoder"]))
    plan.source_of.cache_clear()
    text = source._text("medad_fast.methods.autoencoder")
    changed = text.replace("error.square()", "error.abs()")
    assert changed != text
    monkeypatch.setattr(
        source,
        "_text",
        lambda name, original=source._text: (
            changed if name == "medad_fast.methods.autoencoder" else original(name)
        ),
    )
    assert source.digest(source.modules_of(["medad_fast.methods.autoencoder"])) != digest
    assert fit_of().key != before
    monkeypatch.undo()
    plan.source_of.cache_clear()
    assert fit_of().key == before


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
