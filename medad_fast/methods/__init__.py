"""Anomaly detection methods, all of one shape, by name."""

from __future__ import annotations

import importlib
from typing import Any

from medad_fast.errors import InputError
from medad_fast.methods.base import Method
from medad_fast.settings import from_fields

__all__ = ["BASELINES", "config_class", "create", "list_methods", "tunes"]

# Module and class under medad_fast.methods; the configuration is <class>Config beside it.
PLACES = {
    "patchcl-ae": ("patchcl_ae", "PatchCLAE"),
    "ddad": ("ddad", "DDAD"),
    "cradl": ("cradl", "CRADL"),
    "salad": ("salad", "SALAD"),
    "anatpaste": ("anatpaste", "AnatPaste"),
    "autoencoder": ("autoencoder", "Autoencoder"),
    "patch-knn": ("patch_knn", "PatchKNN"),
}
BASELINES = frozenset({"autoencoder", "patch-knn"})
"""Names in :func:`list_methods` that are there for comparison only."""


def list_methods() -> list[str]:
    """Names that :func:`create` accepts; those in :data:`BASELINES` come last."""
    return list(PLACES)


def config_class(name: str) -> type[Any]:
    """The frozen dataclass of a method's settings."""
    module, kind = _place(name)
    config: type[Any] = getattr(module, f"{kind}Config")
    return config


def tunes(name: str, settings: Any) -> bool:
    """Whether a method fits something to held-out normal images after training.

    SALAD measures the terms of its score on them, CRADL chooses among numbers of components. These
    images are not as new to the method as those that it will score: they can set no threshold.

    Args:
        name: one of :func:`list_methods`.
        settings: the method's configuration.
    """
    several = name == "cradl" and settings.density == "gmm" and len(settings.components) > 1
    return name == "salad" or several


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
    module, kind = _place(name)
    config = from_fields(config_class(name), overrides, f"method {name}")
    method: Method = getattr(module, kind)(config)
    return method


def _place(name: str) -> tuple[Any, str]:
    if name not in PLACES:
        raise InputError(f"method must be one of {', '.join(PLACES)}, got {name!r}")
    module, kind = PLACES[name]
    return importlib.import_module(f"medad_fast.methods.{module}"), kind
