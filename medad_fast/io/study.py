"""A data set: which files there are, what they are, and whose."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

__all__ = ["Case", "Label", "Split", "Study"]

Label = Literal["normal", "abnormal", "unlabeled"]
Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Case:
    """One image or volume of a data set."""

    files: tuple[Path, ...]
    """The file, or all files of one DICOM series in slice order."""
    name: str
    """Path of the first file relative to the data set's root, with forward slashes."""
    label: Label
    split: Split
    patient: str
    """The unit of splitting and of resampling; an identifier, never printed as it is."""
    mask: Path | None = None
    """Lesion mask on the image's own grid, non-zero where abnormal."""
    groups: dict[str, str] = field(default_factory=dict)
    """Further manifest columns (scanner, sex, age, view), for subgroup tables."""


@dataclass(frozen=True)
class Study:
    """All cases of one data set."""

    root: Path
    cases: tuple[Case, ...]

    def select(self, split: Split, *labels: Label) -> tuple[Case, ...]:
        """The cases of one split, of the given labels (all labels where none is given)."""
        return tuple(
            case
            for case in self.cases
            if case.split == split and (not labels or case.label in labels)
        )
