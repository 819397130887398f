"""What goes out lies on the grid of what came in."""

from __future__ import annotations

import os

import nibabel
import numpy as np
import pytest

from medad_fast.artifacts.grids import write_on_grid
from medad_fast.data import image_of_array, read, read_mask
from medad_fast.data.formats.nifti import read_nifti, write_nifti
from medad_fast.errors import InputError, MedadError
from python_tests.data.files import write_dicom, write_png, write_series

OBLIQUE = nibabel.affines.from_matvec(
    [[0.1, -2.0, 0.0], [1.5, 0.1, 0.2], [0.0, 0.1, -3.0]], [10, 20, 30]
)


def test_a_map_lies_on_the_voxels_of_its_volume(tmp_path):
    voxels = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    write_nifti(tmp_path / "a.nii.gz", voxels, OBLIQUE)
    image = read(tmp_path / "a.nii.gz")
    written = write_on_grid(tmp_path / "maps" / "a.nii.gz", image.pixels, image)
    again, affine = read_nifti(written)
    np.testing.assert_array_equal(again, voxels)
    np.testing.assert_allclose(affine, OBLIQUE, atol=1e-5)
    assert nibabel.load(written).get_data_dtype() == np.float32


def test_a_map_of_a_dicom_series_lies_in_the_patient(tmp_path):
    volume = np.random.default_rng(0).integers(0, 99, (3, 4, 5), np.int16)
    image = read(write_series(tmp_path, volume))
    written = write_on_grid(tmp_path / "map", image.pixels.astype(np.float32), image)
    assert written.name == "map.nii.gz"
    again, affine = read_nifti(written)
    # Column 2, row 1, slice 1 is at 2 mm to the left, 2 mm to the back, 3 mm up.
    np.testing.assert_allclose(affine @ [2, 1, 1, 1], [-2, -2, 3, 1])
    assert again[2, 1, 1] == volume[1, 1, 2]


def test_a_map_of_a_picture_is_an_array(tmp_path):
    image = read(write_png(tmp_path / "a.png", np.zeros((4, 5), np.uint8)))
    maps = np.random.default_rng(0).random((1, 4, 5)).astype(np.float32)
    written = write_on_grid(tmp_path / "a.png", maps, image)
    assert written.name == "a.png.npy"
    np.testing.assert_array_equal(np.load(written), maps[0])
    with pytest.raises(InputError, match="shape"):
        write_on_grid(tmp_path / "a.png", maps[:, :2], image)


