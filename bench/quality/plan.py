"""What is fitted: a method, a set, a seed and settings, under one key."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import medad_fast
from bench.quality import figures
from bench.quality.simulated import SETS, QualitySet
from bench.quality.source import Tree
from medad_fast.errors import InputError
from medad_fast.methods import PLACES, config_class, list_methods
from medad_fast.recipes import Recipe, load_recipe
from medad_fast.settings import from_fields, to_fields

BUDGET_SECONDS = 180.0
"""Of a fit on two cores, with the recipes as they are."""
BUDGET_CORES = 2
PICTURES = "medad_fast.data.formats.picture"
"""The reader of the sets' files, which the package of formats finds by itself."""


@dataclass(frozen=True)
class Variant:
    """A method with other settings than its recipe's, or another unlabeled pool."""

    method: str
    overrides: dict[str, Any] = field(default_factory=dict)
    share: float | None = None
    """Of abnormal images in the unlabeled pool; the set's own by default."""
    label: str = ""


@dataclass(frozen=True)
class Fit:
    """One fit with everything that its figures depend on."""

    set: QualitySet
    seed: int
    variant: Variant
    hours: float | None = None
    """For a longer schedule than the recipe's, the time that a fit may take."""
    max_steps: int | None = None
    counts: dict[str, int] = field(default_factory=dict)
    """Subjects of some splits, for trying things."""

    @property
    def method(self) -> str:
        return self.variant.method

    def fields(self) -> dict[str, Any]:
        """Settings to pass to ``fit``: the recipe's, the variant's, the longer schedule."""
        fields = {**_recipe(self.set.recipe).fields_of(self.method), **self.variant.overrides}
        if self.hours is None:
            return fields
        config = to_fields(from_fields(config_class(self.method), fields, self.method))
        longer = max(1.0, self.hours * 3600 / BUDGET_SECONDS)
        epochs = {
            name: math.ceil(value * longer)
            for name, value in config.items()
            if name.endswith("epochs") and isinstance(value, int)
        }
        return {**fields, **epochs}

    def settings(self) -> dict[str, Any]:
        """The method's whole configuration, defaults included."""
        return to_fields(from_fields(config_class(self.method), self.fields(), self.method))

    def preprocess(self) -> dict[str, Any]:
        """The recipe's fields of ``PreprocessConfig`` for this method."""
        return _recipe(self.set.recipe).preprocess_of(self.method)

    def identity(self) -> dict[str, Any]:
        """What the key is made from."""
        return {
            "method": self.method,
            "set": self.set.name,
            "seed": self.seed,
            "share": self.variant.share,
            "config": self.settings(),
            "preprocess": self.preprocess(),
            "max_steps": self.max_steps,
            "subjects": self.counts,
            "source": source_of(self.method, self.set.name),
        }

    def refusal(self) -> str | None:
        """Why it cannot be done: no such method, recipe entry or setting; ``None`` where it can."""
        if self.method not in list_methods():
            return f"no method {self.method}"
        if self.method not in _recipe(self.set.recipe).methods:
            return f"no recipe entry for {self.method}"
        try:
            self.settings()
        except InputError as error:
            return f"{self.method}: {error}"
        return None

    @property
    def key(self) -> str:
        """12 hexadecimal digits; another code, setting, seed or set has another."""
        text = json.dumps(self.identity(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def made(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is of this fit, by this code or by an earlier one.

        Settings that there are only now must have their defaults; a record's other settings, and
        what else its key is made from, must be as they are here.
        """
        asked = {**self.identity(), "hours": self.hours}
        del asked["source"]
        then = {name: record.get(name) for name in asked}
        then["subjects"] = record.get("subjects", {})
        then["config"] = to_fields(config_class(self.method)()) | record["config"]
        return bool(json.loads(json.dumps(then)) == json.loads(json.dumps(asked)))

    @property
    def stem(self) -> str:
        """Name of the record's file."""
        return f"{self.set.name}-{self.method}-{self.seed}-{self.key}"


def entries(method: str, set_name: str) -> list[str]:
    """The modules that a method's figures on a set start from: all other code is imported there."""
    verbs = (medad_fast.fit, medad_fast.predict, medad_fast.evaluate)
    own = f"medad_fast.methods.{PLACES[method][0]}"
    return [
        own,
        config_class(method).__module__,
        *(verb.__module__ for verb in verbs),
        PICTURES,
        SETS[set_name].module,
        figures.__name__,
    ]


@functools.cache
def source_of(method: str, set_name: str) -> str:
    """Digest of the code behind a method's figures on a set."""
    return _tree().digest(entries(method, set_name))


@functools.cache
def _tree() -> Tree:
    return Tree()


@functools.cache
def _recipe(name: str) -> Recipe:
    return load_recipe(name)


def available(each: QualitySet, methods: Sequence[str] | None = None) -> list[str]:
    """Methods with an entry in the set's recipe, in the order of ``list_methods``."""
    entries = _recipe(each.recipe).methods
    return [name for name in methods or list_methods() if name in entries]


def missing(each: QualitySet) -> list[str]:
    """Methods without an entry: they are not fitted on this set, and the table says so."""
    return [name for name in list_methods() if name not in _recipe(each.recipe).methods]


def plan(
    sets: Iterable[str],
    methods: Sequence[str] | None,
    seeds: int,
    *,
    hours: float | None = None,
    max_steps: int | None = None,
    counts: dict[str, int] | None = None,
) -> list[Fit]:
    """All fits, seed by seed and set by set, so that a stopped run leaves whole tables."""
    return [
        Fit(SETS[name], seed, Variant(method), hours, max_steps, counts or {})
        for seed in range(seeds)
        for name in sets
        for method in available(SETS[name], methods)
    ]
