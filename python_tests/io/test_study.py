"""Validation patients are set aside by lot, whole, and the same each time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from medad_fast.errors import InputError
from medad_fast.io import Case, Study, hold_out_validation


def _study(patients: int, images_each: int = 2, **extra: str) -> Study:
    cases = [
        Case((Path(f"{p}-{i}.png"),), f"{p}-{i}.png", "normal", "train", f"p{p}")
        for p in range(patients)
        for i in range(images_each)
    ]
    cases.append(Case((Path("u.png"),), "u.png", "unlabeled", "train", "p0"))
    return Study(Path("root"), tuple(cases))


@pytest.mark.parametrize(("patients", "held"), [(2, 1), (4, 1), (10, 2), (24, 5)])
def test_a_fifth_of_the_patients_and_at_least_one_is_held_out(patients, held):
    study = hold_out_validation(_study(patients), seed=0)
    assert len({case.patient for case in study.select("validation", "normal")}) == held
    train = {case.patient for case in study.select("train")}
    assert train.isdisjoint(case.patient for case in study.select("validation"))
    assert len(study.cases) == 2 * patients + 1


def test_the_choice_depends_on_the_seed_and_not_on_the_order():
    study = _study(12)
    shuffled = list(study.cases)
    random.Random(0).shuffle(shuffled)
    chosen = [
        {case.patient for case in hold_out_validation(each, seed=seed).select("validation")}
        for each, seed in ((study, 1), (Study(study.root, tuple(shuffled)), 1), (study, 2))
    ]
    assert chosen[0] == chosen[1] != chosen[2]


def test_an_existing_validation_set_is_kept():
    case = Case((Path("v.png"),), "v.png", "normal", "validation", "v")
    study = Study(Path("root"), (*_study(5).cases, case))
    assert hold_out_validation(study, seed=0) is study


def test_one_patient_cannot_be_split():
    with pytest.raises(InputError, match="two patients or more"):
        hold_out_validation(_study(1, images_each=9), seed=0)
