"""Identical pixels in two splits: an image that was learned from must not be judged.

Prepared images are compared, so the same pixels are found whatever file they came in. Only digests
are kept with a run. An image without any contrast is like every other one and is never a match.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from medad_fast.errors import InputError

__all__ = ["check_unseen", "known_pixels", "pixel_digests"]

FLAT = 1e-5
"""Range of grey levels, of those in [-1, 1], that resizing may give an image without contrast."""
_SPLITS = {"train": "train", "tuning": "validation", "validation": "validation"}
"""Splits of a run, and what they are in the data set."""


def pixel_digests(images: Tensor) -> list[str]:
    """A digest of each image of ``(N, C, h, w)``; empty for one without contrast."""
    digests = []
    for image in images:
        pixels = image.contiguous().numpy()
        flat = bool(np.ptp(pixels) <= FLAT)
        digests.append("" if flat else hashlib.blake2b(pixels.data, digest_size=8).hexdigest())
    return digests


def known_pixels(splits: Mapping[str, Any]) -> dict[str, str]:
    """Which image has each digest: from the splits that a run was fitted with."""
    return {
        digest: f"{case['case']} ({told})"
        for split, told in _SPLITS.items()
        for case in splits.get(split, ())
        for digest in case.get("pixels", ())
        if digest
    }


def check_unseen(name: str, split: str, digests: Sequence[str], known: Mapping[str, str]) -> None:
    """Refuse an image of one split whose pixels are known from another.

    Args:
        name: of the file.
        split: that it is in.
        digests: of its slices, from :func:`pixel_digests`.
        known: from :func:`known_pixels`.

    Raises:
        InputError: a slice is known.
    """
    for digest in digests:
        if digest and digest in known:
            raise InputError(
                f"{name} ({split}) has the same pixels as {known[digest]}: an image may be in one "
                "split only; remove one of the two, or give both the same patient and split"
            )
