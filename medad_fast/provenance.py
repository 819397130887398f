"""What a run tells of the images that it was fitted on: counts, splits, sizes of files."""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medad_fast.io.study import Case, Study
from medad_fast.preprocess import SliceSet

__all__ = ["file_sizes", "splits_of", "summary"]


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


def summary(training: SliceSet, validation: SliceSet, unlabeled: Tensor | None) -> dict[str, Any]:
    return {
        "train_images": len(training.images),
        "train_skipped": training.skipped,
        "validation_images": len(validation.images),
        "validation_skipped": validation.skipped,
        "unlabeled_images": 0 if unlabeled is None else len(unlabeled),
    }


def splits_of(study: Study) -> dict[str, Any]:
    """Cases per split. Patients are hashed with a salt of this run, so that no table undoes it."""
    salt = secrets.token_hex(16)
    splits: dict[str, Any] = {"salt": salt}
    for split in ("train", "validation"):
        splits[split] = [
            {"case": case.name, "label": case.label, "patient": _hashed(case.patient, salt)}
            for case in study.cases
            if case.split == split
        ]
    return splits


def _hashed(patient: str, salt: str) -> str:
    return hashlib.sha256(f"{salt}/{patient}".encode()).hexdigest()[:16]
