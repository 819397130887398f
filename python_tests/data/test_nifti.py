"""NIfTI: values, limits, and every odd file with its documented outcome."""

from __future__ import annotations

import gzip
import time
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medad_fast.data import read
from medad_fast.data.formats.nifti import read_nifti
from medad_fast.errors import InputError, LimitError

PLAIN_AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])


def _save(path: Path, voxels: np.ndarray, kind: Any = nibabel.Nifti1Image, **header: Any) -> Path:
    image = kind(voxels, PLAIN_AFFINE)
    nibabel.save(image, path)
    if header:
        _patch(path, kind.header_class, **header)
    return path


def _patch(path: Path, header_class: Any, **fields: Any) -> None:
    """Overwrite header fields in place, as damaged or odd software would leave them."""
    zipped = path.suffix == ".gz"
    data = bytearray(gzip.decompress(path.read_bytes()) if zipped else path.read_bytes())
    size = header_class.sizeof_hdr
    header = header_class(bytes(data[:size]), check=False)
    for name, value in fields.items():
        header[name] = value
    data[:size] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(data)) if zipped else bytes(data))


def _counting(dtype: Any, shape: tuple[int, ...] = (3, 4, 5)) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "u2", "i4", "u4", "f4", ">f4", "f8"])
def test_values_are_those_that_nibabel_reads(tmp_path, suffix, kind, dtype):
    path = _save(tmp_path / f"a{suffix}", _counting(dtype), kind)
    voxels, affine = read_nifti(path)
    np.testing.assert_array_equal(voxels, np.asarray(nibabel.load(path).dataobj))
    np.testing.assert_allclose(affine, PLAIN_AFFINE)
    assert voxels.dtype == np.float32


def test_slope_and_intercept_are_applied_in_double_precision(tmp_path):
    path = _save(tmp_path / "a.nii", _counting("i2"), scl_slope=0.1, scl_inter=-1024.0)
    expected = (np.float64(np.float32(0.1)) * _counting("f8") - 1024).astype(np.float32)
    np.testing.assert_array_equal(read_nifti(path)[0], expected)
    assert read(path).provenance.rescaled


def test_slope_zero_means_unscaled(tmp_path):
    path = _save(tmp_path / "a.nii", _counting("i2"), scl_slope=0.0, scl_inter=5.0)
    np.testing.assert_array_equal(read_nifti(path)[0], _counting("i2"))


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000.0), ("mm", 1.0), ("micron", 0.001)])
def test_spacing_is_in_millimetres_whatever_the_unit(tmp_path, unit, factor):
    image = nibabel.Nifti1Image(_counting("u1"), PLAIN_AFFINE)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    assert read(tmp_path / "a.nii").spacing_mm == pytest.approx(
        (4 * factor, 3 * factor, 2 * factor)
    )


def test_a_fourth_axis_of_length_one_is_dropped(tmp_path):
    path = _save(tmp_path / "a.nii", _counting("u1", (3, 4, 5, 1)))
    assert read_nifti(path)[0].shape == (3, 4, 5)


def test_a_plane_is_a_volume_of_one_slice(tmp_path):
    assert read(_save(tmp_path / "a.nii", _counting("u1", (3, 4)))).pixels.shape == (1, 4, 3)


def test_a_volume_without_orientation_warns(tmp_path):
    path = _save(tmp_path / "a.nii", _counting("u1"), qform_code=0, sform_code=0)
    with pytest.warns(UserWarning, match=r"a\.nii: does not tell its orientation"):
        read(path)


def test_nan_voxels_pass_the_reader(tmp_path):
    voxels = _counting("f4")
    voxels[0, 0, 0] = np.nan
    assert np.isnan(read(_save(tmp_path / "a.nii", voxels)).pixels).sum() == 1


