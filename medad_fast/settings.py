"""What all configuration dataclasses check, and how they are written down."""

from __future__ import annotations

import dataclasses
import math
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from medad_fast.errors import InputError

__all__ = [
    "above_zero",
    "at_least",
    "check_choices_and_types",
    "check_common",
    "from_fields",
    "require",
    "rising",
    "shares",
    "to_fields",
]


def require(condition: bool, config: object, field: str, wanted: str) -> None:
    """Raise an ``InputError`` that names the field, what it is and what it should be."""
    if not condition:
        raise InputError(f"{field} must be {wanted}, got {getattr(config, field)!r}")


def at_least(config: object, least: int, *fields: str) -> None:
    """Require each of the fields to be ``least`` or more, or null where that is allowed."""
    wanted = f"at least {least}" if least else "0 or more"
    for field in fields:
        value = getattr(config, field)
        require(value is None or value >= least, config, field, wanted)


def above_zero(config: object, *fields: str) -> None:
    """Require each of the fields to be above 0."""
    for field in fields:
        require(getattr(config, field) > 0, config, field, "above 0")


def shares(config: object, *fields: str) -> None:
    """Require each of the fields to be from 0 to 1."""
    for field in fields:
        require(0 <= getattr(config, field) <= 1, config, field, "from 0 to 1")


def rising(config: object, field: str, highest: int, *, lowest: int = 1) -> None:
    """Require a list of layers: rising numbers from ``lowest`` to ``highest``, at least one."""
    values = list(getattr(config, field))
    fine = values == sorted(set(values)) and set(values) <= set(range(lowest, highest + 1))
    require(bool(values) and fine, config, field, f"rising numbers from {lowest} to {highest}")


def check_common(config: Any) -> None:
    """Types and choices of every field, and the ranges of fields that methods share.

    All have sizes and rules of the score; those of training are checked where a method trains.
    """
    check_choices_and_types(config)
    own = {field.name for field in dataclasses.fields(config)}
    require(
        32 <= config.image_size <= 512 and config.image_size % 16 == 0,
        config,
        "image_size",
        "a multiple of 16 from 32 to 512",
    )
    require(config.channels in (1, 3), config, "channels", "1 or 3")
    at_least(config, 1, *({"width", "top_k", "epochs", "batch_size"} & own))
    at_least(config, 0, *({"weight_decay", "normal_margin"} & own))
    above_zero(config, *({"learning_rate", "eps", "temperature"} & own))
    shares(config, "quantile")
    if "betas" in own:
        inside = all(0 <= beta < 1 for beta in config.betas)
        require(inside, config, "betas", "two values in [0, 1)")
    smoothing = config.map_smoothing
    require(smoothing >= 1 and smoothing % 2 == 1, config, "map_smoothing", "odd and at least 1")


def check_choices_and_types(config: Any) -> None:
    """Hold every field of a frozen dataclass to its annotation.

    Whole numbers are accepted for floats and lists for tuples, since flags and YAML give them, and
    are stored as annotated. Floats must be finite.
    """
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        fits, stored = _fit_to(value, hints[field.name])
        if not fits:
            wanted = _describe(hints[field.name])
            raise InputError(f"{field.name} must be {wanted}, got {value!r}")
        object.__setattr__(config, field.name, stored)


def to_fields(config: Any) -> dict[str, Any]:
    """Fields and values of a configuration, as YAML and JSON can hold them."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(config).items()
    }


def from_fields(kind: type[Any], fields: dict[str, Any], owner: str) -> Any:
    """Build a configuration from fields; an unknown one is an error that lists the known."""
    known = [field.name for field in dataclasses.fields(kind)]
    for name in fields:
        if name not in known:
            raise InputError(f"{owner} has no setting {name!r}; it has {', '.join(known)}")
    return kind(**fields)


def _fit_to(value: Any, kind: Any) -> tuple[bool, Any]:
    """Whether ``value`` is of the annotated ``kind``, and the value to store."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in arguments, value
    if origin in (Union, types.UnionType):
        for option in arguments:
            fits, stored = _fit_to(value, option)
            if fits:
                return True, stored
        return False, value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return False, value
        if arguments[-1] is not ... and len(value) != len(arguments):
            return False, value
        kinds = [arguments[0]] * len(value) if arguments[-1] is ... else arguments
        items = [_fit_to(item, kind) for item, kind in zip(value, kinds, strict=True)]
        return all(fits for fits, _ in items), tuple(stored for _, stored in items)
    if kind is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and math.isfinite(value), float(value) if number else value
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    return isinstance(value, kind), value


def _describe(kind: Any) -> str:
    """The annotation in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(repr(argument) for argument in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(option) for option in arguments)
    if origin is tuple:
        return f"a list of {_describe(arguments[0])} values"
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text"}
    return "null" if kind is type(None) else names.get(kind, str(kind))
