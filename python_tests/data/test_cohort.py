"""What a fit knows of the images that it sees, slice by slice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medad_fast.data import Case, Dataset, read
from medad_fast.data.cohort import Cohort, FitData
from medad_fast.data.formats.nifti import write_nifti
from medad_fast.data.pipeline import Pipeline
from medad_fast.data.preprocess import PreprocessConfig
from medad_fast.errors import InputError
from python_tests.data.files import write_png


def pipeline() -> Pipeline:
    return Pipeline(PreprocessConfig(image_size=16))


def volumes(folder: Path) -> list[Case]:
    cases = []
    for k in range(3):
        voxels = np.zeros((8, 8, 3), np.float32)
        voxels[..., : k + 1] = 1 + np.random.default_rng(k).random((8, 8, k + 1))
        path = folder / f"{k}.nii.gz"
        write_nifti(path, voxels, np.eye(4))
        cases.append(Case((path,), path.name, "normal", "train", f"p{k // 2}"))
    return cases


def test_loading_keeps_track_of_cases_and_places(tmp_path):
    loaded = Cohort.load(volumes(tmp_path), pipeline())
    assert loaded.case.tolist() == [0, 1, 1, 2, 2, 2]
    assert loaded.index.tolist() == [0, 0, 1, 0, 1, 2]
    assert loaded.images.shape == (6, 1, 16, 16)
    assert loaded.skipped == 3
    alone = pipeline()(read(tmp_path / "1.nii.gz")).images
    assert torch.equal(loaded.images[1:3], alone)


def test_loading_nothing_but_background_is_refused(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", np.zeros((8, 8, 3), np.float32), np.eye(4))
    case = Case((tmp_path / "a.nii.gz",), "a", "normal", "train", "a")
    with pytest.raises(InputError, match="3 were skipped"):
        Cohort.load([case], pipeline())


def test_each_slice_knows_its_file_and_patient(tmp_path):
    pixels = np.random.default_rng(9).integers(0, 256, (8, 8), np.uint8)
    alone = write_png(tmp_path / "a.png", pixels)
    cases = [*volumes(tmp_path), Case((alone,), "a.png", "normal", "train", "p0")]
    loaded = Cohort.load(cases, pipeline())
    assert [case.name for case in loaded.of_slices] == [
        cases[k].name for k in (0, 1, 1, 2, 2, 2, 3)
    ]
    assert loaded.patients() == [0, 0, 0, 1, 1, 1, 0]
    sizes = loaded.file_sizes()
    assert sizes.isnan().tolist() == [False, True, True, True, True, True, False]
    assert sizes[6] == alone.stat().st_size
    parts = list(loaded.batches(3))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert torch.equal(torch.cat(parts), loaded.images)


def test_no_cases_are_an_empty_cohort():
    empty = Cohort.load((), pipeline())
    assert not empty
    assert empty.images.shape == (0, 1, 16, 16)
    assert list(empty.batches(4)) == empty.of_slices == empty.patients() == []


def test_a_fit_tells_its_cohorts_apart(tmp_path):
    train = volumes(tmp_path)
    path = tmp_path / "v.nii.gz"
    write_nifti(path, np.random.default_rng(7).random((8, 8, 1)).astype(np.float32), np.eye(4))
    validation = Case((path,), "v.nii.gz", "normal", "validation", "v")
    dataset = Dataset(tmp_path, (*train, validation))
    seen = FitData.load(dataset, pipeline(), ())
    assert seen.counts() == {
        "train_images": 6,
        "train_skipped": 3,
        "tuning_images": 0,
        "tuning_skipped": 0,
        "validation_images": 1,
        "validation_skipped": 0,
        "unlabeled_images": 0,
    }
    assert list(seen.splits) == ["train", "validation"]
    assert [len(case["pixels"]) for case in seen.splits["train"]] == [1, 2, 3]
    same = replace(validation, name="u.nii.gz", label="unlabeled", split="train")
    reason = r"v\.nii\.gz \(validation\) has the same pixels as u\.nii\.gz \(train\)"
    with pytest.raises(InputError, match=reason):
        FitData.load(replace(dataset, cases=(*dataset.cases, same)), pipeline(), [same])
    with pytest.raises(InputError, match="1 usable normal train slices, at least 2"):
        FitData.load(replace(dataset, cases=(train[0], validation)), pipeline(), ())
