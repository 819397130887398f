"""The images that a fit sees: the cases of each split, and the slices that were made of them.

Only this module and :mod:`medad_fast.data.pipeline` know that the slices are held in memory.

An image that was learned from must not be scored as if it were new, so no slice may be in two
splits. Prepared slices are compared: the same pixels are found whatever file they came in. A run
keeps digests only. A slice without contrast is like every other one and never counts as the same.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medad_fast.data.dataset import Case, Dataset, PatientNames
from medad_fast.data.pipeline import Pipeline
from medad_fast.errors import InputError

FLAT = 1e-5
"""Range of grey levels, of those in [-1, 1], that resizing may give an image without contrast."""
_SPLITS = {"train": "train", "tuning": "validation", "validation": "validation"}
"""Splits of a run, and what they are in the dataset."""


@dataclass(frozen=True)
class Batches:
    """Images in batches on a device, as often as they are iterated."""

    images: Tensor
    size: int
    device: torch.device | str

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self.images), self.size):
            yield self.images[start : start + self.size].to(self.device)


@dataclass(frozen=True, eq=False)
class Cohort:
    """The cases of one split and label, and their slices; its length is the number of slices."""

    cases: tuple[Case, ...]
    images: Tensor
    """``(N, C, h, w)`` float32 in [-1, 1]."""
    case: Tensor
    """``(N,)`` int64: place of each slice's case in ``cases``."""
    index: Tensor
    """``(N,)`` int64: place of each slice in its volume."""
    skipped: int
    """Slices left out for want of foreground."""

    @classmethod
    def load(cls, cases: Sequence[Case], pipeline: Pipeline) -> Cohort:
        """Read the files of all cases; no cases give an empty cohort.

        Raises:
            InputError: a file cannot be read, or no slice of any file has enough foreground.
        """
        config = pipeline.config
        side = config.image_size
        images = [torch.empty(0, config.channels, side, side, dtype=torch.float32)]
        index = [torch.empty(0, dtype=torch.int64)]
        counts, skipped = [], 0
        for case in cases:
            slices = pipeline(pipeline.read(case.files))
            images.append(slices.images)
            index.append(slices.index)
            counts.append(len(slices.index))
            skipped += slices.skipped
        if cases and not sum(counts):
            raise InputError(
                f"no slice of {len(cases)} files has a foreground of {config.min_foreground:.0%}: "
                f"{skipped} were skipped"
            )
        case_of_slice = torch.repeat_interleave(
            torch.arange(len(cases)), torch.tensor(counts, dtype=torch.int64)
        )
        return cls(tuple(cases), torch.cat(images), case_of_slice, torch.cat(index), skipped)

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int, device: torch.device | str = "cpu") -> Batches:
        """The images in order, ``size`` at a time."""
        return Batches(self.images, size, device)

    @property
    def of_slices(self) -> list[Case]:
        """The case of each slice."""
        return [self.cases[place] for place in self.case.tolist()]

    def patients(self) -> list[int]:
        """Each slice's patient: 0 for the first, 1 for the next new one; no identifier leaves."""
        numbers: dict[str, int] = {}
        return [numbers.setdefault(case.patient, len(numbers)) for case in self.of_slices]

    def file_sizes(self) -> Tensor:
        """``(N,)`` float64 bytes of each slice's file, NaN where the file holds further slices."""
        slices = Counter(self.case.tolist())
        sizes = [case.file_size(slices[place]) for place, case in enumerate(self.cases)]
        return torch.tensor(sizes, dtype=torch.float64)[self.case]


@dataclass(frozen=True, eq=False)
class FitData:
    """The cohorts of one fit. Normal images are in the first three."""

    training: Cohort
    tuning: Cohort
    """Empty for methods that tune nothing, and where one patient is all there is for validation."""
    validation: Cohort
    unlabeled: Cohort
    """What training learns from beside the normal images; empty where that is nothing."""
    splits: dict[str, list[dict[str, Any]]] = field(repr=False)
    """Of each split but ``test`` its cases: name, label, patient, and digests of the slices that
    the fit saw. Patients are hashed with a salt that is not stored: no list of them undoes it."""

    @classmethod
    def load(cls, dataset: Dataset, pipeline: Pipeline, unlabeled: Sequence[Case]) -> FitData:
        """Read what a fit needs, ``unlabeled`` cases included.

        Raises:
            InputError: a file cannot be read, there are fewer than two training slices, or a slice
                is in training and in validation too.
        """
        training = Cohort.load(dataset.select("train", "normal"), pipeline)
        if len(training) < 2:  # trivial baselines need a standard deviation
            raise InputError(
                f"{dataset.root} has {len(training)} usable normal train slices, at least 2 are "
                "needed"
            )
        tuning = Cohort.load(dataset.select("tuning", "normal"), pipeline)
        validation = Cohort.load(dataset.select("validation", "normal"), pipeline)
        further = Cohort.load(unlabeled, pipeline)
        splits = _splits(dataset, (training, tuning, validation, further))
        learned = known_pixels({"train": splits["train"]})
        for split in ("tuning", "validation"):
            for case in splits.get(split, []):
                check_unseen(case["case"], "validation", case["pixels"], learned)
        return cls(training, tuning, validation, further, splits)

    def counts(self) -> dict[str, int]:
        """How many slices there are of each kind, and how many were left out."""
        normal = {"train": self.training, "tuning": self.tuning, "validation": self.validation}
        counts: dict[str, int] = {}
        for name, cohort in normal.items():
            counts |= {f"{name}_images": len(cohort), f"{name}_skipped": cohort.skipped}
        return counts | {"unlabeled_images": len(self.unlabeled)}

    def digest(self) -> str:
        """The sha256 of the slices that training sees."""
        digest = hashlib.sha256()
        for cohort in (self.training, self.unlabeled):
            for image in cohort.images:
                digest.update(image.contiguous().numpy().data)
        return digest.hexdigest()


def _splits(dataset: Dataset, cohorts: Sequence[Cohort]) -> dict[str, list[dict[str, Any]]]:
    names = PatientNames(keep=False)
    pixels = defaultdict[str, list[str]](list)
    for cohort in cohorts:
        for case, digest in zip(cohort.of_slices, pixel_digests(cohort.images), strict=True):
            pixels[case.name].append(digest)
    splits: dict[str, list[dict[str, Any]]] = {split: [] for split in _SPLITS}
    for case in dataset.cases:
        if case.split in splits:
            told = {"case": case.name, "label": case.label, "patient": names(case.patient)}
            splits[case.split].append(told | {"pixels": pixels[case.name]})
    return {split: cases for split, cases in splits.items() if cases}


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
