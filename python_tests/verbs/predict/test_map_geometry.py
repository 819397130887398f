"""A written map overlays its source voxel for voxel, however the source is stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medad_fast import predict
from medad_fast.artifacts.run import Run
from medad_fast.data.pipeline import Pipeline
from python_tests.dicom_out.sources import TURNED, series
from python_tests.verbs.predict.brightness import anatomy

SPOT = (6, 15, 1)
TURN = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
TILT = np.array([[1.0, 0.0, 0.0], [0.0, 0.96, -0.28], [0.0, 0.28, 0.96]])
SHEAR = np.array([[1.0, 0.3, 0.0], [0.0, 1.0, 0.2], [0.0, 0.0, 1.0]])
SWAP = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
MATRICES = {
    "plain": np.eye(3),
    "turned": TURN @ TILT,
    "flipped": np.diag([-1.0, 1.0, -1.0]),
    "swapped": SWAP,
    "sheared": SHEAR,
}


def source(path: Path, matrix: np.ndarray, kind: str) -> np.ndarray:
    """A volume with one bright voxel at :data:`SPOT`; returns its affine as a reader gives it."""
    affine = np.eye(4)
    affine[:3, :3] = matrix @ np.diag([2.0, 2.5, 5.0])
    affine[:3, 3] = (11.5, -7.25, 30.0)
    volume = anatomy(3, SPOT)
    if kind == "4d":
        volume = np.stack([anatomy(1), volume], axis=-1)
    image = nibabel.Nifti1Image(volume, affine)
    image.header.set_xyzt_units("mm")
    if kind == "qform":
        image.set_qform(affine, code=1)
        image.set_sform(None, code=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    stored: np.ndarray = nibabel.load(path).affine
    return stored


@pytest.mark.parametrize("kind", ["sform", "qform", "4d"])
@pytest.mark.parametrize("name", MATRICES)
def test_a_nifti_map_has_the_affine_of_its_source(
    run: Run, tmp_path: Path, name: str, kind: str
) -> None:
    if (name, kind) == ("sheared", "qform"):
        pytest.skip("a qform cannot hold a shear")
    affine = source(tmp_path / "in/a.nii.gz", MATRICES[name], kind)
    if kind == "4d":
        run = replace(run, pipeline=Pipeline(replace(run.pipeline.config, volume=1)))
    predict(run, tmp_path / "in", tmp_path / "out")
    written = nibabel.load(tmp_path / "out/maps/a.nii.gz")
    # NIfTI holds its matrix in single precision; a quaternion loses a little more.
    np.testing.assert_allclose(written.affine, affine, rtol=0, atol=1e-5)
    values = np.asanyarray(written.dataobj)
    assert values.shape == (20, 24, 4)
    assert np.unravel_index(values.argmax(), values.shape) == SPOT


@pytest.mark.parametrize(
    "cosines",
    [
        [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        [-1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        [1.0, 0.0, 0.0, 0.0, 0.0, -1.0],
        [0.0, 1.0, 0.0, 0.0, 0.0, -1.0],
        TURNED,
    ],
)
def test_the_nifti_map_of_a_series_lies_where_simpleitk_says_that_the_series_lies(
    run: Run, tmp_path: Path, cosines: list[float]
) -> None:
    series(tmp_path / "in", cosines, Modality="CT")
    predict(run, tmp_path / "in", tmp_path / "out")
    (path,) = (tmp_path / "out/maps").rglob("*.nii.gz")
    written = sitk.ReadImage(str(path))  # which turns RAS into LPS
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "in"))
    wanted = sitk.ReadImage(files)
    assert written.GetSize() == wanted.GetSize()
    for place in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(
            getattr(written, place)(), getattr(wanted, place)(), atol=1e-4, err_msg=place
        )
    # The method takes bright pixels for anomalies: the map is the picture, up to resizing.
    shown, mapped = (sitk.GetArrayFromImage(each).astype(float) for each in (wanted, written))
    inside = shown > 0
    assert mapped[inside].mean() > 2 * mapped[~inside].mean()
    mirrored = inside[:, ::-1, ::-1]
    assert mapped[inside].mean() > 1.2 * mapped[mirrored].mean()
