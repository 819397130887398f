"""Slices of simulated brains, normal and abnormal in pairs, with exact masks.

**Subjects and lesions are simulated, all from one anatomy**: those of
:mod:`medad_fast.demo.brain`, where kinds, sizes and contrasts are written down; half of the
lesions stay within their subject's own range of grey levels. Results on this data show that a
method works and compare methods; they say nothing about diagnostic accuracy.

What is written below was fixed before any method was fitted. Of a normal subject all slices are
taken. Of a subject with a lesion those slices are that show most of it, at most two for testing and
four for the unlabeled pool and each with at least 8 lesion pixels, beside the same slices before
the lesion. A pixel belongs to the mask where more than half of it is lesion.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from bench.quality.sets.pairs import (
    Progress,
    SetPlan,
    SimulatedPair,
    write_pairs,
)
from medad_fast.demo.anatomy import load_anatomy
from medad_fast.demo.brain import SimulatedSubject, draw_subject
from medad_fast.demo.lesions import balanced_kinds
from medad_fast.demo.streams import Part, streams

LEAST_PIXELS = 8
MOST_SLICES = {"test": 2, "unlabeled": 4}
PLAN = SetPlan(train=24, validation=6, test=40, unlabeled=24, size=96)
_ABOUT = (
    "Slices of simulated brain MRI: subjects and lesions are simulated from one anatomy, the "
    "ICBM152 T1 average of 152 people. Kinds, sizes and contrasts are described in the docstrings "
    "of medad_fast.demo.brain and bench.quality.sets.brain_slices. No diagnostic accuracy."
)


def simulate_brain_slices(
    out: str | Path,
    plan: SetPlan = PLAN,
    *,
    slices: int = 8,
    progress: Progress | None = None,
) -> Path:
    """Write a set of axial slices as pictures in the folder layout that every verb reads.

    See :func:`bench.quality.sets.pairs.write_pairs` for the files. Each subject has several
    pictures.

    Args:
        out: folder to write into; made if missing.
        plan: how large the set is.
        slices: axial levels of a subject.
        progress: called after each subject.

    Returns:
        ``out``.

    Raises:
        InputError: nilearn is not installed.
        DeviceError: the disk is full or not writable.
    """

    def draw(split: Part, number: int, abnormal: bool) -> list[SimulatedPair]:
        return draw_brain_slices(
            plan.seed, split, number, abnormal=abnormal, slices=slices, size=plan.size
        )

    return write_pairs(out, draw, plan, about=_ABOUT, facts={"slices": slices}, progress=progress)


def draw_brain_slices(
    seed: int, split: Part, number: int, *, abnormal: bool, slices: int = 8, size: int = 96
) -> list[SimulatedPair]:
    """Draw one subject's slices, without writing anything."""
    subject, disease = streams(seed, split, number)
    kind = next(islice(balanced_kinds(number + 1), number, None)) if abnormal else None
    name = f"sub-sim-{split}-{number:03d}"
    drawn = draw_subject(name, load_anatomy(), subject, disease, kind, slices, size)
    if drawn.lesion is None:
        return [_pair(drawn, place) for place in range(slices)]
    areas = drawn.mask.sum(axis=(1, 2))
    largest = np.argsort(-areas, kind="stable")[: MOST_SLICES.get(split, slices)]
    shown = [place for place in largest.tolist() if areas[place] >= LEAST_PIXELS]
    return [_pair(drawn, place) for place in sorted(shown or largest[:1].tolist())]


def _pair(subject: SimulatedSubject, place: int) -> SimulatedPair:
    lesion = subject.lesion
    return SimulatedPair(
        f"{subject.name}_slice-{place}",
        subject.healthy[place].astype(np.uint16),
        subject.pixels[place].astype(np.uint16),
        subject.mask[place],
        lesion.kind if lesion else "",
        {
            "diameter_mm": lesion.diameter_mm,
            "within_tissue_range": float(lesion.within_tissue_range),
        }
        if lesion
        else None,
    )
