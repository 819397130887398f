"""DICOM results lie where their source lies, refer to it, and are marked as research."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom import config as pydicom_config

from medad_fast import predict
from medad_fast.artifacts.overlay import colourise, overlay
from medad_fast.artifacts.run import Run
from medad_fast.artifacts.scores import read_scores
from medad_fast.cli.main import main
from medad_fast.data import read
from medad_fast.data.formats import quiet
from medad_fast.data.pipeline import Pipeline
from medad_fast.dicom_out.source import IDENTITY_TAGS
from medad_fast.dicom_out.writers import NOT_FOR_DIAGNOSIS
from medad_fast.errors import InputError
from python_tests.dicom_out.sources import (
    FRAME_OF_REFERENCE,
    SERIES,
    STUDY,
    TURNED,
    enhanced,
    film,
    radiograph,
    series,
)
from python_tests.verbs.predict.brightness import Brightness, make_run

PLACED: dict[str, Callable[[Path], Any]] = {
    "axial": lambda folder: series(folder),
    "turned": lambda folder: series(folder, TURNED),
    "coronal": lambda folder: series(folder, [1.0, 0.0, 0.0, 0.0, 0.0, -1.0]),
    "backwards": lambda folder: series(folder, [-1.0, 0.0, 0.0, 0.0, 1.0, 0.0]),
    "compressed": lambda folder: series(folder, compress=True),
    "inverted": lambda folder: series(folder, PhotometricInterpretation="MONOCHROME1"),
    "one_slice": lambda folder: [series(folder)[0]] and _keep_one(folder),
}
LOOSE: dict[str, Callable[[Path], Any]] = {
    "cr": lambda folder: radiograph(folder / "a.dcm"),
    "cr_inverted": lambda folder: radiograph(
        folder / "a.dcm", PhotometricInterpretation="MONOCHROME1"
    ),
    "cr_compressed": lambda folder: radiograph(folder / "a.dcm", compress=True),
}


def _keep_one(folder: Path) -> None:
    for path in sorted(folder.glob("*.dcm"))[1:]:
        path.unlink()


@pytest.fixture
def run() -> Run:
    made = make_run(Brightness())
    return replace(made, pipeline=Pipeline(replace(made.pipeline.config, modality="auto")))


def results(run: Run, kind: str, tmp_path: Path) -> tuple[Path, Path]:
    """Folder of the source, and that of its results."""
    source = tmp_path / "source"
    (PLACED | LOOSE | {"enhanced": lambda f: enhanced(f / "a.dcm")})[kind](source)
    about = predict(run, source, tmp_path / "out", dicom_out=True)
    assert (about["dicom_results"], about["counts"]["failed_files"]) == (1, 0)
    files = [path for path in (tmp_path / "out/dicom").rglob("*.dcm") if path.is_file()]
    (folder,) = {path.parent for path in files}
    return source, folder


def source_image(source: Path) -> sitk.Image:
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(source))
    return sitk.ReadImage(files if len(files) > 1 else files[0])


def assert_same_grid(found: sitk.Image, wanted: sitk.Image) -> None:
    assert found.GetSize() == wanted.GetSize()
    for place in ("GetOrigin", "GetDirection", "GetSpacing"):
        np.testing.assert_allclose(
            getattr(found, place)(), getattr(wanted, place)(), atol=1e-5, err_msg=place
        )


def stored_map(source: Path, tmp_path: Path) -> np.ndarray:
    """The map that predict wrote as NIfTI, as ``(slices, rows, columns)`` of the files."""
    (path,) = (tmp_path / "out/maps").rglob("*.nii.gz")
    import nibabel

    return np.asanyarray(nibabel.load(path).dataobj).transpose(2, 1, 0)


@pytest.mark.parametrize("kind", PLACED)
def test_segmentation_and_captures_open_where_their_source_lies(kind, run, tmp_path):
    source, folder = results(run, kind, tmp_path)
    wanted = source_image(source)
    segmentation = sitk.ReadImage(str(folder / "segmentation.dcm"))
    assert_same_grid(segmentation, wanted)
    pictures = sitk.ReadImage([str(path) for path in sorted(folder.glob("overlay*.dcm"))])
    assert_same_grid(pictures, wanted)
    scale = run.thresholds["map"]
    expected = colourise(stored_map(source, tmp_path), low=scale["low"], high=scale["high"])
    assert np.ptp(expected) > 0
    np.testing.assert_array_equal(sitk.GetArrayFromImage(segmentation), expected)


@pytest.mark.parametrize("kind", [*PLACED, "enhanced"])
def test_highdicom_reads_the_map_s_own_values_on_the_source_s_grid(kind, run, tmp_path):
    _, folder = results(run, kind, tmp_path)
    found = highdicom.pm.ParametricMap.from_file(folder / "map.dcm")
    segmentation = highdicom.seg.segread(folder / "segmentation.dcm")
    (nifti,) = (tmp_path / "out/maps").rglob("*.nii.gz")
    reference = sitk.ReadImage(str(nifti))
    values = sitk.GetArrayFromImage(reference)
    for volume in (found.get_volume(), segmentation.get_volume(rescale_fractional=False)):
        # Each voxel of highdicom's volume, looked up in the NIfTI map by its place in millimetres.
        places = np.stack(np.indices(volume.spatial_shape), axis=-1).reshape(-1, 3)
        world = volume.map_indices_to_reference(places)
        own = volume.array.reshape(-1)
        picked = np.random.default_rng(0).choice(len(own), 300)
        there = [reference.TransformPhysicalPointToIndex(tuple(world[i])) for i in picked.tolist()]
        expected = np.array([values[place[::-1]] for place in there])
        if volume.array.dtype == np.uint8:
            scale = run.thresholds["map"]
            expected = colourise(expected, low=scale["low"], high=scale["high"])
        np.testing.assert_array_equal(own[picked], expected)


@pytest.mark.parametrize("kind", [*PLACED, "enhanced"])
def test_a_map_that_is_read_again_is_the_written_one_bit_for_bit(kind, run, tmp_path):
    _, folder = results(run, kind, tmp_path)
    again = read(folder / "map.dcm")
    (nifti,) = (tmp_path / "out/maps").rglob("*.nii.gz")
    written = read(nifti)
    assert again.pixels.dtype == np.float32
    np.testing.assert_array_equal(again.pixels, written.pixels)
    np.testing.assert_allclose(again.geometry.affine, written.geometry.affine, atol=1e-5)
    twice = [run.predict(folder / "map.dcm").anomaly_score for _ in range(2)]
    assert np.array_equal(*twice, equal_nan=True)


@pytest.mark.parametrize("kind", LOOSE)
def test_a_radiograph_s_results_refer_to_it_and_lie_on_its_pixels(kind, run, tmp_path):
    source, folder = results(run, kind, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["overlay.dcm", "segmentation.dcm"]
    segmentation = highdicom.seg.segread(folder / "segmentation.dcm")
    assert "FrameOfReferenceUID" not in segmentation
    (derivation,) = segmentation.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence
    (reference,) = derivation.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == "1.2.826.6.1"
    assert reference.SpatialLocationsPreserved == "YES"
    assert list(segmentation.PatientOrientation) == ["L", "F"]
    spacing = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    assert list(spacing) == [0.2, 0.25]
    values = np.load(next((tmp_path / "out/maps").rglob("*.npy")))
    scale = run.thresholds["map"]
    expected = colourise(values, low=scale["low"], high=scale["high"])
    np.testing.assert_array_equal(segmentation.pixel_array, expected)
    assert_same_grid(sitk.ReadImage(str(folder / "overlay.dcm")), source_image(source))


@pytest.mark.parametrize("kind", ["axial", "enhanced", "cr"])
def test_every_result_passes_pydicom_s_strictest_reading_and_writing(
    kind, run, tmp_path, monkeypatch
):
    _, folder = results(run, kind, tmp_path)
    monkeypatch.setattr(pydicom_config.settings, "reading_validation_mode", pydicom_config.RAISE)
    monkeypatch.setattr(pydicom_config.settings, "writing_validation_mode", pydicom_config.RAISE)
    for path in folder.glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.walk(lambda dataset, element: element.value)
        dataset.save_as(tmp_path / "again.dcm", enforce_file_format=True)
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID


@pytest.mark.parametrize("kind", ["axial", "enhanced", "cr"])
def test_results_say_what_made_them_and_that_they_are_not_for_diagnosis(kind, run, tmp_path):
    run = replace(run, sha256="5e" * 32)
    _, folder = results(run, kind, tmp_path)
    scale = run.thresholds["map"]
    for path in folder.glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        assert NOT_FOR_DIAGNOSIS in dataset.SeriesDescription
        for words in (dataset.DerivationDescription, dataset.ImageComments):
            assert words.startswith(f"{NOT_FOR_DIAGNOSIS}.")
            assert "method brightness" in words
            assert "5e" * 32 in words
            assert f"from {scale['low']:.6g} to {scale['high']:.6g}" in words
            assert "Unitless" in words
        assert dataset.Manufacturer == "medad_fast"
        assert dataset.ManufacturerModelName == "brightness"
        assert dataset.DeviceSerialNumber == "5e" * 32
        assert dataset.SoftwareVersions
        if "overlay" in path.name:
            assert dataset.ContentQualification == "RESEARCH"
        else:
            assert dataset.ContentLabel == "NOT_DIAGNOSTIC"
            assert NOT_FOR_DIAGNOSIS in dataset.ContentDescription


@pytest.mark.parametrize("kind", ["axial", "enhanced", "cr"])
def test_results_belong_to_the_study_and_carry_no_other_identity(kind, run, tmp_path):
    source, folder = results(run, kind, tmp_path)
    first = pydicom.dcmread(next(source.glob("*.dcm")))
    instances = {str(pydicom.dcmread(path).SOPInstanceUID) for path in source.glob("*.dcm")}
    of_class = first.SOPClassUID
    referred: set[str] = set()
    for path in folder.glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        assert dataset.StudyInstanceUID == STUDY
        assert dataset.SeriesInstanceUID != SERIES
        for tag in IDENTITY_TAGS:
            assert dataset.get(tag) == first.get(tag), tag
        if kind != "cr":
            assert dataset.FrameOfReferenceUID == FRAME_OF_REFERENCE
        (by_series,) = dataset.ReferencedSeriesSequence
        assert by_series.SeriesInstanceUID == SERIES
        for item in (*by_series.ReferencedInstanceSequence, *dataset.SourceImageSequence):
            assert item.ReferencedSOPClassUID == of_class
            referred.add(item.ReferencedSOPInstanceUID)
    assert referred == instances


def test_each_frame_of_an_enhanced_file_is_referred_to_by_its_number(run, tmp_path):
    source, folder = results(run, "enhanced", tmp_path)
    positions = [
        list(group.PlanePositionSequence[0].ImagePositionPatient)
        for group in pydicom.dcmread(source / "a.dcm").PerFrameFunctionalGroupsSequence
    ]
    for name in ("map.dcm", "segmentation.dcm"):
        groups = pydicom.dcmread(folder / name).PerFrameFunctionalGroupsSequence
        assert len(groups) == 5
        for group in groups:
            (item,) = group.DerivationImageSequence[0].SourceImageSequence
            assert item.ReferencedSOPInstanceUID == "1.2.826.5.1"
            own = list(group.PlanePositionSequence[0].ImagePositionPatient)
            assert own == positions[item.ReferencedFrameNumber - 1]
    for path in folder.glob("overlay-*.dcm"):
        capture = pydicom.dcmread(path)
        (item,) = capture.SourceImageSequence
        own = list(capture.ImagePositionPatient)
        assert own == positions[item.ReferencedFrameNumber - 1]


def test_frames_that_lie_nowhere_get_a_segmentation_each(run, tmp_path):
    film(tmp_path / "source/a.dcm")
    predict(run, tmp_path / "source", tmp_path / "out", dicom_out=True)
    folder = tmp_path / "out/dicom/a.dcm"
    assert len(list(folder.glob("overlay-*.dcm"))) == 3
    maps = np.load(tmp_path / "out/maps/a.dcm.npy")
    scale = run.thresholds["map"]
    for number in (1, 2, 3):
        found = highdicom.seg.segread(folder / f"segmentation-{number:04d}.dcm")
        expected = colourise(maps[number - 1], low=scale["low"], high=scale["high"])
        np.testing.assert_array_equal(found.pixel_array, expected)
        (item,) = found.SourceImageSequence
        assert item.ReferencedFrameNumber == number


@pytest.mark.parametrize("kind", ["axial", "inverted", "cr_inverted"])
def test_a_capture_is_the_overlay_with_its_mark_burned_in(kind, run, tmp_path):
    source, folder = results(run, kind, tmp_path)
    capture = pydicom.dcmread(sorted(folder.glob("overlay*.dcm"))[0])
    of = capture.SourceImageSequence[0].ReferencedSOPInstanceUID
    files = sorted(source.glob("*.dcm"))
    pixels = {str(pydicom.dcmread(path).SOPInstanceUID): path for path in files}
    grey = pydicom.dcmread(pixels[of]).pixel_array.astype(np.float64)
    volume = np.stack([pydicom.dcmread(path).pixel_array for path in files]).astype(np.float64)
    if "inverted" in kind:
        grey, volume = 4095 - grey, 4095 - volume
    if kind == "cr_inverted":
        anomaly_map = np.load(next((tmp_path / "out/maps").rglob("*.npy")))
    else:
        anomaly_map = stored_map(source, tmp_path)[0]
    scale = run.thresholds["map"]
    darkest, brightest = np.percentile(volume, [0.5, 99.5])
    expected = overlay(
        grey,
        anomaly_map,
        low=scale["low"],
        high=scale["high"],
        darkest=float(darkest),
        brightest=float(brightest),
    )
    changed = (capture.pixel_array != expected).any(axis=-1)
    assert changed.any()
    assert not changed[len(changed) // 2 :].any()
    assert (capture.pixel_array[changed] == [255, 255, 0]).all(axis=-1).any()


def test_one_source_that_cannot_be_referred_to_stops_no_other(run, tmp_path):
    radiograph(tmp_path / "source/good.dcm")
    radiograph(tmp_path / "source/lone.dcm", StudyInstanceUID=None, SeriesInstanceUID="1.2.9")
    about = predict(run, tmp_path / "source", tmp_path / "out", dicom_out=True)
    assert about["counts"]["failed_files"] == 1
    (line,) = (tmp_path / "out/errors.jsonl").read_text(encoding="utf-8").splitlines()
    error = json.loads(line)
    assert error["file"] == "lone.dcm"
    assert "lacks the tag StudyInstanceUID" in error["reason"]
    assert [row.path for row in read_scores(tmp_path / "out/scores.csv")] == ["good.dcm"]
    assert sorted(path.name for path in (tmp_path / "out/dicom").iterdir()) == ["good.dcm"]


def test_odd_values_of_the_source_do_not_stop_its_results(run, tmp_path):
    with quiet():
        radiograph(
            tmp_path / "source/a.dcm",
            PatientSex="X",
            PatientBirthDate="unknown",
            StudyDate="2025.01.02",
            StudyTime="10:11:12",
        )
    about = predict(run, tmp_path / "source", tmp_path / "out", dicom_out=True)
    assert about["dicom_results"] == 1
    found = pydicom.dcmread(tmp_path / "out/dicom/a.dcm/overlay.dcm")
    assert (found.PatientSex, found.PatientBirthDate) == ("", "")
    assert (found.StudyDate, found.StudyTime) == ("20250102", "101112")


def test_names_in_any_alphabet_come_through(run, tmp_path):
    name = "Äpfel^Ümit"
    radiograph(tmp_path / "source/a.dcm", SpecificCharacterSet="ISO_IR 100", PatientName=name)
    predict(run, tmp_path / "source", tmp_path / "out", dicom_out=True)
    found = pydicom.dcmread(tmp_path / "out/dicom/a.dcm/overlay.dcm")
    assert str(found.PatientName) == name


def test_results_of_an_earlier_prediction_are_replaced(run, tmp_path):
    _, folder = results(run, "axial", tmp_path)
    for path in sorted((tmp_path / "source").iterdir())[:2]:
        path.unlink()
    before = pydicom.dcmread(folder / "segmentation.dcm").SOPInstanceUID
    predict(run, tmp_path / "source", tmp_path / "out", dicom_out=True)
    assert len(list(folder.glob("overlay*.dcm"))) == 3
    assert pydicom.dcmread(folder / "segmentation.dcm").SOPInstanceUID != before


def test_nothing_but_dicom_gets_dicom_results_and_only_when_asked(run, tmp_path):
    from python_tests.data.files import write_png
    from python_tests.dicom_out.sources import grey

    write_png(tmp_path / "source/a.png", grey(40, 40))
    radiograph(tmp_path / "source/b.dcm")
    about = predict(run, tmp_path / "source", tmp_path / "asked", dicom_out=True)
    assert about["dicom_results"] == 1
    assert [path.name for path in (tmp_path / "asked/dicom").iterdir()] == ["b.dcm"]
    predict(run, tmp_path / "source", tmp_path / "plain")
    assert not (tmp_path / "plain/dicom").exists()


def test_without_highdicom_one_line_says_what_to_install_before_any_work(
    tmp_path, monkeypatch, capsys
):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "medad_fast.dicom_out.writers.find_spec",
        lambda name, *rest: None if name == "highdicom" else found(name, *rest),
    )
    with pytest.raises(InputError, match=r'pip install "medad-fast\[dicom\]"'):
        predict(tmp_path / "no run", tmp_path / "no data", tmp_path / "out", dicom_out=True)
    flags = ["--run", "no run", "--data", "no data", "--out", str(tmp_path / "out"), "--dicom-out"]
    assert main(["predict", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "highdicom" in line
    assert not (tmp_path / "out").exists()
