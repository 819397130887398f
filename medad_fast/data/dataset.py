"""A dataset: its files, their labels, splits and patients."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from medad_fast.errors import InputError

Label = Literal["normal", "abnormal", "unlabeled"]
Split = Literal["train", "tuning", "validation", "test"]
"""``tuning`` never stands on disk: :func:`hold_out_tuning` makes it."""

MIN_NORMAL = 8
"""Fewer normal training files or series than this are refused."""


@dataclass(frozen=True)
class Case:
    """One image or volume of a dataset."""

    files: tuple[Path, ...]
    """The file, or all files of one DICOM series in slice order."""
    name: str
    """Path of the first file relative to the dataset's root, with forward slashes."""
    label: Label
    split: Split
    patient: str
    """The unit of splitting and of resampling; an identifier, never printed as it is."""
    mask: Path | None = None
    """Lesion mask on the image's own grid, non-zero where abnormal."""
    groups: dict[str, str] = field(default_factory=dict)
    """Further manifest columns (scanner, sex, age, view), for subgroup tables."""

    def file_size(self, slices: int) -> float:
        """Bytes of the file if it holds one slice only, which is all of the case; else NaN."""
        alone = len(self.files) == 1 and slices == 1
        return float(self.files[0].stat().st_size) if alone else math.nan


@dataclass(frozen=True)
class Dataset:
    """All cases of one dataset."""

    root: Path
    cases: tuple[Case, ...]

    def name_of(self, path: Path) -> str:
        """A path relative to the root, or the whole path if it is not below the root."""
        absolute, root = path.resolve(), self.root.resolve()
        below = absolute.is_relative_to(root)
        return (absolute.relative_to(root) if below else absolute).as_posix()

    def select(self, split: Split, *labels: Label) -> tuple[Case, ...]:
        """The cases of one split, of the given labels (all labels where none is given)."""
        return tuple(
            case
            for case in self.cases
            if case.split == split and (not labels or case.label in labels)
        )


def require_trainable(dataset: Dataset) -> None:
    """Refuse a dataset that no method can learn from.

    Raises:
        InputError: there are fewer than ``MIN_NORMAL`` normal training cases.
    """
    count = len(dataset.select("train", "normal"))
    if count == 0:
        labels = sorted({f"{case.split}/{case.label}" for case in dataset.cases})
        raise InputError(
            f"{dataset.root}: has no normal training images (train/normal), only "
            f"{', '.join(labels)}"
        )
    if count < MIN_NORMAL:
        raise InputError(
            f"{dataset.root}: has {count} normal training images or volumes, "
            f"at least {MIN_NORMAL} are needed"
        )


def hold_out_validation(dataset: Dataset, *, fraction: float = 0.2, seed: int) -> Dataset:
    """Move a share of the normal training patients to validation, if there is none yet.

    Which patients are moved depends on ``seed`` and on the set of patients, not on their order.
    Unlabeled images of a moved patient leave training with it.

    Args:
        dataset: a dataset that :func:`require_trainable` accepts.
        fraction: share of the patients to move; at least one moves and at least one stays.
        seed: of the choice.

    Raises:
        InputError: the normal training images are all of one patient.
    """
    if dataset.select("validation", "normal"):
        return dataset
    patients = sorted({case.patient for case in dataset.select("train", "normal")})
    if len(patients) < 2:
        raise InputError(
            f"{dataset.root}: a validation set needs normal training images of two patients or "
            f"more, got {len(patients)}; tell patients apart in a manifest.csv"
        )
    count = min(max(1, round(fraction * len(patients))), len(patients) - 1)
    order = np.random.default_rng(seed).permutation(len(patients))
    return _moved(dataset, "train", "validation", {patients[i] for i in order[:count]})


def hold_out_tuning(dataset: Dataset, *, seed: int) -> Dataset:
    """Move half of the normal validation patients, rounded down, to the split ``tuning``.

    For methods that fit something to held-out images: the images that set the thresholds must be as
    new to the method as those that it will score, or the promised rate does not hold.

    Args:
        dataset: a dataset with a validation split.
        seed: of the choice, which does not depend on the order of the patients.
    """
    patients = sorted({case.patient for case in dataset.select("validation", "normal")})
    order = np.random.default_rng([seed, 1]).permutation(len(patients))  # not as validation's
    return _moved(
        dataset, "validation", "tuning", {patients[i] for i in order[: len(patients) // 2]}
    )


def _moved(dataset: Dataset, source: Split, target: Split, patients: set[str]) -> Dataset:
    return replace(
        dataset,
        cases=tuple(
            replace(case, split=target)
            if case.split == source and case.patient in patients
            else case
            for case in dataset.cases
        ),
    )


def first_of_pools(cases: Sequence[Case], first: Mapping[str, int]) -> tuple[Case, ...]:
    """The first cases of each pool of a ``data.json``, as many as ``first`` says for it."""
    if not first or not any("pool" in case.groups for case in cases):
        return tuple(cases)
    return tuple(
        case
        for pool, count in first.items()
        for case in [case for case in cases if case.groups.get("pool") == pool][:count]
    )


class PatientNames:
    """Names of patients within one table.

    Each is a hash with a random salt that is never stored: rows of one patient agree within one
    table, and neither a list of identifiers nor another table can be matched to it.
    """

    def __init__(self, *, keep: bool) -> None:
        self.kept = keep
        """Whether names are the identifiers themselves, as ``--keep-ids`` asks."""
        self._salt = secrets.token_bytes(32)

    def __call__(self, patient: str) -> str:
        if self.kept:
            return patient
        name = patient.encode("utf-8", "surrogateescape")
        return hashlib.blake2b(name, key=self._salt, digest_size=8).hexdigest()
