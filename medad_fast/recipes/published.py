"""Figures that a recipe's sources report, to be shown beside one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from medad_fast.errors import InputError
from medad_fast.settings import check_choices_and_types, from_fields, require

__all__ = ["Published", "for_run", "read_published"]


@dataclass(frozen=True)
class Published:
    """One reported result at the level of images."""

    method: str
    """As in :func:`medad_fast.methods.list_methods`."""
    of: str
    """Which score, backbone or variant."""
    source: str
    """Paper and table, or whatever the figure was taken from."""
    known: Literal["printed", "abstract", "figure", "second hand"]
    """Printed in a table; in the abstract; read off a figure; told by others than its authors."""
    auroc: float | None = None
    average_precision: float | None = None
    plus_minus: float | None = None
    """Of the AUROC: what ``note`` says."""
    note: str = ""

    def __post_init__(self) -> None:
        check_choices_and_types(self)
        for name in ("auroc", "average_precision", "plus_minus"):
            value = getattr(self, name)
            require(value is None or 0 <= value <= 1, self, name, "from 0 to 1")
        if self.auroc is None and self.average_precision is None:
            raise InputError("a published figure needs auroc or average_precision, got neither")


def read_published(entries: Any, methods: Sequence[str]) -> tuple[Published, ...]:
    """The recipe's key ``published``: a list of tables with the fields of :class:`Published`.

    Raises:
        InputError: it is not that, or an entry's method is none of ``methods``.
    """
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise InputError(f"published must be a list of tables, got {entries!r}")
    found = []
    for place, entry in enumerate(entries):
        missing = {"method", "of", "source", "known"} - entry.keys()
        if missing:
            raise InputError(f"published.{place} has no {', '.join(sorted(missing))}")
        one: Published = from_fields(Published, entry, f"published.{place}")
        if one.method not in methods:
            raise InputError(
                f"published.{place} is of method {one.method!r}, which the recipe does not set"
            )
        found.append(one)
    return tuple(found)


def for_run(
    name: str, method: str, published: Sequence[Published], changed: Sequence[str]
) -> dict[str, Any]:
    """What a run, its predictions and their metrics keep of the recipe that it was made from.

    Args:
        name: the recipe's.
        method: the run's.
        published: the recipe's figures, of any method.
        changed: settings in which the run departs from the recipe.
    """
    return {
        "recipe": name,
        "changed": list(changed),
        "figures": [asdict(each) for each in published if each.method == method],
    }
