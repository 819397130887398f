"""Simulated subjects: the same each time, lesions exact, half of them within the tissue's range."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections import Counter

import numpy as np
import pytest

from medad_fast.data import load_dataset, read, read_mask
from medad_fast.demo import anatomy
from medad_fast.demo.brain import simulate_brain, simulate_subjects
from medad_fast.errors import InputError

SMALL = {"slices": 3, "size": 48}


@pytest.fixture(scope="module")
def abnormal():
    return list(simulate_subjects(10, seed=3, split="test", abnormal=10, **SMALL))


@pytest.fixture(scope="module")
def normal():
    return list(simulate_subjects(6, seed=3, **SMALL))


def test_one_seed_gives_one_set_and_another_seed_another(normal):
    again, other = (next(simulate_subjects(6, seed=seed, **SMALL)) for seed in (3, 4))
    np.testing.assert_array_equal(again.pixels, normal[0].pixels)
    assert again.orientation == normal[0].orientation
    assert (other.pixels != again.pixels).any()


def test_no_two_subjects_are_alike(normal):
    other_split = next(simulate_subjects(1, seed=3, split="validation", **SMALL))
    everyone = [*normal, other_split]
    assert len({subject.pixels.tobytes() for subject in everyone}) == len(everyone)


def test_a_lesion_changes_nothing_else_about_its_subject(abnormal):
    healthy = simulate_subjects(10, seed=3, split="test", **SMALL)
    for sick, well in zip(abnormal, healthy, strict=True):
        np.testing.assert_array_equal(sick.healthy, well.pixels)
        assert sick.orientation == well.orientation
        np.testing.assert_array_equal(sick.pixels > 0, well.pixels > 0)


def test_the_mask_is_where_the_image_changed(abnormal):
    for subject in abnormal:
        assert subject.mask.any()
        change = abs(subject.pixels.astype(float) - subject.healthy)
        white = np.percentile(subject.healthy[subject.healthy > 0], 95)
        assert np.median(change[subject.mask]) > 0.03 * white
        far = subject.healthy > 0
        if subject.lesion.push is None and subject.lesion.kind != "glioma":
            far &= ~_grown(subject.mask)
            assert change[far].max() < 0.35 * white
            assert np.median(change[far]) == 0


def _grown(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_dilation

    return binary_dilation(mask, np.ones((1, 3, 3)), iterations=3)


def test_kinds_and_ranges_are_balanced(abnormal):
    pairs = Counter((s.lesion.kind, s.lesion.within_tissue_range) for s in abnormal)
    assert len(pairs) == 10
    assert set(pairs.values()) == {1}


def test_half_of_the_lesions_stay_within_the_subjects_own_range(abnormal):
    for subject in abnormal:
        low, high = np.percentile(subject.healthy[subject.healthy > 0], (2, 98))
        values = subject.pixels[subject.mask]
        within = (values >= low) & (values <= high)
        if subject.lesion.within_tissue_range:
            assert within.all()
        else:
            assert (~within).mean() > 0.2


def test_lesions_have_clinical_sizes(abnormal):
    for subject in abnormal:
        if subject.lesion.kind != "spots":
            assert 15 <= subject.lesion.diameter_mm <= 45


def test_which_subjects_are_abnormal_is_drawn_by_lot():
    where = [
        [
            s.lesion is not None
            for s in simulate_subjects(6, seed=seed, abnormal=3, slices=1, size=16)
        ]
        for seed in range(3)
    ]
    assert all(sum(each) == 3 for each in where)
    assert len({tuple(each) for each in where}) > 1


def test_brains_look_like_brains(normal):
    for subject in normal:
        brain = subject.pixels > 0
        assert 0.15 < brain[1].mean() < 0.6
        assert not brain[:, 0].any()  # the whole head is in the picture
        assert not brain[:, :, 0].any()
        levels = subject.pixels[brain]
        assert np.percentile(levels, 90) > 1.3 * np.percentile(levels, 5)


def test_the_folder_is_read_back_by_the_ordinary_reader(tmp_path):
    seen: list[tuple[int, int]] = []
    sizes = {"train": 2, "validation": 1, "test": 4}
    simulate_brain(tmp_path, seed=5, progress=lambda *at: seen.append(at), **sizes, **SMALL)
    dataset = load_dataset(tmp_path)
    counts = Counter(f"{case.split}/{case.label}" for case in dataset.cases)
    assert counts == {
        "train/normal": 2,
        "validation/normal": 1,
        "test/normal": 2,
        "test/abnormal": 2,
    }
    assert len({case.patient for case in dataset.cases}) == 7
    assert all(case.patient.startswith("sub-sim-") for case in dataset.cases)
    drawn = {
        s.name: s for s in simulate_subjects(4, seed=5, split="test", abnormal=2, first=3, **SMALL)
    }
    for case in dataset.select("test"):
        image, subject = read(case.files), drawn[case.patient]
        np.testing.assert_array_equal(image.pixels, subject.pixels)
        assert image.spacing_mm == pytest.approx(subject.spacing_mm)
        if case.mask is not None:
            np.testing.assert_array_equal(read_mask(case.mask, image), subject.mask)
    assert seen[-1] == (7, 7)
    assert "simulated" in json.loads((tmp_path / "simulation.json").read_text())["about"]
    with (tmp_path / "lesions.csv").open() as table:
        assert [row["kind"] for row in csv.DictReader(table)]


def test_a_missing_template_says_what_to_install(monkeypatch):
    anatomy.load_anatomy.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "medad-fast\[demo\]"'):
        next(simulate_subjects(1))


@pytest.mark.parametrize("wrong", [{"abnormal": 2}, {"slices": 0}, {"size": 8}])
def test_impossible_counts_are_refused(wrong):
    with pytest.raises(InputError, match="a simulation needs"):
        next(simulate_subjects(1, **wrong))
