"""Every simulated set: the same each time, pairs that differ in their abnormality alone."""

from __future__ import annotations

import csv
import functools
import json
from collections import Counter

import numpy as np
import pytest

from bench.quality.sets import (
    SetPlan,
    brain_slices,
    chest,
    fundus,
    oct,
    simulate_brain_slices,
    simulate_chest,
    simulate_fundus,
    simulate_oct,
)
from bench.quality.sets.chest_lesions import KINDS as CHEST_KINDS
from bench.quality.sets.pairs import smooth_field, write_pairs
from medad_fast.data import load_dataset, read, read_mask
from medad_fast.demo.streams import streams
from medad_fast.errors import InputError
from python_tests.bench.sets.small_thorax import small_thorax

SIZE = 64


def _brain(seed, split, number, *, abnormal):
    drawn = brain_slices.draw_brain_slices(
        seed, split, number, abnormal=abnormal, slices=3, size=48
    )
    return drawn[0]


DRAW = {
    "brain": _brain,
    "chest": lambda *at, abnormal: chest.draw_chest(
        small_thorax(), *at, abnormal=abnormal, size=SIZE
    ),
    "fundus": functools.partial(fundus.draw_fundus, size=SIZE),
    "oct": functools.partial(oct.draw_oct, size=SIZE),
}
PICTURES = ["chest", "fundus", "oct"]
KINDS = {"chest": tuple(CHEST_KINDS), "fundus": tuple(fundus.KINDS), "oct": oct.KINDS}
WRITE = {
    "brain": functools.partial(simulate_brain_slices, slices=3),
    "chest": functools.partial(simulate_chest, thorax=small_thorax()),
    "fundus": simulate_fundus,
    "oct": simulate_oct,
}
COUNTS = {"train": 3, "validation": 2, "test": 3, "unlabeled": 5}


@pytest.fixture(scope="module")
def drawn():
    """Two of each kind, each set drawn once for all tests."""
    return {
        name: [DRAW[name](3, "test", i, abnormal=True) for i in range(2 * len(KINDS[name]))]
        for name in PICTURES
    }


@pytest.mark.parametrize("name", DRAW)
def test_one_seed_gives_one_subject_and_another_seed_or_split_another(name):
    first, again, other, split = (
        DRAW[name](seed, split, 1, abnormal=True)
        for seed, split in ((3, "test"), (3, "test"), (4, "test"), (3, "unlabeled"))
    )
    np.testing.assert_array_equal(first.abnormal, again.abnormal)
    np.testing.assert_array_equal(first.mask, again.mask)
    assert (other.normal != first.normal).any()
    assert (split.normal != first.normal).any()


@pytest.mark.parametrize("name", PICTURES)
def test_a_subject_is_the_same_with_and_without_its_abnormality(name, drawn):
    well = DRAW[name](3, "test", 0, abnormal=False)
    np.testing.assert_array_equal(well.normal, drawn[name][0].normal)
    assert well.abnormal is well.normal
    assert not well.mask.any()


@pytest.mark.parametrize("name", PICTURES)
def test_the_mask_is_where_the_picture_changed(name, drawn):
    from scipy.ndimage import binary_dilation

    for pair in drawn[name]:
        change = abs(pair.abnormal.astype(float) - pair.normal)
        change = change if change.ndim == 2 else change.mean(axis=2)
        far = ~binary_dilation(pair.mask, np.ones((3, 3)), iterations=3)
        assert change[pair.mask].mean() > 3 * change[far].mean()
        # Layers of the retina move with what lies beneath them; nothing else does.
        if name != "oct":
            assert np.median(change[far]) <= 0.01 * pair.normal.max()


@pytest.mark.parametrize("name", PICTURES)
def test_kinds_take_turns(name, drawn):
    assert [pair.kind for pair in drawn[name]] == 2 * list(KINDS[name])
    assert all(pair.detail for pair in drawn[name])


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_no_two_alike_and_use_their_range(name, drawn):
    pictures = [pair.normal for pair in drawn[name]]
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    for picture in pictures:
        top = 4095 if picture.dtype == np.uint16 else 255
        assert picture.min() >= 0
        assert 0.4 * top < np.percentile(picture, 99) <= top
        assert picture.std() > 0.03 * top


