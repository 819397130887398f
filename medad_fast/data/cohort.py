"""What a run tells of the images that it was fitted on: counts, splits, sizes of files."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from medad_fast.data.dataset import Case, Dataset
from medad_fast.data.leakage import check_unseen, known_pixels, pixel_digests
from medad_fast.data.patient_names import PatientNames
from medad_fast.data.pipeline import SliceSet

__all__ = ["check_pixels_once", "file_sizes", "patient_numbers", "splits_of", "summary"]


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
    dataset: Dataset, seen: Iterable[tuple[Sequence[Case], SliceSet]]
) -> dict[str, list[dict[str, Any]]]:
    """Cases per split but ``test``, those that a fit saw with a digest of each slice.

    Patients are hashed with a salt that is never stored, so that no list of them undoes it.

    Args:
        dataset: the data set.
        seen: cases, and the slices that were made of them.
    """
    names = PatientNames(keep=False)
    pixels = defaultdict[str, list[str]](list)
    for cases, slices in seen:
        for case, digest in zip(slices.case.tolist(), pixel_digests(slices.images), strict=True):
            pixels[cases[case].name].append(digest)
    splits: dict[str, list[dict[str, Any]]] = {}
    for split in ("train", "tuning", "validation"):
        of_split = [case for case in dataset.cases if case.split == split]
        if of_split:
            splits[split] = [
                {
                    "case": case.name,
                    "label": case.label,
                    "patient": names(case.patient),
                    "pixels": pixels.get(case.name, []),
                }
                for case in of_split
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
