"""Files of one series become one volume where their geometry says so."""

from __future__ import annotations

import numpy as np
import pytest

from medad_fast.data import load_dataset, read
from medad_fast.errors import InputError
from python_tests.data.files import write_dicom, write_series


def _volume() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1000, (4, 5, 6), np.int16)


def test_slices_are_ordered_by_position_not_by_name(tmp_path):
    write_series(tmp_path, _volume())
    dataset = load_dataset(tmp_path)
    (case,) = dataset.cases
    image = read(case.files)
    # Stored as scanners do: columns to the patient's left, rows to posterior, feet first.
    np.testing.assert_array_equal(image.pixels, _volume())
    assert image.spacing_mm == (3.0, 2.0, 1.0)
    assert image.is_volume
    assert [path.name for path in case.files] == ["004.dcm", "003.dcm", "002.dcm", "001.dcm"]


@pytest.mark.parametrize(
    ("cosines", "undo"),
    [
        ([-1, 0, 0, 0, -1, 0], lambda v: v[:, ::-1, ::-1]),  # head over heels, as when prone
        ([-1, 0, 0, 0, 1, 0], lambda v: v[::-1, :, ::-1]),
        ([0, 1, 0, 1, 0, 0], lambda v: v[::-1].transpose(0, 2, 1)),
    ],
)
def test_slices_are_turned_to_the_common_view(tmp_path, cosines, undo):
    volume = _volume()
    normal = np.cross(cosines[:3], cosines[3:])
    paths = [
        write_dicom(
            tmp_path / f"{k}.dcm",
            pixels,
            SeriesInstanceUID="1.2",
            ImagePositionPatient=(3.0 * k * normal).tolist(),
            ImageOrientationPatient=cosines,
            PixelSpacing=[1, 1],
        )
        for k, pixels in enumerate(volume)
    ]
    np.testing.assert_array_equal(read(paths).pixels, undo(volume))


def test_a_single_slice_is_shown_in_its_own_plane(tmp_path):
    pixels = _volume()[0]
    sagittal = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "PixelSpacing": [2, 1]}
    path = write_dicom(tmp_path / "a.dcm", pixels, ImagePositionPatient=[9, 0, 0], **sagittal)
    image = read(path)
    np.testing.assert_array_equal(image.pixels[0], pixels)
    assert image.spacing_mm is not None
    assert image.spacing_mm[1:] == (2, 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ImagePositionPatient": [0, 0, 3]}, "not evenly spaced"),  # a second echo
        ({"ImagePositionPatient": [0, 0, 40]}, "not evenly spaced"),  # a slice is missing
        ({"PixelSpacing": [1, 1]}, "another size, direction or spacing"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "another size, direction or spacing"),
        ({"ImagePositionPatient": None}, None),
    ],
)
def test_a_series_without_one_geometry_is_no_volume(tmp_path, change, reason):
    paths = write_series(tmp_path, _volume())
    place = {
        "SeriesInstanceUID": "1.2.3.4",
        "ImagePositionPatient": [0, 0, 12],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [2, 1],
    }
    paths.append(write_dicom(tmp_path / "odd.dcm", _volume()[0], **(place | change)))
    # What differs in size or direction is parted from the others.
    wanted = [1] * 5 if reason == "not evenly spaced" else [4, 1]
    assert [len(case.files) for case in load_dataset(tmp_path).cases] == wanted
    if reason is not None:
        with pytest.raises(InputError, match=reason):
            read(paths)


@pytest.mark.parametrize("tag", ["EchoTime", "AcquisitionNumber", "TemporalPositionIdentifier"])
def test_echoes_and_time_points_of_one_series_are_volumes_each(tmp_path, tag):
    volumes = [_volume(), 2 * _volume()]
    for number, volume in enumerate(volumes):
        write_series(tmp_path / str(number), volume, **{tag: number + 1})
    scout = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "SeriesInstanceUID": "1.2.3.4"}
    place = {"ImagePositionPatient": [0, 0, 0], "PixelSpacing": [2, 1]}
    write_dicom(tmp_path / "scout.dcm", _volume()[0], **scout, **place)
    cases = load_dataset(tmp_path).cases
    assert [len(case.files) for case in cases] == [4, 4, 1]
    for case, volume in zip(cases, volumes, strict=False):
        np.testing.assert_array_equal(read(case.files).pixels, volume)


def test_slices_in_colour_stay_pictures(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), np.uint8)
    write_series(tmp_path, colours)
    cases = load_dataset(tmp_path).cases
    assert [read(case.files).pixels.shape for case in cases] == [(1, 4, 6, 3)] * 3


def test_a_damaged_file_stays_alone_and_is_named_when_read(tmp_path):
    write_series(tmp_path, _volume())
    whole = (tmp_path / "001.dcm").read_bytes()
    (tmp_path / "bad.dcm").write_bytes(whole[:200])
    cases = load_dataset(tmp_path).cases
    assert sorted(len(case.files) for case in cases) == [1, 4]
    with pytest.raises(InputError, match=r"bad\.dcm"):
        read(next(case.files for case in cases if len(case.files) == 1))


def test_one_patient_id_is_one_patient(tmp_path):
    for k, who in enumerate(("A", "A", "B")):
        write_dicom(tmp_path / f"{k}.dcm", np.full((4, 4), k, np.uint8), PatientID=who)
    assert [case.patient for case in load_dataset(tmp_path).cases] == ["A", "A", "B"]


def test_a_series_without_a_patient_stays_one_patient_when_a_slice_is_missing(tmp_path):
    for number in range(2):
        tags = {"SeriesInstanceUID": f"1.2.{number}"}
        paths = write_series(tmp_path / f"scan{number}", _volume(), **tags)
        paths[1].unlink()
    dataset = load_dataset(tmp_path)
    assert len(dataset.cases) == 6
    assert {case.name.split("/")[0]: case.patient for case in dataset.cases} == {
        "scan0": "scan0/001.dcm",
        "scan1": "scan1/001.dcm",
    }
    assert len({case.patient for case in dataset.cases}) == 2