@pytest.mark.parametrize("name", WRITE)
def test_the_folder_is_read_back_by_the_ordinary_reader(name, tmp_path):
    seen: list[tuple[int, int]] = []
    plan = SetPlan(seed=5, size=48 if name == "brain" else SIZE, **COUNTS)
    WRITE[name](tmp_path, plan, progress=lambda *at: seen.append(at))
    dataset = load_dataset(tmp_path)
    counts = Counter(f"{case.split}/{case.label}" for case in dataset.cases)
    patients = {split: {c.patient for c in dataset.cases if c.split == split} for split in COUNTS}
    assert counts["test/normal"] == counts["test/abnormal"] >= COUNTS["test"]
    assert len(patients["test"]) == COUNTS["test"]
    assert len(patients["train"]) == COUNTS["train"] + COUNTS["unlabeled"]
    assert all(patient.startswith("sub-") for patient in patients["test"])
    assert seen[-1] == (13, 13)
    sizes = {case.files[0].stat().st_size for case in dataset.cases}
    assert len(sizes) == 1  # no file's size may tell what it shows
    for case in dataset.select("test", "abnormal"):
        image = read(case.files)
        twin = read((tmp_path / "test" / "normal" / case.files[0].name,))
        mask = read_mask(case.mask, image)
        assert mask.any()
        assert (image.pixels[mask] != twin.pixels[mask]).any()
    facts = json.loads((tmp_path / "simulation.json").read_text())
    assert "imulated" in facts["about"]
    assert facts["seed"] == 5
    with (tmp_path / "lesions.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert {row["file"] for row in rows if row["file"].startswith("test/")} == {
        f"test/abnormal/{case.files[0].name}" for case in dataset.select("test", "abnormal")
    }


def test_a_larger_share_of_abnormal_unlabeled_pictures_keeps_those_of_a_smaller(tmp_path):
    pools = []
    for share in (0.0, 0.4, 1.0):
        plan = SetPlan(
            seed=2, train=0, validation=0, test=0, unlabeled=5, size=SIZE, unlabeled_abnormal=share
        )
        simulate_oct(tmp_path / str(share), plan)
        with (tmp_path / str(share) / "lesions.csv").open() as table:
            pools.append({row["file"] for row in csv.DictReader(table)})
    assert [len(pool) for pool in pools] == [0, 2, 5]
    assert pools[1] < pools[2]
    for name in pools[2] - pools[1]:
        one, other = (tmp_path / share / name for share in ("0.0", "0.4"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("wrong", [{"test": -1}, {"unlabeled_abnormal": 1.1}, {"size": 16}])
def test_impossible_sets_are_refused(wrong):
    with pytest.raises(InputError, match="got"):
        SetPlan(**wrong)


def test_a_full_disk_is_an_error_of_the_device(tmp_path):
    from medad_fast.errors import DeviceError

    (tmp_path / "train").write_text("in the way")
    with pytest.raises(DeviceError, match="could not write"):
        simulate_oct(tmp_path, SetPlan(train=1, validation=0, test=0, unlabeled=0, size=SIZE))


def test_brain_slices_show_most_of_the_lesion():
    for number in range(4):
        pairs = brain_slices.draw_brain_slices(7, "test", number, abnormal=True, slices=4, size=48)
        assert 1 <= len(pairs) <= 2
        assert len({pair.name.rpartition("_")[0] for pair in pairs}) == 1
        for pair in pairs:
            np.testing.assert_array_equal(pair.normal > 0, pair.abnormal > 0)
            assert pair.mask.any()
    assert len(brain_slices.draw_brain_slices(7, "train", 0, abnormal=False, slices=4)) == 4


def test_smooth_fields_are_smooth_and_of_unit_spread():
    for sigma in (2.0, 20.0):
        field = smooth_field(np.random.default_rng(0), (96, 80), sigma)
        assert field.shape == (96, 80)
        assert field.mean() == pytest.approx(0, abs=1e-4)
        assert field.std() == pytest.approx(1, abs=1e-4)
        assert abs(np.diff(field, axis=0)).mean() < 1.2 / sigma


def test_streams_of_a_subject_and_of_its_abnormality_are_apart():
    numbers = [rng.random() for at in ("train", "test") for rng in streams(1, at, 0)]
    assert len(set(numbers)) == 4


def test_nothing_is_written_about_an_empty_set(tmp_path):
    none = SetPlan(train=0, validation=0, test=0, unlabeled=0)
    write_pairs(tmp_path, lambda *_: [], none, about="simulated")
    assert {path.name for path in tmp_path.iterdir()} == {"lesions.csv", "simulation.json"}
