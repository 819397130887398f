"""What the checks of a dataset compare: kept of each image when its pixels are gone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medad_fast.data import Case, Image, read, read_mask
from medad_fast.doctor.marks import has_mark

THUMBNAIL = 16
"""Side of the small picture that polarity is judged by."""

FEATURES = (
    "mean",
    "standard deviation",
    "smallest value",
    "largest value",
    "share of the darkest value",
    "mean of the border",
    "mean gradient",
    "rows",
    "columns",
    "slices",
    "bits",
    "file size",
)
"""What is known of an image without looking at it."""

_MARKED_SLICES = 5
"""Slices of a volume that are searched for burned-in marks."""


@dataclass(frozen=True, eq=False)
class Facts:
    """One image or volume of a dataset."""

    case: Case
    modality: str
    bits: int
    size: tuple[int, int]
    """Rows and columns."""
    spacing_mm: tuple[float, float] | None
    """Between rows, between columns."""
    colour: bool
    inverted: bool
    """Whether the reader inverted MONOCHROME1."""
    slices: dict[str, int]
    """Digest of the pixels of each slice that is not constant, and its place."""
    nonfinite: int
    """Pixels that are NaN or infinite."""
    thumbnail: NDArray[np.float64]
    """The middle slice, ``(THUMBNAIL ** 2)`` ranks of its grey levels, mean 0 and length 1."""
    marked: bool
    """Whether something looks burned into a slice."""
    said_burned_in: str | None
    """DICOM's BurnedInAnnotation; ``None`` where such a file cannot say."""
    empty_mask: bool
    """Whether its lesion mask marks nothing."""
    features: NDArray[np.float64]
    """In the order of ``FEATURES``."""


def facts_of(case: Case) -> Facts:
    """Read an image and its mask.

    Raises:
        InputError: one of them cannot be read, or they differ in size or place.
    """
    image = read(case.files)
    mask = None if case.mask is None else read_mask(case.mask, image)
    pixels = image.pixels
    digests = {}
    for place, pixel_slice in enumerate(pixels):
        if pixel_slice.min() != pixel_slice.max():
            values = np.ascontiguousarray(pixel_slice, dtype=np.float32)
            digests[hashlib.sha256(values.tobytes()).hexdigest()] = place
    grey = pixels.astype(np.float32) if pixels.ndim == 3 else pixels.mean(axis=3, dtype=np.float32)
    bad = ~np.isfinite(grey)
    grey[bad] = 0
    searched = np.unique(np.linspace(0, len(grey) - 1, _MARKED_SLICES).round().astype(int))
    spacing = image.spacing_mm
    return Facts(
        case=case,
        modality=image.modality,
        bits=image.provenance.bits_stored,
        size=(grey.shape[1], grey.shape[2]),
        spacing_mm=None if spacing is None else (spacing[1], spacing[2]),
        colour=pixels.ndim == 4,
        inverted=image.provenance.inverted,
        slices=digests,
        nonfinite=int(bad.sum()),
        thumbnail=_thumbnail(grey[len(grey) // 2]),
        marked=any(has_mark(grey[place]) for place in searched),
        said_burned_in=image.attributes.get("BurnedInAnnotation"),
        empty_mask=mask is not None and not mask.any(),
        features=_features(case, image, grey),
    )


def _thumbnail(grey: NDArray[np.float32]) -> NDArray[np.float64]:
    """Ranks, because a window or a bright spot moves grey levels but hardly their order."""
    import torch
    from scipy.stats import rankdata

    small = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(grey.copy())[None], THUMBNAIL)
    ranks = rankdata(small.numpy().reshape(-1))
    ranks -= ranks.mean()
    length = float(np.linalg.norm(ranks))
    shown: NDArray[np.float64] = ranks / length if length > 0 else ranks
    return shown


def _features(case: Case, image: Image, grey: NDArray[np.float32]) -> NDArray[np.float64]:
    rows, columns = grey.shape[1:]
    edge = max(1, min(rows, columns) // 16)
    border = np.concatenate(
        [
            grey[:, :edge].reshape(-1),
            grey[:, -edge:].reshape(-1),
            grey[:, :, :edge].reshape(-1),
            grey[:, :, -edge:].reshape(-1),
        ]
    )
    down, along = (np.abs(np.diff(grey, axis=axis)).mean(dtype=np.float64) for axis in (1, 2))
    return np.array(
        [
            grey.mean(dtype=np.float64),
            grey.std(dtype=np.float64),
            grey.min(),
            grey.max(),
            (grey == grey.min()).mean(),
            border.mean(dtype=np.float64),
            0.0 if min(rows, columns) < 2 else down + along,
            rows,
            columns,
            len(grey),
            image.provenance.bits_stored,
            np.nan_to_num(case.file_size(len(grey))),
        ],
        dtype=np.float64,
    )
