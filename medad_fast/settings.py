"""Settings of methods, preprocessing and recipes: how they are checked, described, written down.

A settings class is a frozen dataclass under :func:`checked`, and each of its fields has a default
and a description (:func:`setting`). What a value must be stands in the field's type: the messages
of errors, ``--help`` and the JSON schema all take it from there. Whole numbers are accepted for
floats and lists for tuples, since flags and YAML give them, and are stored as annotated. Floats
must be finite, and a bool is no number.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from medad_fast.errors import InputError

__all__ = [
    "Channels",
    "ImageSize",
    "Rule",
    "checked",
    "describe",
    "from_fields",
    "refusal",
    "require",
    "schema",
    "setting",
    "to_fields",
]

T = TypeVar("T")
NOUNS = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text"}
RANGE = {"ge": "from", "gt": "above", "le": "to", "lt": "to below"}
SHORT = reprlib.Repr()
SHORT.maxlevel, SHORT.maxstring, SHORT.maxother = 2, 100, 100


@dataclasses.dataclass(frozen=True)
class Rule:
    """In an ``Annotated`` type: what a value must be, in words and as a test."""

    wanted: str
    holds: Callable[[Any], bool]

    def __get_pydantic_core_schema__(self, kind: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(kind))

    def _check(self, value: T) -> T:
        if not self.holds(value):
            raise ValueError(self.wanted)
        return value


ImageSize = Annotated[int, Field(ge=32, le=512, multiple_of=16)]
Channels = Annotated[
    int,
    Field(json_schema_extra={"enum": [1, 3]}, description="grey or colour"),
    Rule("1 or 3", lambda value: value in (1, 3)),
]


def setting(default: T, description: str, **limits: Any) -> T:
    """A field: what it is and where its default comes from; ``ge``, ``gt``, ``le``, ``lt``."""
    field: T = Field(default, description=description, **limits)
    return field


@typing.dataclass_transform(frozen_default=True)
def checked(kind: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose values are checked when it is built.

    Rules over several fields stand in ``__post_init__``, with :func:`require`. A value that cannot
    be is an ``InputError`` of one line with the field, what is wanted and what was given.
    """
    strict = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    made: Any = dataclass(frozen=True, config=strict)(kind)
    build, signature = made.__init__, inspect.signature(made)

    def __init__(self: Any, *values: Any, **fields: Any) -> None:
        given = signature.bind(*values, **fields).arguments
        stored = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
        try:
            build(self, **stored)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            if not first["loc"]:  # of __post_init__
                raise first["ctx"]["error"] from None
            name = str(first["loc"][0])
            field = made.__pydantic_fields__[name]
            wanted = _wanted(field.annotation, field.metadata)
            raise refusal(name, wanted, given[name]) from None

    made.__init__ = __init__
    finished: type[T] = made
    return finished


def refusal(field: str, wanted: str, got: Any) -> InputError:
    """The error, of one bounded line, that says what a field must be and what it is."""
    return InputError(f"{field} must be {wanted}, got {SHORT.repr(got)}")


def require(condition: bool, settings: object, field: str, wanted: str) -> None:
    """Raise an ``InputError`` that names the field, what it is and what it should be."""
    if not condition:
        raise refusal(field, wanted, getattr(settings, field))


def to_fields(settings: Any) -> dict[str, Any]:
    """Fields and values of settings, as YAML and JSON can hold them."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(settings).items()
    }


def from_fields(kind: type[Any], fields: Mapping[str, Any], owner: str) -> Any:
    """Build settings from fields; an unknown one is an error that lists the known."""
    known = kind.__pydantic_fields__
    if not isinstance(fields, Mapping):
        raise refusal(owner, "a table of settings", fields)
    for name in fields:
        if name not in known:
            raise InputError(
                f"{owner} has no setting {SHORT.repr(name)}; it has {', '.join(known)}"
            )
    missing = [name for name in known if known[name].is_required() and name not in fields]
    if missing:
        raise InputError(f"{owner} has no {', '.join(missing)}")
    return kind(**fields)


def describe(kind: type[Any]) -> list[tuple[str, Any, Any, str]]:
    """Name, type, default and description of each field; limits are told with the last."""
    plain, found = get_type_hints(kind), []
    for name, field in kind.__pydantic_fields__.items():
        text, wanted = field.description or "", _wanted(field.annotation, field.metadata)
        if wanted != _wanted(plain[name]):
            text = f"{text} ({re.sub('an? (whole|finite) number (of )?', '', wanted)})"
        found.append((name, plain[name], field.default, text))
    return found


def schema(kind: type[Any]) -> dict[str, Any]:
    """The JSON schema of a settings class."""
    made = TypeAdapter(kind).json_schema()
    for name, _, _, text in describe(kind):
        made["properties"][name]["description"] = text
    return made


def _wanted(kind: Any, metadata: Sequence[Any] = ()) -> str:
    """What a value of an annotated type must be, in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _wanted(parts[0], [*parts[1:], *metadata])
    for rule in metadata:
        if isinstance(rule, Rule):
            return rule.wanted
    if origin is Literal:
        return " or ".join(repr(choice) for choice in parts)
    if origin in (typing.Union, types.UnionType):
        return ", or ".join(_wanted(option, metadata) for option in parts)
    if origin is tuple:
        count = "" if parts[-1] is ... else f"{len(parts)} "
        return f"a list of {count}values, each {_wanted(parts[0])}"
    if origin is dict:
        keys = "" if parts[0] is str else f", each key {_wanted(parts[0])}"
        return "a table" + keys + ("" if parts[1] is Any else f", each value {_wanted(parts[1])}")
    if kind is types.NoneType:
        return "null"
    limits: dict[str, Any] = {}
    for each in metadata:
        for limit in each.metadata if isinstance(each, FieldInfo) else [each]:
            limits |= dataclasses.asdict(limit)
    noun = NOUNS.get(kind, "a table")
    if "multiple_of" in limits:
        noun = f"a multiple of {limits['multiple_of']}"
    if limits.keys() == {"ge"}:
        return f"{noun} of {limits['ge']} or more"
    inside = [f"{word} {limits[key]}" for key, word in RANGE.items() if key in limits]
    return " ".join([noun, *inside])
