"""Recipes hold what their keys say, and nothing else."""

from __future__ import annotations

import pytest

from medad_fast.errors import InputError
from medad_fast.methods import create, list_methods
from medad_fast.preprocess import PreprocessConfig
from medad_fast.recipes import list_recipes, load_recipe


@pytest.mark.parametrize("name", list_recipes())
def test_packaged_recipes_build_every_method_they_name(name):
    recipe = load_recipe(name)
    assert recipe.about
    for method, fields in recipe.methods.items():
        create(method, **fields)
    PreprocessConfig.from_dict(recipe.preprocess)


def test_the_demo_keeps_the_papers_networks_at_base_width_16():
    recipe = load_recipe("demo")
    assert set(recipe.methods) == set(list_methods())
    for fields in recipe.methods.values():
        assert (fields["width"], fields["image_size"]) == (16, 96)
        assert not {"units", "residual", "downsample"} & set(fields)


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
    with pytest.raises(InputError, match="give a YAML file or one of: demo"):
        load_recipe("demmo")
