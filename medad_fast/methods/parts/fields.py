"""Settings that many methods have, and what they must be."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from medad_fast.settings import Rule

ODD = Rule("an odd number of 1 or more", lambda side: side > 0 and side % 2 == 1)
Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Betas = tuple[Fraction, Fraction]
Quantile = Annotated[Share, Field(description='of the map, for image_score "quantile"')]
TopK = Annotated[int, Field(ge=1, description='pixels, for image_score "topk"')]
Smoothing = Annotated[int, ODD, Field(description="mean filter on the map, its side in pixels")]


def rising(lowest: int, highest: int) -> Rule:
    """Of a list of layers: rising numbers from ``lowest`` to ``highest``, at least one."""
    known = set(range(lowest, highest + 1))
    return Rule(
        f"rising numbers from {lowest} to {highest}",
        lambda layers: len(layers) > 0 and list(layers) == sorted(known.intersection(layers)),
    )
