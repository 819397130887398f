"""Random streams of simulated subjects."""

from __future__ import annotations

from typing import Literal

import numpy as np

Part = Literal["train", "validation", "test", "unlabeled"]
PARTS: tuple[Part, ...] = ("train", "validation", "test", "unlabeled")


def streams(seed: int, split: Part, number: int) -> tuple[np.random.Generator, ...]:
    """Independent streams for a subject and for its abnormality; no two splits share a subject."""
    sequences = np.random.SeedSequence([seed, PARTS.index(split), number]).spawn(2)
    return tuple(np.random.default_rng(each) for each in sequences)
