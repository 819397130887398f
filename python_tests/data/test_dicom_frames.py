"""Files of several frames: volumes where they tell their places, else pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medad_fast.data import load_dataset, read
from medad_fast.errors import InputError, LimitError
from python_tests.data.files import dicom_dataset, write_series


def item(**values: Any) -> Dataset:
    dataset = Dataset()
    for tag, value in values.items():
        setattr(dataset, tag, value)
    return dataset


def _volume() -> NDArray[np.uint16]:
    return np.random.default_rng(0).integers(0, 4096, (5, 20, 30), np.uint16)


def write_frames(path: Path, volume: NDArray[Any], **tags: Any) -> Path:
    """A multi-frame file, ``volume`` (frames, rows, columns[, 3])."""
    dataset = dicom_dataset(volume[0], NumberOfFrames=len(volume))
    dataset.PixelData = volume.tobytes() + b"\0" * (volume.nbytes % 2)
    for tag, value in tags.items():
        setattr(dataset, tag, value)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def enhanced(heights: list[float], **own: list[Any]) -> dict[str, Any]:
    """Functional groups of an enhanced file: 1 x 2 mm pixels, frames at these heights."""
    shared = item(
        PixelMeasuresSequence=Sequence([item(PixelSpacing=[2.0, 1.0], SliceThickness=3.0)]),
        PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
    )
    frames = []
    for k, height in enumerate(heights):
        frame = item(PlanePositionSequence=Sequence([item(ImagePositionPatient=[0, 0, height])]))
        for macro, values in own.items():
            setattr(frame, macro, Sequence([item(**values[k])]))
        frames.append(frame)
    return {
        "SharedFunctionalGroupsSequence": Sequence([shared]),
        "PerFrameFunctionalGroupsSequence": Sequence(frames),
    }


def test_frames_without_a_place_are_pictures_in_the_order_of_the_file(tmp_path):
    image = read(write_frames(tmp_path / "cine.dcm", _volume(), PixelSpacing=[0.5, 0.25]))
    np.testing.assert_array_equal(image.pixels, _volume())
    assert not image.is_volume
    assert image.spacing_mm == (1, 0.5, 0.25)


def test_colour_frames_keep_their_colours(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), np.uint8)
    np.testing.assert_array_equal(read(write_frames(tmp_path / "a.dcm", colours)).pixels, colours)


def test_an_enhanced_file_is_the_volume_of_the_series_it_could_be(tmp_path):
    order = [3, 0, 4, 1, 2]
    path = write_frames(tmp_path / "a.dcm", _volume()[order], **enhanced([3.0 * k for k in order]))
    image = read(path)
    series = read(write_series(tmp_path / "series", _volume()))
    np.testing.assert_array_equal(image.pixels, series.pixels)
    assert image.geometry is not None
    assert series.geometry is not None
    np.testing.assert_array_equal(image.geometry.affine, series.geometry.affine)
    assert image.spacing_mm == (3.0, 2.0, 1.0)


def test_each_frame_has_its_own_rescale_and_window(tmp_path):
    volume = np.broadcast_to(np.arange(6, dtype=np.uint16).reshape(2, 3), (3, 2, 3))
    groups = enhanced(
        [0.0, 3.0, 6.0],
        PixelValueTransformationSequence=[
            {"RescaleSlope": slope, "RescaleIntercept": 1} for slope in (1, 2, 4)
        ],
        FrameVOILUTSequence=[{"WindowCenter": 3, "WindowWidth": 3}] * 3,
    )
    path = write_frames(tmp_path / "a.dcm", volume, **groups)
    expected = np.arange(6).reshape(1, 2, 3) * np.array([1, 2, 4]).reshape(3, 1, 1) + 1
    image = read(path)
    np.testing.assert_array_equal(image.pixels, expected)
    assert image.provenance.rescaled
    windowed = read(path, voi_window=True)
    np.testing.assert_array_equal(windowed.pixels, expected.clip(1.5, 3.5))
    assert windowed.provenance.window == (1.5, 3.5)


def test_two_time_points_are_pictures_with_a_warning(tmp_path):
    path = write_frames(tmp_path / "a.dcm", _volume()[:4], **enhanced([0.0, 3.0, 0.0, 3.0]))
    with pytest.warns(UserWarning, match=r"a\.dcm: .* not evenly spaced.* taken as pictures"):
        image = read(path)
    np.testing.assert_array_equal(image.pixels, _volume()[:4])
    assert image.geometry is None


def test_a_dose_grid_tells_its_places_by_offsets(tmp_path):
    path = write_frames(
        tmp_path / "a.dcm",
        _volume(),
        ImagePositionPatient=[0, 0, 0],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        PixelSpacing=[2, 1],
        GridFrameOffsetVector=[0, 5, 10, 15, 20],
    )
    image = read(path)
    np.testing.assert_array_equal(image.pixels, _volume())
    assert image.spacing_mm == (5, 2, 1)


def test_one_position_for_all_frames_is_no_place(tmp_path):
    path = write_frames(
        tmp_path / "a.dcm",
        _volume(),
        ImagePositionPatient=[0, 0, 0],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        PixelSpacing=[2, 1],
    )
    assert read(path).geometry is None


def test_files_of_several_frames_stay_apart_from_their_series(tmp_path):
    for k in range(3):
        write_frames(
            tmp_path / f"{k}.dcm",
            _volume(),
            SeriesInstanceUID="1.2",
            ImagePositionPatient=[0, 0, 3 * k],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            PixelSpacing=[2, 1],
        )
    cases = load_dataset(tmp_path).cases
    assert [len(case.files) for case in cases] == [1, 1, 1]
    with pytest.raises(InputError, match="holds 5 frames; files of a series hold one each"):
        read([case.files[0] for case in cases])


def test_claimed_frames_are_compared_with_the_limit_and_the_pixels(tmp_path):
    path = write_frames(tmp_path / "a.dcm", _volume()[:, :2, :2], NumberOfFrames=5000)
    with pytest.raises(LimitError, match="claims 5000 frames"):
        read(path)
    path = write_frames(tmp_path / "b.dcm", _volume(), NumberOfFrames=6)
    with pytest.raises(InputError, match=r"b\.dcm: cannot be read"):
        read(path)


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_a_dicomdir_stands_for_the_files_beside_it(tmp_path):
    write_series(tmp_path / "IMAGES", _volume())
    directory = tmp_path / "DICOMDIR"
    record = item(ReferencedFileID=["..", "..", "etc", "passwd"], DirectoryRecordType="IMAGE")
    write_frames(directory, _volume(), DirectoryRecordSequence=Sequence([record]))
    (case,) = load_dataset(directory).cases
    assert len(case.files) == 5
    np.testing.assert_array_equal(read(case.files).pixels, _volume())


@pytest.mark.parametrize(
    ("function", "edges"), [(None, (40, 60)), ("LINEAR_EXACT", (40, 61)), ("SIGMOID", (40, 61))]
)
def test_the_edges_of_a_window_follow_its_function(tmp_path, function, edges):
    tags = {"WindowCenter": 50.5, "WindowWidth": 21} | (
        {} if function is None else {"VOILUTFunction": function}
    )
    path = write_frames(tmp_path / "a.dcm", _volume()[:1], **tags)
    assert read(path, voi_window=True).provenance.window == edges


def test_an_8_bit_modality_lut_may_be_packed(tmp_path):
    table = item(LUTDescriptor=[4, 0, 8], ModalityLUTType="US")
    table.add_new("LUTData", "OW", bytes([9, 7, 5, 3]))
    stored = np.array([[[0, 1, 2, 3, 9, 0]]], np.uint8)
    path = write_frames(tmp_path / "a.dcm", stored, ModalityLUTSequence=Sequence([table]))
    assert read(path).pixels.tolist() == [[[9, 7, 5, 3, 3, 9]]]


@pytest.mark.parametrize(("tag", "bits"), [("FloatPixelData", 32), ("DoubleFloatPixelData", 64)])
def test_a_parametric_map_is_read_as_its_numbers(tmp_path, tag, bits):
    values = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(f"<f{bits // 8}")
    values[1, 2, 3] = -1000
    dataset = dicom_dataset(
        np.zeros((4, 5), np.uint16),
        NumberOfFrames=3,
        BitsAllocated=bits,
        **dict.fromkeys(("BitsStored", "HighBit", "PixelRepresentation", "PixelData")),
        **enhanced([0.0, 3.0, 6.0]),
    )
    setattr(dataset, tag, values.tobytes())
    setattr(dataset, tag.replace("PixelData", "PixelPaddingValue"), -1000.0)
    pydicom.dcmwrite(tmp_path / "a.dcm", dataset, enforce_file_format=True)
    expected = values.astype(np.float32)
    expected[1, 2, 3] = np.delete(expected[1].ravel(), 2 * 5 + 3).min()
    image = read(tmp_path / "a.dcm")
    np.testing.assert_array_equal(image.pixels, expected, strict=True)
    assert image.provenance.bits_stored == bits
    assert image.is_volume
    dataset.PhotometricInterpretation = "MONOCHROME1"
    pydicom.dcmwrite(tmp_path / "b.dcm", dataset, enforce_file_format=True)
    with pytest.raises(InputError, match="read are MONOCHROME2"):
        read(tmp_path / "b.dcm")
