"""Patients for validation and tuning are set aside by lot, whole, and the same each time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from medad_fast.data import Case, Dataset, hold_out_tuning, hold_out_validation
from medad_fast.errors import InputError


def _dataset(patients: int, images_each: int = 2, **extra: str) -> Dataset:
    cases = [
        Case((Path(f"{p}-{i}.png"),), f"{p}-{i}.png", "normal", "train", f"p{p}")
        for p in range(patients)
        for i in range(images_each)
    ]
    cases.append(Case((Path("u.png"),), "u.png", "unlabeled", "train", "p0"))
    return Dataset(Path("root"), tuple(cases))


@pytest.mark.parametrize(("patients", "held"), [(2, 1), (4, 1), (10, 2), (24, 5)])
def test_a_fifth_of_the_patients_and_at_least_one_is_held_out(patients, held):
    dataset = hold_out_validation(_dataset(patients), seed=0)
    assert len({case.patient for case in dataset.select("validation", "normal")}) == held
    train = {case.patient for case in dataset.select("train")}
    assert train.isdisjoint(case.patient for case in dataset.select("validation"))
    assert len(dataset.cases) == 2 * patients + 1


def test_the_choice_depends_on_the_seed_and_not_on_the_order():
    dataset = _dataset(12)
    shuffled = list(dataset.cases)
    random.Random(0).shuffle(shuffled)
    chosen = [
        {case.patient for case in hold_out_validation(each, seed=seed).select("validation")}
        for each, seed in ((dataset, 1), (Dataset(dataset.root, tuple(shuffled)), 1), (dataset, 2))
    ]
    assert chosen[0] == chosen[1] != chosen[2]


def test_an_existing_validation_set_is_kept():
    case = Case((Path("v.png"),), "v.png", "normal", "validation", "v")
    dataset = Dataset(Path("root"), (*_dataset(5).cases, case))
    assert hold_out_validation(dataset, seed=0) is dataset


def test_one_patient_cannot_be_split():
    with pytest.raises(InputError, match="two patients or more"):
        hold_out_validation(_dataset(1, images_each=9), seed=0)


@pytest.mark.parametrize(("patients", "tuning"), [(1, 0), (2, 1), (5, 2), (24, 12)])
def test_half_of_the_validation_patients_are_for_tuning_and_the_rest_for_thresholds(
    patients, tuning
):
    cases = [
        Case((Path(f"{p}-{i}.png"),), f"{p}-{i}.png", "normal", "validation", f"v{p}")
        for p in range(patients)
        for i in range(2)
    ]
    dataset = Dataset(Path("root"), (*_dataset(3).cases, *cases))
    found = hold_out_tuning(dataset, seed=0)
    moved = {case.patient for case in found.select("tuning")}
    assert len(moved) == tuning
    assert {case.patient for case in found.select("validation")} == {
        f"v{p}" for p in range(patients)
    } - moved
    assert found.select("train") == dataset.select("train")
    shuffled = Dataset(dataset.root, tuple(reversed(dataset.cases)))
    assert {case.patient for case in hold_out_tuning(shuffled, seed=0).select("tuning")} == moved
    if patients == 24:
        other = hold_out_tuning(dataset, seed=1)
        assert {case.patient for case in other.select("tuning")} != moved
