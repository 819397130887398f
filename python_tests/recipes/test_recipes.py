"""Recipes hold what their keys say, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from medad_fast.data.preprocess import PreprocessConfig
from medad_fast.errors import InputError
from medad_fast.methods import BASELINES, create, list_methods
from medad_fast.recipes import list_recipes, load_recipe

PUBLISHED = [n for n in list_recipes() if n != "demo" and not n.startswith("quality-")]
PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"


# A figure's other fields, and a recipe of one method.
SAID = "of: x, source: y, known: printed"
ONE = "methods: {autoencoder: {}}"


@pytest.mark.parametrize("name", list_recipes())
def test_packaged_recipes_build_every_method_they_name(name):
    recipe = load_recipe(name)
    assert recipe.about
    for method, fields in recipe.methods.items():
        create(method, **fields)
    PreprocessConfig.from_dict(recipe.preprocess)


def test_the_demo_keeps_the_papers_networks_at_base_width_16():
    recipe = load_recipe("demo")
    assert {"patchcl-ae", "autoencoder"} <= set(recipe.methods) <= set(list_methods())
    for fields in recipe.methods.values():
        assert (fields["width"], fields["image_size"]) == (16, 96)
        assert not {"units", "residual", "downsample"} & set(fields)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_data_sets_recipe_says_its_protocol_and_what_to_compare_with(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert "test" in recipe.about.lower()
    compared = {figure.method for figure in recipe.published}
    for method in set(recipe.methods) - compared:
        assert f"No figure for {method}" in recipe.about
    # Size and schedule are said, not left to defaults, which may change.
    for fields in recipe.methods.values():
        assert {"image_size", "channels", "epochs"} <= fields.keys()


def test_every_method_has_a_data_set_of_its_paper():
    named = {method for name in PUBLISHED for method in load_recipe(name).methods}
    assert named == set(list_methods()) - BASELINES


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_page_has_every_recipe_with_its_figures(name):
    text = PAGE.read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
    recipe = load_recipe(name)
    for method in recipe.methods:
        assert f"`{method}`" in row
    for figure in recipe.published:
        for value in (figure.auroc, figure.average_precision):
            assert value is None or f"{value:.3f}" in row


def test_the_method_of_a_recipe_with_one_need_not_be_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("methods: {autoencoder: {width: 4}}")
    assert load_recipe(path).only_method() == "autoencoder"
    path.write_text("methods: {patchcl-ae: {}, autoencoder: {}}")
    with pytest.raises(InputError, match="it has patchcl-ae, autoencoder: name one"):
        load_recipe(path).only_method()
    path.write_text("seed: 1")
    with pytest.raises(InputError, match="it has none: name one"):
        load_recipe(path).only_method()


def test_a_path_and_a_name_both_work(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("about: mine\nseed: 2\n")
    assert load_recipe(path).seed == load_recipe(str(path)).seed == 2
    assert load_recipe(path).methods == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abuot: x", "unknown key 'abuot'; known are about"),
        ("methods: {other: {}}", "unknown method 'other'"),
        ("methods: {autoencoder: {widht: 3}}", "has no setting 'widht'"),
        ("methods: {autoencoder: {width: many}}", "width must be a whole number"),
        ("methods: [autoencoder]", "methods must be a table"),
        ("seed: -1", "seed must be a whole number from 0"),
        ("seed: true", "seed must be a whole number from 0"),
        ("max_steps: 0", "max_steps must be a whole number from 1"),
        ("about: 3", "about must be a text"),
        ("seed: 1\nseed: 2", "'seed' stands twice"),
        ("published: {auroc: 1}", "published must be a list"),
        (
            "published: [{method: ddad, auroc: 1}]",
            "published.0 has no known, of, source",
        ),
        (f"published: [{{method: ddad, {SAID}, auroc: 0.5}}]", "the recipe does not set"),
        (f"{ONE}\npublished: [{{method: autoencoder, {SAID}, auroc: 88}}]", "from 0 to 1"),
        (f"{ONE}\npublished: [{{method: autoencoder, {SAID}}}]", "needs auroc or"),
        (f"{ONE}\npublished: [{{method: autoencoder, {SAID}, auc: 1}}]", "no setting 'auc'"),
        ("unlabeled: {other: 1}", "unlabeled has the pools normal, abnormal, got 'other'"),
        ("unlabeled: {normal: -1}", "unlabeled.normal must be a whole number from 0"),
        ("seed: [", "is not valid YAML"),
        ("- a", "the file must be a table"),
        ("about: !!python/name:os.system x", "is not valid YAML"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(text, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_recipe(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_recipe_lists_the_packaged_ones():
    with pytest.raises(InputError, match=r"give a YAML file or one of: .*demo"):
        load_recipe("demmo")
