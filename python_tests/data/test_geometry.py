"""Slices are shown alike whatever order the file stores them in."""

from __future__ import annotations

from itertools import permutations, product

import nibabel
import numpy as np
import pytest

from medad_fast.data import read
from medad_fast.data.formats.nifti import write_nifti
from medad_fast.data.geometry import affine_as_stored, geometry_of, geometry_of_codes
from medad_fast.errors import InputError

ALL_ORDERS = [
    "".join(pair[i] for pair, i in zip(order, signs, strict=True))
    for order in permutations(("LR", "PA", "IS"))
    for signs in product((0, 1), repeat=3)
]


def _volume_that_knows_its_place(codes: str) -> tuple[np.ndarray, np.ndarray]:
    """Voxels that hold ``100 x + 10 y + z`` of their RAS+ millimetres, stored in this order."""
    x, y, z = np.meshgrid(np.arange(4), np.arange(3), np.arange(2), indexing="ij")
    plain = nibabel.Nifti1Image((100 * x + 10 * y + z).astype(np.float32), np.eye(4))
    wanted = nibabel.orientations.axcodes2ornt(tuple(codes))
    turned = plain.as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.orientations.io_orientation(np.eye(4)), wanted)
    )
    return np.asarray(turned.dataobj), turned.affine


def test_there_are_48_orders():
    assert len(set(ALL_ORDERS)) == 48


@pytest.mark.parametrize("codes", ALL_ORDERS)
def test_rows_run_anterior_to_posterior_and_columns_right_to_left(codes, tmp_path):
    stored, affine = _volume_that_knows_its_place(codes)
    write_nifti(tmp_path / "a.nii.gz", stored, affine)
    image = read(tmp_path / "a.nii.gz")
    s, h, w = np.meshgrid(np.arange(2), np.arange(3), np.arange(4), indexing="ij")
    np.testing.assert_array_equal(image.pixels, 100 * (3 - w) + 10 * (2 - h) + s)
    np.testing.assert_array_equal(image.geometry.to_source(image.pixels), stored)


@pytest.mark.parametrize("codes", ALL_ORDERS)
def test_other_planes_are_shown_by_their_convention(codes):
    stored, affine = _volume_that_knows_its_place(codes)
    coronal = geometry_of(affine, "coronal").to_slices(stored)  # (y, z down, x to the left)
    assert coronal[0, 0, 0] == 301  # posterior, superior, right
    assert coronal[2, 1, 3] == 20  # anterior, inferior, left
    sagittal = geometry_of(affine, "sagittal").to_slices(stored)  # (x, z down, y to the back)
    assert sagittal[0, 0, 0] == 21  # left, superior, anterior
    assert sagittal[3, 1, 2] == 300  # right, inferior, posterior


@pytest.mark.parametrize("codes", ALL_ORDERS)
def test_codes_and_affine_give_one_geometry(codes):
    _, affine = _volume_that_knows_its_place(codes)
    by_codes, by_affine = geometry_of_codes(codes), geometry_of(affine)
    assert (by_codes.axes, by_codes.flips) == (by_affine.axes, by_affine.flips)
    again = affine_as_stored(by_codes, (2, 3, 4), (1.0, 1.0, 1.0), (3.0, 2.0, 0.0))
    np.testing.assert_allclose(again, affine)


def test_an_oblique_volume_is_shown_along_its_nearest_axes():
    angle = np.radians(30)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert geometry_of(turn).axes == geometry_of(np.eye(4)).axes


@pytest.mark.parametrize("bad", [np.full((4, 4), np.nan), np.zeros((4, 4)), np.ones((4, 4))])
def test_refuses_an_affine_without_a_volume(bad):
    with pytest.raises(InputError, match="affine"):
        geometry_of(bad)
