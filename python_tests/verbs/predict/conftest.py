"""A run, and what it scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medad_fast.artifacts.run import Run
from medad_fast.data.formats.nifti import write_nifti
from python_tests.verbs.predict.brightness import AFFINE, SLICES, Brightness, anatomy, make_run


@pytest.fixture
def run() -> Run:
    return make_run(Brightness())


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three test subjects: two normal, one with a lesion in slice 1 and its mask."""
    root = tmp_path / "dataset"
    for number in range(2):
        write_nifti(root / f"train/normal/sub-t{number}.nii.gz", anatomy(number), AFFINE)
        write_nifti(root / f"test/normal/sub-SECRET{number}.nii.gz", anatomy(10 + number), AFFINE)
    spot = (6, 15, 1)
    write_nifti(root / "test/abnormal/sub-SECRET9.nii.gz", anatomy(20, spot), AFFINE)
    mask = np.zeros((20, 24, SLICES), dtype=np.uint8)
    mask[spot] = 1
    write_nifti(root / "test/masks/sub-SECRET9.nii.gz", mask, AFFINE)
    return root


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    from PIL import Image

    root = tmp_path / "pictures"
    root.mkdir()
    for number in range(3):
        pixels = anatomy(number)[:, :, 0].clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"picture {number}.png")
    return root
