"""Anomaly detection methods, all of one shape, by name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from medad_fast.errors import InputError

if TYPE_CHECKING:
    from medad_fast.methods.base import Method

    BASELINES: frozenset[str]
    """Names in :func:`list_methods` that are there for comparison only."""

__all__ = ["BASELINES", "config_class", "create", "list_methods", "method_class"]

# Module and class under medad_fast.methods, baselines last. The configuration is <class>Config
# beside the class. A new method is a module, a folder of tests, a section in docs/methods.md, and a
# line here.
PLACES = {
    "patchcl-ae": ("patchcl_ae", "PatchCLAE"),
    "ddad": ("ddad", "DDAD"),
    "cradl": ("cradl", "CRADL"),
    "salad": ("salad", "SALAD"),
    "anatpaste": ("anatpaste", "AnatPaste"),
    "autoencoder": ("autoencoder", "Autoencoder"),
    "patch-knn": ("patch_knn", "PatchKNN"),
}


def list_methods() -> list[str]:
    """Names that :func:`create` accepts; those in :data:`BASELINES` come last."""
    return list(PLACES)


def method_class(name: str) -> type[Method]:
    """The class of a method, which tells its traits."""
    kind: type[Method] = _find(name, "")
    return kind


def config_class(name: str) -> type[Any]:
    """The frozen dataclass of a method's settings."""
    config: type[Any] = _find(name, "Config")
    return config


def create(name: str, **overrides: Any) -> Method:
    """Build an untrained method.

    Args:
        name: one of :func:`list_methods`.
        **overrides: fields of the method's configuration that differ from its defaults.

    Returns:
        The method, with weights drawn from torch's global generator.

    Raises:
        InputError: an unknown method or setting, or a value out of range; the message names it.
    """
    from medad_fast.settings import from_fields

    return method_class(name)(from_fields(config_class(name), overrides, f"method {name}"))


def _find(name: str, suffix: str) -> Any:
    if name not in PLACES:
        raise InputError(f"method must be one of {', '.join(PLACES)}, got {name!r}")
    module, kind = PLACES[name]
    return getattr(importlib.import_module(f"medad_fast.methods.{module}"), kind + suffix)


def __getattr__(name: str) -> Any:
    # Which methods are baselines, their classes say: asking imports them all.
    if name == "BASELINES":
        return frozenset(each for each in PLACES if method_class(each).baseline)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
