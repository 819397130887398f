"""Recipes: settings of preprocessing and methods in a YAML file, packaged or the user's own.

A recipe has the keys ``about``, ``preprocess`` and ``methods`` (each a table of fields), and
optionally ``unlabeled``, ``published``, ``seed`` and ``max_steps``. Flags win over a recipe, a
recipe over the defaults.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from medad_fast.errors import InputError
from medad_fast.methods import config_class, list_methods
from medad_fast.recipes.published import Published, read_published
from medad_fast.settings import from_fields

__all__ = ["Published", "Recipe", "list_recipes", "load_recipe"]

PACKAGED = Path(__file__).parent
KEYS = ("about", "preprocess", "methods", "unlabeled", "published", "seed", "max_steps")
POOLS = ("normal", "abnormal")


@dataclass(frozen=True)
class Recipe:
    """What one file sets; what it leaves out keeps its default."""

    name: str = ""
    """Of the packaged recipe, or of the file."""
    about: str = ""
    preprocess: dict[str, Any] = field(default_factory=dict)
    """Fields of ``PreprocessConfig``."""
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Fields of each method's configuration, by the method's name."""
    unlabeled: dict[str, int] = field(default_factory=dict)
    """How many images to take of each unlabeled pool of a ``data.json``, the first ones."""
    published: tuple[Published, ...] = ()
    """Figures to compare with."""
    seed: int | None = None
    max_steps: int | None = None

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
            range; the message names the file and the key. The fields of ``preprocess`` are checked
            where they are used.
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
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"recipe {path} is not valid YAML: {reason}") from error
    try:
        return _checked(content, path.stem)
    except InputError as error:
        raise InputError(f"recipe {path}: {error}") from error


class _StrictLoader(yaml.SafeLoader):
    """Plain data only, and no key twice: YAML itself would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"key {key!r} stands twice in one table{node.start_mark}")
        return super().construct_mapping(node, deep)


def _checked(content: Any, name: str) -> Recipe:
    table = _table(content, "the file")
    for key in table:
        if key not in KEYS:
            raise InputError(f"unknown key {key!r}; known are {', '.join(KEYS)}")
    about = table.get("about", "")
    if not isinstance(about, str):
        raise InputError(f"about must be a text, got {about!r}")
    methods = _table(table.get("methods"), "methods")
    for method, fields in methods.items():
        if method not in list_methods():
            raise InputError(f"unknown method {method!r}; known are {', '.join(list_methods())}")
        methods[method] = _table(fields, f"methods.{method}")
        from_fields(config_class(method), methods[method], f"method {method}")
    unlabeled = _table(table.get("unlabeled"), "unlabeled")
    for key in unlabeled:
        if key not in POOLS:
            raise InputError(f"unlabeled has the pools {', '.join(POOLS)}, got {key!r}")
        _check_number(f"unlabeled.{key}", unlabeled[key], 0)
    for key, least in (("seed", 0), ("max_steps", 1)):
        if table.get(key) is not None:
            _check_number(key, table[key], least)
    return Recipe(
        name=name,
        about=about,
        preprocess=_table(table.get("preprocess"), "preprocess"),
        methods=methods,
        unlabeled=unlabeled,
        published=read_published(table.get("published") or [], list(methods)),
        seed=table.get("seed"),
        max_steps=table.get("max_steps"),
    )


def _check_number(key: str, number: Any, least: int) -> None:
    if type(number) is not int or number < least:
        raise InputError(f"{key} must be a whole number from {least}, got {number!r}")


def _table(value: Any, place: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{place} must be a table of keys and values, got {value!r}")
    return dict(value)
