"""What a run tells of the images that it was fitted on: counts, splits, sizes of files."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from medad_fast.io.study import Case, Study
from medad_fast.leakage import check_unseen, known_pixels, pixel_digests
from medad_fast.patient_names import PatientNames
from medad_fast.preprocess import SliceSet

__all__ = [
    "check_pixels_once",
    "digests_by_case",
    "file_sizes",
    "patient_numbers",
    "splits_of",
    "summary",
]


def file_sizes(cases: Sequence[Case], slices: SliceSet) -> Tensor:
    """Bytes of each image's file, NaN where the file holds further images."""
    of_case = slices.case.tolist()
    images = Counter(of_case)
    alone = [images[case] == 1 and len(cases[case].files) == 1 for case in of_case]
    sizes = [
        float(cases[case].files[0].stat().st_size) if single else float("nan")
        for case, single in zip(of_case, alone, strict=True)
    ]
    return torch.tensor(sizes, dtype=torch.float64)


def digests_by_case(cases: Sequence[Case], slices: SliceSet | None) -> dict[str, list[str]]:
    """Digests of the slices of each case, by its name; nothing where there are no slices."""
    found = defaultdict[str, list[str]](list)
    if slices is not None:
        for case, digest in zip(slices.case.tolist(), pixel_digests(slices.images), strict=True):
            found[cases[case].name].append(digest)
    return dict(found)


def summary(
    training: SliceSet, tuning: SliceSet | None, validation: SliceSet, unlabeled: SliceSet | None
) -> dict[str, Any]:
    """How many images a fit had of each kind, and how many slices were left out."""
    return {
        "train_images": len(training.images),
        "train_skipped": training.skipped,
        "tuning_images": 0 if tuning is None else len(tuning.images),
        "tuning_skipped": 0 if tuning is None else tuning.skipped,
        "validation_images": len(validation.images),
        "validation_skipped": validation.skipped,
        "unlabeled_images": 0 if unlabeled is None else len(unlabeled.images),
    }


def splits_of(
    study: Study, normal: Mapping[str, SliceSet], unlabeled: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Cases per split, those that a fit saw with a digest of each slice.

    Patients are hashed with a salt that is never stored, so that no list of them undoes it.

    Args:
        study: the data set.
        normal: the prepared normal images of ``train``, ``validation`` and, where there is one,
            ``tuning``.
        unlabeled: digests of the slices of each unlabeled training case, by its name.
    """
    names = PatientNames(keep=False)
    splits: dict[str, Any] = {}
    for split, slices in normal.items():
        pixels = defaultdict[int, list[str]](list)
        for case, digest in zip(slices.case.tolist(), pixel_digests(slices.images), strict=True):
            pixels[case].append(digest)
        numbers = itertools.count()
        splits[split] = [
            {
                "case": case.name,
                "label": case.label,
                "patient": names(case.patient),
                "pixels": pixels[next(numbers)]
                if case.label == "normal"
                else list(unlabeled.get(case.name, ()) if split == "train" else ()),
            }
            for case in study.cases
            if case.split == split
        ]
    return splits


def check_pixels_once(splits: Mapping[str, Any]) -> None:
    """Refuse the same pixels in training and validation.

    Args:
        splits: from :func:`splits_of`.

    Raises:
        InputError: a slice is in both; names the two files.
    """
    learned = known_pixels({"train": splits["train"]})
    for split in ("tuning", "validation"):
        for case in splits.get(split, []):
            check_unseen(case["case"], "validation", case["pixels"], learned)


def patient_numbers(cases: Sequence[Case], slices: SliceSet) -> list[int]:
    """0 for the patient of the first slice, 1 for the next new one: no identifier leaves here."""
    numbers: dict[str, int] = {}
    patients = [cases[case].patient for case in slices.case.tolist()]
    return [numbers.setdefault(patient, len(numbers)) for patient in patients]
