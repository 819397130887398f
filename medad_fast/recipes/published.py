"""Figures that a recipe's sources report, to be shown beside one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Field

from medad_fast.errors import InputError
from medad_fast.settings import checked, setting


@checked
class Published:
    """One reported result at the level of images."""

    method: Annotated[str, Field(description="its name")]
    of: Annotated[str, Field(description="which score, backbone or variant")]
    source: Annotated[str, Field(description="paper and table, or where else it was taken from")]
    known: Annotated[
        Literal["printed", "abstract", "figure", "second hand"],
        Field(description="in a table, in the abstract, read off a figure, told by others"),
    ]
    auroc: float | None = setting(None, "area under the ROC curve", ge=0, le=1)
    average_precision: float | None = setting(None, "of the same images", ge=0, le=1)
    plus_minus: float | None = setting(None, "of the AUROC: what note says", ge=0, le=1)
    note: str = setting("", "what else there is to know")

    def __post_init__(self) -> None:
        if self.auroc is None and self.average_precision is None:
            raise InputError("a published figure needs auroc or average_precision, got neither")


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
