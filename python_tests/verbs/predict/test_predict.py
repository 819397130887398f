"""Scoring files with a run: tables, and maps on the sources' grid."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medad_fast import compare, evaluate, fit, load, predict
from medad_fast.artifacts.run import Run
from medad_fast.artifacts.scores import read_scores
from medad_fast.data.formats.nifti import read_nifti, write_nifti
from medad_fast.data.geometry import Axis
from medad_fast.data.pipeline import Pipeline
from medad_fast.errors import InputError
from medad_fast.training.baselines import NAMES
from medad_fast.training.thresholds import choose, p_value
from medad_fast.verbs.report import write_report
from python_tests.data.files import write_dicom, write_png
from python_tests.verbs.predict.brightness import AFFINE, SLICES, Brightness, anatomy, make_run


def test_every_kept_slice_has_a_row_with_its_own_label(
    run: Run, dataset: Path, tmp_path: Path
) -> None:
    about = predict(run, dataset, tmp_path / "out")
    rows = read_scores(tmp_path / "out/scores.csv")
    assert len(rows) == 3 * SLICES == about["counts"]["images"]
    header = (tmp_path / "out/scores.csv").read_text(encoding="utf-8").splitlines()[0]
    columns = "path,patient,slice,split,label,mask,map,anomaly_score,threshold,prediction,p_value"
    assert header == columns
    ill = [row for row in rows if row.label == "abnormal"]
    assert [(row.path, row.slice) for row in ill] == [("test/abnormal/sub-SECRET9.nii.gz", 1)]
    assert ill[0].mask == "test/masks/sub-SECRET9.nii.gz"
    assert {row.mask for row in rows if "normal/" in row.path and "ab" not in row.path} == {""}
    for row in rows:
        assert row.split == "test"
        assert row.threshold == run.thresholds["score"]["threshold"]
        assert row.prediction == ("abnormal" if row.anomaly_score > row.threshold else "normal")
        assert row.p_value == p_value(row.anomaly_score, run.thresholds)


@pytest.mark.parametrize("target", [0.05, 0.3, 0.9])
def test_another_target_sets_another_threshold_and_the_same_p_values(
    run: Run, dataset: Path, tmp_path: Path, target: float
) -> None:
    own = choose(torch.linspace(0.5, 1.0, 20), target_fpr=target)["score"]
    about = predict(run, dataset, tmp_path / "out", target_fpr=target)
    assert about["thresholds"]["score"] == own
    assert about["thresholds"]["map"] == run.thresholds["map"]
    for row in read_scores(tmp_path / "out/scores.csv"):
        assert row.threshold == own["threshold"]
        assert (row.prediction == "abnormal") == (row.p_value <= own["expected_fpr"])
        assert row.p_value == p_value(row.anomaly_score, run.thresholds)
    assert run.thresholds["score"]["target_fpr"] == 0.05


def test_a_target_that_no_threshold_has_is_refused_before_anything_is_written(
    run: Run, dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="target_fpr"):
        predict(run, dataset, tmp_path / "out", target_fpr=1.0)
    assert not (tmp_path / "out").exists()


def test_maps_lie_on_the_grid_of_their_volume(run: Run, dataset: Path, tmp_path: Path) -> None:
    predict(run, dataset, tmp_path / "out")
    name = "test/abnormal/sub-SECRET9.nii.gz"
    anomaly_map, affine = read_nifti(tmp_path / "out/maps" / name)
    volume, _ = read_nifti(dataset / name)
    assert anomaly_map.shape == volume.shape
    np.testing.assert_allclose(affine, AFFINE)
    assert np.unravel_index(anomaly_map.argmax(), volume.shape) == (6, 15, 1)
    row = next(row for row in read_scores(tmp_path / "out/scores.csv") if row.path == name)
    assert row.map == f"maps/{name}"


def test_masks_lie_voxel_for_voxel_beside_their_maps(
    run: Run, dataset: Path, tmp_path: Path
) -> None:
    name = "test/abnormal/sub-SECRET9.nii.gz"
    source = dataset / "test/masks/sub-SECRET9.nii.gz"
    mask, affine = read_nifti(source)
    write_nifti(source, 3 * mask, affine)  # whatever is not 0 is abnormal
    predict(run, dataset, tmp_path / "out")
    kept, mapped = (nibabel.load(tmp_path / "out" / each / name) for each in ("masks", "maps"))
    assert kept.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asanyarray(kept.dataobj), mask)
    np.testing.assert_array_equal(kept.affine, mapped.affine)
    assert [path.name for path in (tmp_path / "out/masks").rglob("*.*")] == ["sub-SECRET9.nii.gz"]


def test_a_simulated_data_set_is_called_so_in_the_results(
    run: Run, dataset: Path, tmp_path: Path
) -> None:
    (dataset / "simulation.json").write_text(json.dumps({"about": "Nothing here is real."}))
    about = predict(run, dataset, tmp_path / "out")
    assert about["data"]["simulated"] == "Nothing here is real."
    (dataset / "simulation.json").write_text("[]")
    with pytest.raises(InputError, match=r"simulation\.json: a JSON object expected"):
        predict(run, dataset, tmp_path / "out")


@pytest.mark.parametrize(("axis", "place"), [("coronal", 15), ("sagittal", 13)])
def test_slices_of_another_plane_have_their_own_labels(
    dataset: Path, tmp_path: Path, axis: Axis, place: int
) -> None:
    predict(make_run(Brightness(), axis), dataset, tmp_path / "out", overlays=True)
    rows = read_scores(tmp_path / "out/scores.csv")
    ill = [row for row in rows if row.label == "abnormal"]
    assert [row.slice for row in ill] == [place]
    assert max(rows, key=lambda row: row.anomaly_score) == ill[0]
    metrics = evaluate(tmp_path / "out", resamples=5)
    assert metrics["counts"]["lesion_pixels"] == 1
    assert metrics["pixel"]["average_precision"]["value"] == 1.0


def test_baselines_stand_beside_the_scores(run: Run, dataset: Path, tmp_path: Path) -> None:
    predict(run, dataset, tmp_path / "out")
    with (tmp_path / "out/baselines.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.reader(file))
    assert tuple(table[0]) == NAMES
    assert len(table) == 1 + 3 * SLICES
    assert all(cells[-1] == "" and float(cells[0]) >= 0 for cells in table[1:])


def test_how_each_file_was_read_stands_beside_its_scores(run: Run, tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 4096, (20, 24), np.uint16)
    tags = {"Modality": "DX", "PixelSpacing": [0.2, 0.1], "PatientID": "SECRET"}
    write_dicom(
        tmp_path / "in/a.dcm",
        stored,
        BitsStored=12,
        PhotometricInterpretation="MONOCHROME1",
        RescaleSlope=2,
        RescaleIntercept=-1000,
        WindowCenter=500,
        WindowWidth=1001,
        **tags,
    )
    write_png(tmp_path / "in/b.png", stored)
    windowed = replace(run.pipeline.config, voi_window=True)
    with pytest.warns(UserWarning, match="is DX, but is treated as CT"):
        predict(replace(run, pipeline=Pipeline(windowed)), tmp_path / "in", tmp_path / "out")
    text = (tmp_path / "out/sources.csv").read_text(encoding="utf-8")
    assert text.splitlines() == [
        "path,reader,modality,bits_stored,rescaled,inverted,window_low,window_high,rotated,spacing_mm",
        "a.dcm,dicom,DX,12,yes,yes,-0.5,999.5,no,1 0.2 0.1",
        "b.png,picture,OT,16,no,no,,,no,",
    ]
    predict(run, tmp_path / "in/b.png", tmp_path / "out")
    assert "a.dcm" not in (tmp_path / "out/sources.csv").read_text(encoding="utf-8")


def test_pictures_have_npy_maps_and_file_sizes(run: Run, pictures: Path, tmp_path: Path) -> None:
    predict(run, pictures, tmp_path / "out")
    rows = read_scores(tmp_path / "out/scores.csv")
    assert [row.path for row in rows] == [f"picture {number}.png" for number in range(3)]
    assert {row.label for row in rows} == {"unlabeled"}
    for row in rows:
        anomaly_map = np.load(tmp_path / "out" / row.map)
        assert anomaly_map.shape == (20, 24)
        assert anomaly_map.dtype == np.float32
    with (tmp_path / "out/baselines.csv").open(encoding="utf-8", newline="") as file:
        assert all(row["file_size"] for row in csv.DictReader(file))


@pytest.mark.parametrize("name", ["new\nline.png", "comma, 'quote\".png", "é\udcff.png"])
def test_odd_file_names_come_back_as_they_were(
    run: Run, pictures: Path, tmp_path: Path, name: str
) -> None:
    (pictures / "picture 1.png").rename(pictures / name)
    predict(run, pictures, tmp_path / "out")
    assert name in {row.path for row in read_scores(tmp_path / "out/scores.csv")}
    assert evaluate(tmp_path / "out", resamples=2)["counts"]["unlabeled"] == 3


def test_one_file_and_a_pattern_are_scored_without_labels(
    run: Run, dataset: Path, pictures: Path, tmp_path: Path
) -> None:
    volume = dataset / "test/normal/sub-SECRET0.nii.gz"
    assert predict(run, volume, tmp_path / "one")["counts"]["images"] == SLICES
    found = predict(run, f"{pictures}/picture [12].png", tmp_path / "two")
    assert found["counts"]["files"] == 2
    assert {row.label for row in read_scores(tmp_path / "two/scores.csv")} == {"unlabeled"}


def test_scores_are_those_of_the_run_alone(run: Run, dataset: Path, tmp_path: Path) -> None:
    predict(run, dataset, tmp_path / "out")
    name = "test/abnormal/sub-SECRET9.nii.gz"
    alone = run.predict(dataset / name)
    found = [r.anomaly_score for r in read_scores(tmp_path / "out/scores.csv") if r.path == name]
    assert found == alone.anomaly_score.tolist()


def patients_of(path: Path) -> list[str]:
    return [row.patient for row in read_scores(path / "scores.csv")]


def test_patients_are_hashed_with_a_salt_that_is_nowhere(
    run: Run, dataset: Path, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        predict(run, dataset, tmp_path / name)
    first, second = patients_of(tmp_path / "first"), patients_of(tmp_path / "second")
    assert len(set(first)) == 3
    assert set(first).isdisjoint(second)
    assert [first.index(one) for one in first] == [second.index(one) for one in second]
    predict(run, dataset, tmp_path / "kept", keep_ids=True)
    identifiers = set(patients_of(tmp_path / "kept"))
    assert any("SECRET0" in one for one in identifiers)
    hashed = (tmp_path / "first/scores.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert all(identifiers.isdisjoint(line.split(",")[1:]) for line in hashed)


def test_identifiers_in_dicom_files_reach_no_output(run: Run, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.data import get_testdata_file

    canaries = {
        "PatientName": "CanaryName",
        "PatientID": "CanaryIdentifier",
        "PatientBirthDate": "19010203",
        "InstitutionName": "CanaryHospital",
        "ReferringPhysicianName": "CanaryDoctor",
    }
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    for tag, value in canaries.items():
        setattr(dataset, tag, value)
    (tmp_path / "data").mkdir()
    dataset.save_as(tmp_path / "data/image.dcm")
    predict(run, tmp_path / "data", tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        content = b"" if path.is_dir() else path.read_bytes()
        if path.suffix == ".gz":
            import gzip

            content += gzip.decompress(content)
        for value in canaries.values():
            assert value.encode() not in content, path


def test_overlays_are_drawn_only_when_asked(run: Run, dataset: Path, tmp_path: Path) -> None:
    from PIL import Image

    predict(run, dataset, tmp_path / "plain")
    assert not (tmp_path / "plain/overlays").exists()
    predict(run, dataset, tmp_path / "drawn", overlays=True)
    drawn = sorted((tmp_path / "drawn/overlays").rglob("*.png"))
    assert len(drawn) == 3 * SLICES
    with Image.open(drawn[0]) as picture:
        assert picture.size == (20, 24)
        assert not picture.info


def test_predict_json_tells_where_the_numbers_come_from(
    run: Run, dataset: Path, tmp_path: Path
) -> None:
    about = predict(run, dataset, tmp_path / "out")
    assert json.loads((tmp_path / "out/predict.json").read_text(encoding="utf-8")) == about
    assert about["data"] == {"root": "../dataset", "split": "test", "simulated": None}
    assert about["blocks"] is None
    assert about["run"]["method"] == "brightness"
    assert about["thresholds"] == run.thresholds
    assert about["counts"] == {
        "files": 3,
        "failed_files": 0,
        "empty_files": 0,
        "images": 3 * SLICES,
        "skipped_slices": 0,
    }


def test_empty_slices_are_skipped_and_counted(run: Run, dataset: Path, tmp_path: Path) -> None:
    volume = anatomy(1)
    volume[:, :, 0] = -1000
    write_nifti(dataset / "test/normal/sub-SECRET0.nii.gz", volume, AFFINE)
    about = predict(run, dataset, tmp_path / "out")
    assert about["counts"]["skipped_slices"] == 1
    assert about["counts"]["images"] == 3 * SLICES - 1
    rows = read_scores(tmp_path / "out/scores.csv")
    assert [r.slice for r in rows if "SECRET0" in r.path] == list(range(1, SLICES))
    volume[:] = -1000
    write_nifti(dataset / "test/normal/sub-SECRET1.nii.gz", volume, AFFINE)
    about = predict(run, dataset, tmp_path / "out")
    assert about["counts"] == {
        "files": 3,
        "failed_files": 0,
        "empty_files": 1,
        "images": 2 * SLICES - 1,
        "skipped_slices": 1 + SLICES,
    }


def test_predictions_can_be_evaluated(run: Run, dataset: Path, tmp_path: Path) -> None:
    predict(run, dataset, tmp_path / "out")
    metrics = evaluate(tmp_path / "out", resamples=20)
    assert metrics["image"]["auroc"]["value"] == 1.0
    assert metrics["pixel"]["aupro"]["value"] == pytest.approx(1.0)
    assert metrics["counts"]["lesion_pixels"] == 1
    assert metrics["counts"]["pixels"] == 3 * SLICES * 20 * 24
    assert metrics["maps"]["normal"] < metrics["maps"]["abnormal"]


def test_a_saved_run_scores_pictures_with_masks(tmp_path: Path) -> None:
    from PIL import Image

    def save(name: str, pixels: np.ndarray) -> None:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "data" / name)

    generator = np.random.default_rng(0)
    normal = generator.integers(20, 60, (14, 40, 30), dtype=np.uint8)
    for number, pixels in enumerate(normal):
        split = "train" if number < 10 else "test"
        save(f"{split}/normal/{number}.png", pixels)
    for number in range(2):
        mask = np.zeros((40, 30), dtype=np.uint8)
        mask[10:20, 10:16] = 255
        save(f"test/abnormal/ill{number}.png", np.maximum(normal[number], mask))
        save(f"test/masks/ill{number}.png", mask)
    fit(
        "autoencoder",
        tmp_path / "data",
        tmp_path / "run",
        image_size=32,
        width=4,
        max_steps=2,
        device="cpu",
        preprocess={"percentiles": (0.0, 100.0)},
    )
    predict(tmp_path / "run", tmp_path / "data", tmp_path / "out", device="cpu")
    metrics = evaluate(tmp_path / "out", resamples=20)
    assert metrics["counts"]["images"] == metrics["counts"]["patients"] == 6
    assert metrics["counts"]["lesion_share"] == pytest.approx(2 * 60 / (6 * 1200))
    assert metrics["image"]["auroc"]["value"] is not None
    assert metrics["baselines"]["file_size"]["auroc"]["value"] is not None
    run = load(tmp_path / "run")
    assert metrics["threshold"]["image"]["value"] == run.thresholds["score"]["threshold"]


def test_scores_are_written_with_all_their_digits(run: Run, dataset: Path, tmp_path: Path) -> None:
    predict(run, dataset, tmp_path / "out")
    scores = [row.anomaly_score for row in read_scores(tmp_path / "out/scores.csv")]
    assert all(float(np.float32(score)) == score for score in scores)


def test_a_table_without_p_values_is_refused(run: Run, dataset: Path, tmp_path: Path) -> None:
    predict(run, dataset, tmp_path / "out")
    path = tmp_path / "out/scores.csv"
    lines = [line.rpartition(",")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"scores\.csv: the columns .*p_value expected"):
        evaluate(tmp_path / "out", resamples=2)


@pytest.mark.parametrize("verb", [evaluate, write_report, lambda folder: compare(folder, folder)])
@pytest.mark.parametrize(
    ("version", "words"),
    [
        (1, "version 1, this release reads version 3: .*run medad predict again"),
        (2, "version 2, this release reads version 3: .*run medad predict again"),
        ("gone", "version 1, this release reads version 3: .*run medad predict again"),
        (4, "version 4, this release reads version 3: install a newer medad-fast"),
        (None, r"predict\.json is damaged: None is no format version"),
        (True, r"predict\.json is damaged: True is no format version"),
    ],
)
def test_predictions_of_a_version_that_is_not_read_say_what_to_do(
    run: Run,
    dataset: Path,
    tmp_path: Path,
    version: object,
    words: str,
    verb: Callable[[Path], object],
) -> None:
    about = predict(run, dataset, tmp_path / "out")
    assert about["format_version"] == 3
    about["format_version"] = version
    if version == "gone":
        del about["format_version"]
    (tmp_path / "out/predict.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(InputError, match=words):
        verb(tmp_path / "out")
