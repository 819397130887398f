"""Recipes hold what their keys say, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from medad_fast.data.preprocess import PreprocessConfig
from medad_fast.errors import InputError
from medad_fast.methods import BASELINES, config_class, create, list_methods
from medad_fast.recipes import list_recipes, load_recipe
from medad_fast.settings import to_fields

PUBLISHED = [n for n in list_recipes() if n != "demo" and not n.startswith("quality-")]
PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"


# A figure's other fields, and a recipe of one method.
SAID = "of: x, source: y, known: printed"
ONE = "methods: {autoencoder: {}}"
# Aliases of aliases: written out, ten to the power of eight.
BOMB = (
    "methods: "
    + "[" * 8
    + "&a [x]"
    + "".join(
        ", &{} [{}]]".format(chr(98 + n), ", ".join([f"*{chr(97 + n)}"] * 10)) for n in range(8)
    )
)


@pytest.mark.parametrize("name", list_recipes())
def test_packaged_recipes_build_every_method_they_name(name):
    recipe = load_recipe(name)
    assert recipe.about
    for method in recipe.methods:
        create(method, **recipe.fields_of(method))
        PreprocessConfig.from_dict(recipe.preprocess_of(method))


@pytest.mark.parametrize("name", list_recipes())
def test_a_packaged_recipe_written_down_is_the_same_recipe(name, tmp_path):
    recipe = load_recipe(name)
    fields = to_fields(recipe)
    path = tmp_path / f"{fields.pop('name')}.yaml"
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    assert load_recipe(path) == recipe


def test_a_method_may_have_its_own_preprocessing_which_wins(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        """
        preprocess: {modality: MR, axis: axial}
        methods:
          ddad: {width: 8, preprocess: {axis: coronal, min_foreground: 0.1}}
          autoencoder:
        """
    )
    recipe = load_recipe(path)
    assert recipe.fields_of("ddad") == {"width": 8}
    own = {"modality": "MR", "axis": "coronal", "min_foreground": 0.1}
    assert recipe.preprocess_of("ddad") == own
    for other in ("autoencoder", "salad"):
        assert recipe.preprocess_of(other) == {"modality": "MR", "axis": "axial"}
        assert recipe.fields_of(other) == {}


def test_the_pages_example_does_what_it_says(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(PAGE.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0])
    recipe = load_recipe(path)
    assert recipe.preprocess_of("ddad") == {"modality": "MR", "axis": "coronal"}
    assert recipe.preprocess_of("autoencoder") == {"modality": "MR"}


@pytest.mark.parametrize("method", list_methods())
def test_no_method_has_a_setting_of_the_name_of_its_preprocessing(method):
    assert not hasattr(config_class(method), "preprocess")


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


def test_the_five_methods_have_a_dataset_of_their_papers():
    named = {method for name in PUBLISHED for method in load_recipe(name).methods}
    assert named >= {"patchcl-ae", "ddad", "cradl", "salad", "anatpaste"}
    assert named <= set(list_methods()) - BASELINES


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
        ("methods: {other: {}}", "method must be one of .*, got 'other'"),
        ("methods: {autoencoder: {widht: 3}}", "has no setting 'widht'"),
        ("methods: {autoencoder: {width: many}}", "width must be a whole number"),
        ("methods: [autoencoder]", "methods must be a table"),
        ("seed: -1", "seed must be a whole number of 0 or more, or null, got -1"),
        ("seed: true", "seed must be a whole number of 0 or more, or null, got True"),
        ("max_steps: 0", "max_steps must be a whole number of 1 or more, or null, got 0"),
        ("about: 3", "about must be a text"),
        ("seed: 1\nseed: 2", "'seed' stands twice"),
        ("published: {auroc: 1}", "published must be a list"),
        ("published: [ddad]", "published.0 must be a table of settings, got 'ddad'"),
        (
            "published: [{method: ddad, auroc: 1}]",
            "published.0 has no of, source, known",
        ),
        (
            f"published: [{{method: ddad, {SAID}, auroc: 0.5}}]",
            "published: the recipe does not set method 'ddad'",
        ),
        (f"{ONE}\npublished: [{{method: autoencoder, {SAID}, auroc: 88}}]", "from 0 to 1"),
        (f"{ONE}\npublished: [{{method: autoencoder, {SAID}}}]", "needs auroc or"),
        (f"{ONE}\npublished: [{{method: autoencoder, {SAID}, auc: 1}}]", "no setting 'auc'"),
        (
            "unlabeled: {other: 1}",
            "unlabeled must be a table, each key normal or abnormal, .*, got {'other': 1}",
        ),
        (
            "unlabeled: {normal: -1}",
            "unlabeled must be .* each value a whole number of 0 or more, got {'normal': -1}",
        ),
        ("preprocess: {axes: coronal}", "preprocess has no setting 'axes'"),
        ("preprocess: {axis: oblique}", "axis must be 'axial' or .*, got 'oblique'"),
        ("methods: {ddad: {preprocess: {axis: oblique}}}", "axis must be .*, got 'oblique'"),
        ("methods: {ddad: {preprocess: 3}}", "preprocess must be a table of settings, got 3"),
        ("methods: {ddad: 3}", "methods must be a table, each value a table, got {'ddad': 3}"),
        ("methods: {1: {}}", "methods must be a table, each value a table, got {1: {}}"),
        ("name: mine", "unknown key 'name'"),
        ("seed: [", "is not valid YAML"),
        ("about: 2001-99-99", "is not valid YAML"),
        ("about: " + "[" * 10**4, "is not valid YAML"),
        (BOMB, "methods must be a table"),
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