DIM = [3, 3, 4, 5, 1, 1, 1, 1]
ODD_HEADERS = {
    "4D": ({"dim": [4, 3, 2, 2, 5, 1, 1, 1]}, "holds 5 volumes; choose one"),
    "5D": ({"dim": [5, 3, 2, 2, 1, 5, 1, 1]}, "three or four axes"),
    "zero size": ({"dim": [3, 0, 4, 5, 1, 1, 1, 1]}, "impossible dimensions"),
    "negative size": ({"dim": [3, -3, 4, 5, 1, 1, 1, 1]}, "impossible dimensions"),
    "rank 0": ({"dim": [0, 3, 4, 5, 1, 1, 1, 1]}, "impossible dimensions"),
    "rank 9": ({"dim": [9, 3, 4, 5, 1, 1, 1, 1]}, "impossible dimensions"),
    "complex": ({"datatype": 32, "bitpix": 64}, "complex64 voxels"),
    "RGB": ({"datatype": 128, "bitpix": 24}, "RGB voxels"),
    "unknown type": ({"datatype": 999}, "voxels"),
    "slope nan": ({"scl_slope": np.nan}, "must be finite"),
    "slope inf": ({"scl_slope": np.inf}, "must be finite"),
    "intercept nan": ({"scl_slope": 1.0, "scl_inter": np.nan}, "must be finite"),
    "slope too large": ({"scl_slope": 3e38}, "too large for float32"),
    "larger than the file": ({"dim": [3, 300, 400, 5, 1, 1, 1, 1]}, "cut off"),
    "affine nan": ({"srow_x": [np.nan] * 4}, "affine"),
    "affine zero": ({"srow_x": [0.0] * 4}, "affine"),
    "voxels in the header": ({"vox_offset": 8}, "start at byte"),
    "voxels far away": ({"vox_offset": 1e12}, "start at byte"),
    "voxels nowhere": ({"vox_offset": np.nan}, "start at byte"),
    "a pair": ({"magic": b"ni1"}, "pairs"),
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("name", ODD_HEADERS)
def test_odd_headers_are_refused_by_name(tmp_path, name, suffix):
    header, reason = ODD_HEADERS[name]
    path = _save(tmp_path / f"odd{suffix}", _counting("i2"), **header)
    with pytest.raises(InputError, match=reason) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "dim", [[3, 32767, 32767, 32767, 1, 1, 1, 1], [3, 2000, 2000, 1000] + [1] * 4]
)
def test_lying_sizes_are_refused_before_anything_is_allocated(tmp_path, dim, suffix):
    path = _save(tmp_path / f"lie{suffix}", _counting("u1"), dim=dim)
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(LimitError, match="at most"):
        read(path)
    assert time.perf_counter() - start < 1
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_a_zipped_bomb_after_the_voxels_is_refused(tmp_path):
    path = _save(tmp_path / "a.nii", _counting("u1"))
    bomb = tmp_path / "bomb.nii.gz"
    bomb.write_bytes(gzip.compress(path.read_bytes() + b"\0" * 2**25))
    with pytest.raises(LimitError, match="after its voxels"):
        read(bomb)


def test_every_truncation_is_refused(tmp_path):
    for suffix in (".nii", ".nii.gz"):
        path = _save(tmp_path / f"whole{suffix}", _counting("i2"))
        whole = path.read_bytes()
        cut = tmp_path / f"cut{suffix}"
        for length in range(0, len(whole), 37):
            cut.write_bytes(whole[:length])
            with pytest.raises(InputError, match="cut"):
                read(cut)


def test_a_zipped_file_with_fewer_volumes_than_it_claims_is_refused(tmp_path):
    path = _save(tmp_path / "a.nii.gz", _counting("i2", (3, 4, 5, 2)))
    _patch(path, nibabel.Nifti1Header, dim=[4, 3, 4, 5, 3, 1, 1, 1])
    with pytest.raises(InputError, match="cut off: 120 bytes of further volumes"):
        read(path, volume=1)


def test_a_flipped_bit_in_a_zipped_file_is_found(tmp_path):
    path = _save(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 99, (9, 9, 9), "i2"))
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"a\.nii\.gz"):
        read(path)