def test_a_mask_in_another_storage_order_marks_the_same_voxels(tmp_path):
    voxels = np.zeros((4, 5, 6), np.float32)
    voxels[1, 2, 3] = 1
    write_nifti(tmp_path / "image.nii.gz", voxels, np.eye(4))
    turned = nibabel.Nifti1Image(voxels, np.eye(4)).as_reoriented([[2, -1], [0, 1], [1, -1]])
    write_nifti(tmp_path / "mask.nii.gz", np.asarray(turned.dataobj), turned.affine)
    image = read(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii.gz", image), image.pixels > 0)


def test_masks_mark_whatever_is_not_zero(tmp_path):
    image = read(write_png(tmp_path / "a.png", np.zeros((2, 2), np.uint8)))
    colour = np.zeros((2, 2, 3), np.uint8)
    colour[0, 1, 2] = 1
    mask = read_mask(write_png(tmp_path / "m.png", colour), image)
    np.testing.assert_array_equal(mask, [[[False, True], [False, False]]])


def test_a_mask_on_another_grid_is_refused(tmp_path):
    voxels = np.zeros((4, 5, 6), np.float32)
    write_nifti(tmp_path / "image.nii.gz", voxels, np.eye(4))
    image = read(tmp_path / "image.nii.gz")
    write_nifti(tmp_path / "small.nii.gz", voxels[1:], np.eye(4))
    with pytest.raises(InputError, match=r"small\.nii\.gz: has 6 x 5 x 3 pixels"):
        read_mask(tmp_path / "small.nii.gz", image)
    moved = np.eye(4)
    moved[0, 3] = 5
    write_nifti(tmp_path / "moved.nii.gz", voxels, moved)
    with pytest.raises(InputError, match=r"moved\.nii\.gz: lies 5\.00 mm away"):
        read_mask(tmp_path / "moved.nii.gz", image)


def test_the_content_tells_the_kind_whatever_the_name(tmp_path):
    write_dicom(tmp_path / "a.png", np.ones((2, 2), np.uint8))
    assert read(tmp_path / "a.png").provenance.reader == "dicom"
    write_nifti(tmp_path / "a.nii.gz", np.ones((2, 2, 2), np.float32), np.eye(4))
    (tmp_path / "a.nii.gz").rename(tmp_path / "volume")
    assert read(str(tmp_path / "volume")).provenance.reader == "nifti"


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x1f\x8bnonsense", b"\x89PNG\r\n\x1a\n", b"\0" * 999]
)
@pytest.mark.parametrize("suffix", [".dcm", ".nii", ".nii.gz", ".png", ".jpg", ""])
def test_what_is_no_image_is_refused_by_name(tmp_path, content, suffix):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(MedadError, match="bad") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["folder", "pipe", "missing", "nul\0byte"])
def test_what_is_no_file_is_refused_without_hanging(tmp_path, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"regular file|cannot be opened"):
        read(tmp_path / name)


def test_an_array_becomes_an_image(tmp_path):
    assert image_of_array(np.zeros((4, 5))).pixels.shape == (1, 4, 5)
    for bad in (np.zeros(4), np.zeros((0, 4)), np.zeros((4, 4), complex)):
        with pytest.raises(InputError, match="array of pixels"):
            image_of_array(bad)


TURNS = [
    [1, 0, 0, 0, 1, 0],
    [-1, 0, 0, 0, -1, 0],  # prone
    [0, 1, 0, 1, 0, 0],
    [0, 1, 0, 0, 0, -1],  # sagittal, as of a spine
    [1, 0, 0, 0, 0, -1],  # coronal
    [0, 0, 1, 0, 1, 0],
    [0, 1, 0, 0.1, 0, -0.995],
]


def one_slice(path, pixels, cosines):
    place = {
        "ImagePositionPatient": [10.0, 20.0, 30.0],
        "ImageOrientationPatient": (
            np.array(cosines) / np.linalg.norm(np.reshape(cosines, (2, 3)), axis=1).repeat(3)
        ).tolist(),
        "PixelSpacing": [2.0, 1.0],
    }
    return write_dicom(path, pixels, **place)


@pytest.mark.parametrize("cosines", TURNS)
def test_the_map_and_the_mask_of_one_dicom_slice_are_shown_as_it_is(cosines, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 999, (4, 5), np.int16)
    image = read(one_slice(tmp_path / "a.dcm", pixels, cosines))
    assert len(image.pixels) == 1
    written = write_on_grid(tmp_path / "a.dcm", image.pixels.astype(np.float32), image)
    np.testing.assert_array_equal(read(written).pixels, image.pixels)
    marked = write_on_grid(tmp_path / "m.dcm", (image.pixels > 500).astype(np.float32), image)
    np.testing.assert_array_equal(read_mask(marked, image), image.pixels > 500)


@pytest.mark.parametrize("cosines", TURNS)
def test_a_picture_as_mask_of_one_dicom_slice_marks_the_pixels_as_they_are_stored(
    cosines, tmp_path
):
    pixels = np.random.default_rng(1).integers(0, 999, (4, 5), np.int16)
    image = read(one_slice(tmp_path / "a.dcm", pixels, cosines))
    mask = write_png(tmp_path / "a.png", (pixels > 500).astype(np.uint8) * 255)
    np.testing.assert_array_equal(read_mask(mask, image), image.pixels > 500)
