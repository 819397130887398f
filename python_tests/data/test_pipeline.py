"""From stored grey levels to [-1, 1] squares, and from maps back to the source's grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medad_fast.data import Case, Image, Provenance, image_of_array
from medad_fast.data.formats.nifti import write_nifti
from medad_fast.data.geometry import geometry_of, slice_spacing_mm
from medad_fast.data.pipeline import Pipeline, resolve_modality
from medad_fast.data.preprocess import PreprocessConfig
from medad_fast.errors import InputError


def _picture(pixels: np.ndarray, modality: str = "OT") -> Image:
    provenance = Provenance(Path("a.png"), "picture", 8)
    return Image(pixels[None], modality, None, None, provenance)


def _volume(voxels: np.ndarray, affine: np.ndarray | None = None) -> Image:
    geometry = geometry_of(np.eye(4) if affine is None else affine)
    slices = geometry.to_slices(voxels)
    provenance = Provenance(Path("a.nii"), "nifti", 32)
    return Image(slices, "MR", slice_spacing_mm(geometry), geometry, provenance)


def _pipeline(**settings: object) -> Pipeline:
    return Pipeline(PreprocessConfig.from_dict({"image_size": 16, **settings}))


def test_percentiles_of_the_foreground_become_the_ends_of_the_range():
    pixels = np.zeros((16, 16), np.float32)
    pixels[4:12, 4:12] = np.arange(100, 164).reshape(8, 8)
    low, high = np.percentile(np.arange(100, 164), (0.5, 99.5))
    expected = ((pixels - low) / (high - low) * 2 - 1).clip(-1, 1)
    slices = _pipeline()(_picture(pixels))
    np.testing.assert_allclose(slices.images[0, 0].numpy(), expected, atol=1e-6)
    assert slices.images.dtype == torch.float32


def test_a_volume_has_one_window_for_all_its_slices():
    voxels = np.zeros((16, 16, 2), np.float32)
    voxels[2:14, 2:14, 0], voxels[2:14, 2:14, 1] = 10, 20
    images = _pipeline()(_volume(voxels)).images
    assert images[0, 0, 8, 8] == -1  # the lower percentile
    assert images[1, 0, 8, 8] == 1


def test_ct_keeps_hounsfield_units():
    hu = np.array([[-1024.0, -1000.0], [0.0, 3000.0]]).repeat(8, 0).repeat(8, 1)
    images = _pipeline()(_picture(hu.astype(np.float32), "CT")).images
    assert images[0, 0, ::8, ::8].tolist() == [[-1, -1], [0, 1]]


@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
def test_a_constant_image_is_background(value):
    assert (_pipeline()(_picture(np.full((16, 16), value, np.float32))).images == -1).all()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 65535.0])
def test_the_scale_of_the_stored_values_does_not_matter(scale):
    pixels = np.random.default_rng(0).random((16, 16))
    plain = _pipeline()(_picture(pixels.astype(np.float32))).images
    scaled = _pipeline()(_picture((scale * pixels).astype(np.float32))).images
    torch.testing.assert_close(scaled, plain, atol=2e-5, rtol=0)


def test_slices_with_little_foreground_are_skipped_and_counted():
    voxels = np.zeros((20, 20, 4), np.float32)
    for z, count in enumerate((0, 19, 20, 400)):  # 5 % of 400 is 20
        voxels[:, :, z].flat[:count] = 1 + np.arange(count)
    slices = _pipeline()(_volume(voxels))
    assert slices.index.tolist() == [2, 3]
    assert slices.skipped == 2
    maps = _pipeline().restore(torch.ones(2, 1, 16, 16), _volume(voxels), slices.index)
    assert maps.reshape(4, -1).max(1).tolist() == [0, 0, 1, 1]


def test_a_picture_is_never_skipped():
    pixels = np.zeros((16, 16), np.float32)
    assert len(_pipeline()(_picture(pixels)).index) == 1


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("codes", ["RAS", "LPI", "SRP", "AIL"])
def test_restoring_undoes_slicing_resizing_and_padding(axis, codes):
    """A linear ramp survives both resizings away from the border, wherever it is stored."""
    x, y, z = np.meshgrid(np.arange(24), np.arange(32), np.arange(20), indexing="ij")
    ramp = (1 + 3 * x + 2 * y + z).astype(np.float32)
    turned = nibabel.Nifti1Image(ramp, np.diag([2, 1, 3, 1])).as_reoriented(
        nibabel.orientations.axcodes2ornt(tuple(codes))
    )
    image = _volume(np.asarray(turned.dataobj), turned.affine)
    pipeline = _pipeline(axis=axis, image_size=128, percentiles=[0, 100], min_foreground=0)
    slices = pipeline(image)
    restored = pipeline.restore(slices.images, image, slices.index)
    assert restored.shape == image.pixels.shape
    wanted = (image.pixels - ramp.min()) / (ramp.max() - ramp.min()) * 2 - 1
    # The darkest voxel is background, so the window starts one grey level above it.
    inside = np.s_[2:-2, 2:-2, 2:-2]
    np.testing.assert_allclose(restored[inside], wanted[inside], atol=0.03)


def test_the_proportions_in_millimetres_are_kept():
    voxels = np.random.default_rng(0).random((10, 20, 2)).astype(np.float32) + 1
    image = _volume(voxels, np.diag([4.0, 1.0, 5.0, 1.0]))  # 40 mm wide, 20 mm high
    images = _pipeline(image_size=32)(image).images
    covered = (images[0, 0] > -1).numpy()
    rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (8, 23, 0, 31)


def test_shrinking_averages_instead_of_dropping_pixels():
    # A plain bilinear fourth would look at the two middle pixels of each four only.
    stripes = np.tile(np.array([3, 1, 1, 3], np.float32), (64, 16))
    images = _pipeline(percentiles=[0, 100])(_picture(stripes)).images
    inner = images[0, 0, 2:-2, 2:-2]
    assert inner.abs().max() < 0.3  # neither -1 nor 1: the mean of both


def test_colour_is_kept_or_becomes_luminance_with_a_warning():
    pixels = np.random.default_rng(0).integers(1, 255, (16, 16, 3)).astype(np.uint8)
    image = _picture(pixels)
    colour = _pipeline(channels=3, percentiles=[0, 100])(image).images
    assert colour.shape == (1, 3, 16, 16)
    with pytest.warns(UserWarning, match="only its luminance"):
        grey = _pipeline(percentiles=[0, 100])(image).images
    luminance = pixels @ np.array([0.299, 0.587, 0.114])
    correlation = np.corrcoef(grey.numpy().ravel(), luminance.ravel())[0, 1]
    assert correlation > 0.999


def test_grey_is_repeated_and_grey_saved_as_colour_does_not_warn():
    grey = np.random.default_rng(0).integers(0, 255, (16, 16)).astype(np.uint8)
    three = _pipeline(channels=3)(_picture(grey)).images
    assert torch.equal(three[:, 0], three[:, 2])
    one = _pipeline()(_picture(grey[..., None].repeat(3, -1))).images
    assert torch.equal(one[:, 0], three[:, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_pixels_are_refused_or_made_zero(bad):
    pixels = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    pixels[3, 4] = bad
    with pytest.raises(InputError, match=r"a\.png: has 1 pixels that are NaN or infinite"):
        _pipeline()(_picture(pixels))
    with pytest.warns(UserWarning, match="made 0"):
        images = _pipeline(nonfinite="zero")(_picture(pixels)).images
    assert images.isfinite().all()
    assert images[0, 0, 3, 4] == -1


def test_a_file_of_another_modality_warns():
    pixels = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    with pytest.warns(UserWarning, match="is CT, but is treated as MR"):
        _pipeline(modality="MR")(_picture(pixels, "CT"))
    _pipeline(modality="CR")(_picture(pixels, "DX"))
    _pipeline(modality="MR")(_picture(pixels, "OT"))


def test_a_nifti_that_looks_like_ct_warns():
    voxels = np.full((16, 16, 2), -1000, np.float32)
    voxels[4:12] = 40
    image = replace(_volume(voxels), modality="OT")
    with pytest.warns(UserWarning, match="looks like CT"):
        _pipeline()(image)


def test_the_input_image_is_not_changed():
    pixels = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    pixels[0, 0] = np.nan
    before = pixels.copy()
    with pytest.warns(UserWarning, match="made 0"):
        _pipeline(nonfinite="zero")(_picture(pixels))
    np.testing.assert_array_equal(pixels, before)


def test_an_array_goes_through_the_same_steps():
    pixels = np.random.default_rng(0).random((3, 20, 20)).astype(np.float32)
    assert _pipeline()(image_of_array(pixels)).images.shape == (3, 1, 16, 16)


def test_the_modality_of_a_run_is_that_of_its_files(tmp_path):
    write_nifti(tmp_path / "a.nii", np.ones((8, 8, 3), np.float32), np.eye(4))
    untold = Case((tmp_path / "a.nii",), "a.nii", "normal", "train", "a")
    assert resolve_modality(PreprocessConfig(), [untold]).modality == "auto"
    from python_tests.data.files import write_dicom

    path = write_dicom(tmp_path / "a.dcm", np.zeros((4, 4), np.uint8), Modality="DX")
    case = Case((path,), "a", "normal", "train", "a")
    assert resolve_modality(PreprocessConfig(), [case]).modality == "DX"
    assert resolve_modality(PreprocessConfig(modality="CT"), [case]).modality == "CT"


def test_maps_of_another_shape_are_refused():
    image = _picture(np.ones((16, 16), np.float32))
    with pytest.raises(InputError, match="maps must have the shape"):
        _pipeline().restore(torch.zeros(2, 1, 16, 16), image, torch.tensor([0]))
