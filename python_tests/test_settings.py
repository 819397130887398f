"""Settings: values are stored as annotated or refused in one line; what there is can be told."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from medad_fast.data.preprocess import PreprocessConfig
from medad_fast.errors import InputError
from medad_fast.methods import config_class, list_methods
from medad_fast.recipes import Published, Recipe, list_recipes, load_recipe, recipe_schema
from medad_fast.settings import (
    Rule,
    checked,
    describe,
    from_fields,
    require,
    schema,
    setting,
    to_fields,
)

CLASSES = [*map(config_class, list_methods()), PreprocessConfig, Published, Recipe]
LONG = list(range(10**5))


@checked
class Sample:
    """One field of each type."""

    whole: int = setting(1, "a whole", ge=1)
    share: float = setting(0.5, "a share", ge=0, le=1)
    inside: float = setting(0.1, "a margin", gt=0, lt=0.5)
    free: float = setting(0.0, "a number")
    pair: tuple[float, float] = setting((0.0, 1.0), "a pair")
    many: tuple[int, ...] = setting((), "a list")
    even: Annotated[int, Rule("an even number", lambda value: value % 2 == 0)] = setting(2, "even")
    choice: Literal["a", "b"] = setting("a", "a choice")
    perhaps: int | None = setting(None, "perhaps a number", ge=0)
    text: str = setting("", "a text")
    switch: bool = setting(False, "a switch")
    table: dict[str, Annotated[int, Field(ge=0)]] = setting({}, "a table")

    def __post_init__(self) -> None:
        require(self.whole < 100 or self.switch, self, "whole", "below 100 without switch")


@pytest.mark.parametrize(
    ("field", "given", "stored"),
    [
        ("share", 1, 1.0),
        ("free", -3, -3.0),
        ("pair", [0, 2], (0.0, 2.0)),
        ("many", [], ()),
        ("many", [3, 1], (3, 1)),
        ("perhaps", None, None),
        ("perhaps", 0, 0),
        ("table", {"x": 1}, {"x": 1}),
    ],
)
def test_values_are_stored_as_annotated(field: str, given: Any, stored: Any) -> None:
    value = getattr(Sample(**{field: given}), field)
    assert value == stored
    assert type(value) is type(stored)
    assert repr(value) == repr(stored)


@pytest.mark.parametrize(
    ("field", "given", "wanted", "got"),
    [
        ("whole", 0, "a whole number of 1 or more", "0"),
        ("whole", True, "a whole number of 1 or more", "True"),
        ("whole", 2.0, "a whole number of 1 or more", "2.0"),
        ("whole", "2", "a whole number of 1 or more", "'2'"),
        ("whole", None, "a whole number of 1 or more", "None"),
        ("share", 1.5, "a finite number from 0 to 1", "1.5"),
        ("share", True, "a finite number from 0 to 1", "True"),
        ("inside", 0.5, "a finite number above 0 to below 0.5", "0.5"),
        ("free", float("nan"), "a finite number", "nan"),
        ("free", float("-inf"), "a finite number", "-inf"),
        ("free", "1", "a finite number", "'1'"),
        ("pair", [1], "a list of 2 values, each a finite number", "[1]"),
        ("pair", (1, 2, 3), "a list of 2 values, each a finite number", "(1, 2, 3)"),
        ("pair", {1, 2}, "a list of 2 values, each a finite number", "{1, 2}"),
        ("pair", "ab", "a list of 2 values, each a finite number", "'ab'"),
        ("many", [1, True], "a list of values, each a whole number", "[1, True]"),
        ("many", [*LONG, "x"], "a list of values, each a whole number", "[0, 1, 2, 3, 4, 5, ...]"),
        ("even", 3, "an even number", "3"),
        ("even", "x", "an even number", "'x'"),
        ("choice", "c", "'a' or 'b'", "'c'"),
        ("perhaps", -1, "a whole number of 0 or more, or null", "-1"),
        ("text", 3, "a text", "3"),
        ("text", b"a", "a text", "b'a'"),
        ("switch", 1, "true or false", "1"),
        ("table", {"x": -1}, "a table, each value a whole number of 0 or more", "{'x': -1}"),
        ("table", [1], "a table, each value a whole number of 0 or more", "[1]"),
        ("whole", 100, "below 100 without switch", "100"),
    ],
)
def test_what_cannot_be_is_refused_with_field_wanted_and_got(
    field: str, given: Any, wanted: str, got: str
) -> None:
    with pytest.raises(InputError) as error:
        Sample(**{field: given})
    assert str(error.value) == f"{field} must be {wanted}, got {got}"
    with pytest.raises(InputError) as error:
        from_fields(Sample, {field: given}, "sample")
    assert str(error.value) == f"{field} must be {wanted}, got {got}"


def test_a_refusal_is_one_short_line_whatever_was_given() -> None:
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep] * 10
    for given in ("x\n" * 10**6, deep, {"a": LONG}):
        with pytest.raises(InputError, match=r"^whole must be") as error:
            Sample(whole=given)
        assert len(str(error.value)) < 400
        assert "\n" not in str(error.value)


def test_unknown_and_missing_fields_are_named_with_their_owner() -> None:
    with pytest.raises(InputError, match=r"^it has no setting 'hole'; it has whole, share, inside"):
        from_fields(Sample, {"hole": 1}, "it")
    with pytest.raises(InputError, match=r"^it has no of, source, known$"):
        from_fields(Published, {"method": "ddad"}, "it")
    with pytest.raises(InputError, match=r"^it must be a table of settings, got \[1\]"):
        from_fields(Sample, [1], "it")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected keyword argument 'hole'"):
        Sample(hole=1)  # type: ignore[call-arg]


def test_settings_are_frozen_compared_and_replaced_as_dataclasses_are() -> None:
    sample = Sample(2, pair=[0, 3])  # type: ignore[arg-type]
    assert sample == Sample(whole=2, pair=(0.0, 3.0)) == dataclasses.replace(Sample(2), pair=(0, 3))
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.whole = 3  # type: ignore[misc]
    with pytest.raises(InputError, match=r"^share must be"):
        dataclasses.replace(sample, share=2)
    assert from_fields(Sample, json.loads(json.dumps(to_fields(sample))), "sample") == sample
    assert Sample().table is not Sample().table


def test_a_field_is_described_by_its_text_and_its_limits() -> None:
    told = {name: (kind, default, text) for name, kind, default, text in describe(Sample)}
    assert list(told) == [field.name for field in dataclasses.fields(Sample)]
    assert told["whole"] == (int, 1, "a whole (1 or more)")
    assert told["inside"] == (float, 0.1, "a margin (above 0 to below 0.5)")
    assert told["even"] == (int, 2, "even (an even number)")
    assert told["perhaps"] == (int | None, None, "perhaps a number (0 or more, or null)")
    assert told["choice"] == (Literal["a", "b"], "a", "a choice")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_field_says_what_it_is_and_its_default_fits(kind: type[Any]) -> None:
    for name, _, _, text in describe(kind):
        assert text.split(" (")[0].strip(), name
    if kind is not Published:
        from_fields(kind, to_fields(kind()), "it")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_the_schema_of_each_class_says_every_field(kind: type[Any]) -> None:
    made = json.loads(json.dumps(schema(kind)))
    check_schema(made, made)
    assert made["type"] == "object"
    assert made["additionalProperties"] is False
    assert list(made["properties"]) == [field.name for field in dataclasses.fields(kind)]
    for name, _, default, text in describe(kind):
        part = made["properties"][name]
        assert part["description"] == text
        if name in made.get("required", []):
            assert "default" not in part
        else:
            assert part["default"] == json.loads(json.dumps(default))
            assert fits(part["default"], part, made)


def test_the_schema_of_a_recipe_holds_every_method_and_fits_every_packaged_one() -> None:
    made = json.loads(json.dumps(recipe_schema()))
    check_schema(made, made)
    assert "name" not in made["properties"]
    tables = made["properties"]["methods"]["properties"]
    assert list(tables) == list_methods()
    assert tables["ddad"]["properties"]["width"]["minimum"] == 1
    assert tables["ddad"]["properties"]["preprocess"]["properties"]["axis"]["enum"]
    for name in list_recipes():
        recipe = to_fields(load_recipe(name))
        del recipe["name"]
        assert fits(json.loads(json.dumps(recipe)), made, made), name
    for wrong in (
        {"abuot": "x"},
        {"methods": {"other": {}}},
        {"methods": {"ddad": {"width": 0}}},
        {"methods": {"ddad": {"preprocess": {"axis": "oblique"}}}},
        {"preprocess": {"channels": 2}},
        {"unlabeled": {"other": 1}},
        {"seed": -1},
        {"published": [{"method": "ddad"}]},
    ):
        assert not fits(wrong, made, made), wrong


# What these schemas use of JSON Schema (draft 2020-12), and the type of each keyword's value.
KEYWORDS: dict[str, Any] = {
    "$defs": dict,
    "$ref": str,
    "additionalProperties": (bool, dict),
    "anyOf": list,
    "const": (str, int),
    "default": object,
    "description": str,
    "enum": list,
    "exclusiveMaximum": (int, float),
    "exclusiveMinimum": (int, float),
    "items": dict,
    "maxItems": int,
    "maximum": (int, float),
    "minItems": int,
    "minimum": (int, float),
    "multipleOf": (int, float),
    "prefixItems": list,
    "properties": dict,
    "propertyNames": dict,
    "required": list,
    "title": str,
    "type": str,
}
TYPES: dict[str, Any] = {
    "array": list,
    "boolean": bool,
    "integer": int,
    "null": type(None),
    "number": (int, float),
    "object": dict,
    "string": str,
}


def check_schema(part: dict[str, Any], root: dict[str, Any]) -> None:
    """Hold a schema to the keywords above, their types, and that what it refers to is there."""
    for keyword, value in part.items():
        assert isinstance(value, KEYWORDS[keyword]), (keyword, value)
    assert part.get("type", "object") in TYPES
    assert set(part.get("required", [])) <= set(part.get("properties", {}))
    if "$ref" in part:
        assert resolved(part, root)
    for key in ("properties", "$defs"):
        for each in part.get(key, {}).values():
            check_schema(each, root)
    for each in [*part.get("anyOf", []), *part.get("prefixItems", [])]:
        check_schema(each, root)
    for key in ("items", "additionalProperties", "propertyNames"):
        if isinstance(part.get(key), dict):
            check_schema(part[key], root)


def resolved(part: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in part:
        return part
    place, _, name = part["$ref"].rpartition("/")
    assert place == "#/$defs"
    found: dict[str, Any] = root["$defs"][name]
    return found


def fits(value: Any, part: dict[str, Any], root: dict[str, Any]) -> bool:
    """Whether a value is what a schema says."""
    part = resolved(part, root)
    if "anyOf" in part:
        return any(fits(value, option, root) for option in part["anyOf"])
    if value not in part.get("enum", [part.get("const", value)]):
        return False
    if "type" in part and not isinstance(value, TYPES[part["type"]]):
        return False
    if isinstance(value, bool) and part.get("type") in {"integer", "number"}:
        return False
    if isinstance(value, dict):
        known, other = part.get("properties", {}), part.get("additionalProperties", True)
        return set(part.get("required", [])) <= value.keys() and all(
            fits(key, part.get("propertyNames", {}), root)
            and (key in known or other is not False)
            and fits(each, known.get(key, other if isinstance(other, dict) else {}), root)
            for key, each in value.items()
        )
    if isinstance(value, list):
        kinds = part.get("prefixItems") or [part["items"]] * len(value)
        return len(kinds) == len(value) and all(map(lambda v, k: fits(v, k, root), value, kinds))
    if isinstance(value, (int, float)):
        return (
            part.get("minimum", value) <= value <= part.get("maximum", value)
            and part.get("exclusiveMinimum", value - 1) < value
            and value < part.get("exclusiveMaximum", value + 1)
            and value % part.get("multipleOf", value or 1) == 0
        )
    return True
