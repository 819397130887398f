"""Recipes: settings of preprocessing and methods in a YAML file, packaged or the user's own.

Flags win over a recipe, a recipe over the defaults; what a method's table says of preprocessing
wins over what the recipe says for all.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from medad_fast.data.preprocess import PreprocessConfig
from medad_fast.errors import InputError
from medad_fast.methods import config_class, list_methods
from medad_fast.recipes.published import Published
from medad_fast.settings import Rule, checked, describe, from_fields, refusal, schema, setting

__all__ = ["Published", "Recipe", "list_recipes", "load_recipe", "recipe_schema"]

PACKAGED = Path(__file__).parent
POOLS = ["normal", "abnormal"]
Pool = Annotated[
    str, Field(json_schema_extra={"enum": POOLS}), Rule("normal or abnormal", POOLS.__contains__)
]
OWN = "preprocess"  # what a method's table holds beside the fields of its configuration


@checked
class Recipe:
    """What one file sets; what it leaves out keeps its default."""

    name: str = setting("", "of the packaged recipe, or of the file")
    about: str = setting("", "what it is for and where its values come from")
    preprocess: dict[str, Any] = setting({}, "settings of preprocessing, for all methods")
    methods: dict[str, dict[str, Any]] = setting(
        {}, "the settings of each method, by its name, with a table preprocess of its own"
    )
    unlabeled: dict[Pool, Annotated[int, Field(ge=0)]] = setting(
        {}, "how many images to take of each unlabeled pool of a data.json, the first ones"
    )
    published: tuple[Published, ...] = setting((), "figures to compare with")
    seed: int | None = setting(None, "of weights, data order and held-out patients", ge=0)
    max_steps: int | None = setting(None, "at most this many steps in each stage", ge=1)

    def __post_init__(self) -> None:
        PreprocessConfig.from_dict(self.preprocess)
        for method, table in self.methods.items():
            from_fields(config_class(method), self.fields_of(method), f"method {method}")
            PreprocessConfig.from_dict(table.get(OWN, {}))
        for figure in self.published:
            if figure.method not in self.methods:
                raise InputError(f"published: the recipe does not set method {figure.method!r}")

    def fields_of(self, method: str) -> dict[str, Any]:
        """Settings of a method; none where the recipe does not have it."""
        return {key: value for key, value in self.methods.get(method, {}).items() if key != OWN}

    def preprocess_of(self, method: str) -> dict[str, Any]:
        """Settings of preprocessing for a method: those for all, and its own, which win."""
        return {**self.preprocess, **self.methods.get(method, {}).get(OWN, {})}

    def only_method(self) -> str:
        """The method that is meant where none is named.

        Raises:
            InputError: the recipe has none, or several.
        """
        if len(self.methods) != 1:
            known = ", ".join(self.methods) or "none"
            raise InputError(
                f"recipe {self.name} does not tell the method, it has {known}: name one"
            )
        return next(iter(self.methods))


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in PACKAGED.glob("*.yaml"))


def load_recipe(source: str | Path) -> Recipe:
    """Read a recipe.

    Args:
        source: path of a YAML file, or the name of a packaged recipe such as ``demo``.

    Raises:
        InputError: no such file, not YAML, an unknown key, method or setting, or a value out of
            range; the message names the file and the key.
    """
    path = Path(source)
    if str(source) in list_recipes():
        path = PACKAGED / f"{source}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        names = ", ".join(list_recipes())
        raise InputError(
            f"recipe {source} cannot be read; give a YAML file or one of: {names}"
        ) from error
    try:
        content = yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # no such date; too deep
        reason = " ".join(str(error).split())
        raise InputError(f"recipe {path} is not valid YAML: {reason}") from error
    try:
        return _recipe_of({} if content is None else content, path.stem)
    except InputError as error:
        raise InputError(f"recipe {path}: {error}") from error


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe's file, with the settings of every method: for editors."""
    made = schema(Recipe)
    keys = made["properties"]
    del keys["name"]  # the file's own
    keys["preprocess"] |= schema(PreprocessConfig)
    tables = {method: schema(config_class(method)) for method in list_methods()}
    for table in tables.values():
        table["properties"][OWN] = schema(PreprocessConfig)
    keys["methods"] |= {"properties": tables, "additionalProperties": False}
    return made


class _StrictLoader(yaml.SafeLoader):
    """Plain data only, and no key twice: YAML itself would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"key {key!r} stands twice in one table{node.start_mark}")
        return super().construct_mapping(node, deep)


def _recipe_of(content: Any, name: str) -> Recipe:
    """A key without a value keeps its default; so does a method without settings."""
    if not isinstance(content, dict):
        raise refusal("the file", "a table of keys and values", content)
    known = [key for key, *_ in describe(Recipe) if key != "name"]
    for key in content:
        if key not in known:
            raise InputError(f"unknown key {key!r}; known are {', '.join(known)}")
    table = {key: value for key, value in content.items() if value is not None}
    if isinstance(methods := table.get("methods"), dict):
        table["methods"] = {key: {} if each is None else each for key, each in methods.items()}
    figures = table.pop("published", [])
    if not isinstance(figures, list):
        raise refusal("published", "a list of tables", figures)
    table["published"] = [
        from_fields(Published, each, f"published.{place}") for place, each in enumerate(figures)
    ]
    return Recipe(name, **table)
