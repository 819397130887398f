"""What stands on the page: self-contained, de-identified, honest about scale and errors."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medad_fast import evaluate
from medad_fast.artifacts.overlay import colour_map
from medad_fast.artifacts.predictions import Predictions
from medad_fast.data.formats.nifti import write_nifti
from medad_fast.errors import InputError
from medad_fast.report.pictures import STEPS
from medad_fast.report.table import metrics_table, published_rows
from medad_fast.verbs.report import write_demo_report, write_report
from python_tests.report.dataset import make_results
from python_tests.report.html import Page


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("judged")
    folder = make_results(root / "results/autoencoder", data=root / "data")
    write_report(folder)
    return folder


def test_nothing_is_loaded_from_outside_and_one_known_script_runs(results: Path) -> None:
    page = Page(results)
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert "url(" not in page.text
    assert "@import" not in page.text
    assert page.tags.count("script") == 1
    assert re.search(r"default-src 'none'[^\"]*script-src 'sha256-[^']+'", page.text)


def test_the_parts_of_the_page_are_installed_with_the_package() -> None:
    folder = resources.files("medad_fast.report").joinpath("templates")
    names = {each.name for each in folder.iterdir()}
    assert {"page.html.j2", "style.css", "viewer.css", "behaviour.js"} <= names


def test_every_picture_has_a_text_and_every_anchor_a_target(results: Path) -> None:
    page = Page(results)
    assert page.pictures
    assert all(picture.get("alt") for picture in page.pictures)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_headings_come_in_order(results: Path) -> None:
    levels = [int(tag[1]) for tag in Page(results).tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))


def test_the_reading_list_holds_the_worst_errors_first(results: Path) -> None:
    page = Page(results)
    assert re.findall(r"<bdi>(.*?)</bdi>", page.part("False positives")) == [
        "test/normal/sub-0.nii.gz"
    ]
    assert re.findall(r"<bdi>(.*?)</bdi>", page.part("False negatives")) == [
        "test/abnormal/sub-5.nii.gz"
    ]
    shown_first = [
        re.findall(r'data-text="Slice (\d)[^"]*">', page.part(part))
        and re.search(r'data-text="Slice (\d)[^"]*">', page.part(part))[1]  # type: ignore[index]
        for part in ("False positives", "False negatives")
    ]
    assert shown_first == ["3", "1"]  # the highest and the lowest of their scores


def test_every_file_is_shown_once(results: Path) -> None:
    found = re.findall(r"<bdi>(.*?)</bdi>", Page(results).text)
    assert sorted(found) == sorted({row.path for row in Predictions.read(results).rows})


def decoded(picture: dict[str, str | None]) -> np.ndarray:
    data = base64.b64decode(str(picture["src"]).partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)))


def test_all_maps_share_one_scale_and_show_its_colours(results: Path) -> None:
    """Noise of 0.02 on a scale to 0.8 is dark; stretched to itself it would reach every colour."""
    layers = [each for each in Page(results).pictures if str(each["alt"]).startswith("Anomaly map")]
    assert layers
    colours = colour_map()[np.linspace(0, 255, STEPS).round().astype(int)].astype(int)
    for layer in layers:
        pixels = decoded(layer).astype(int)
        over_black = (pixels[..., :3] * pixels[..., 3:] / 255).reshape(-1, 3)
        distance = np.abs(over_black[:, None] - colours[None]).max(axis=2)
        assert distance.min(axis=1).max() <= 1
        places = distance.argmin(axis=1)
        assert (places.max() == STEPS - 1) == ("/abnormal/" in str(layer["alt"]))
        if "/normal/" in str(layer["alt"]):
            assert places.max() <= 1


def test_it_says_what_it_is(results: Path) -> None:
    words = Page(results).words
    for part in (
        "Not for diagnosis",
        "All of this is simulated.",
        "mean grey level",
        "31 normal validation images",
        "All maps share one scale",
        "nifti",
        "rescaled",
    ):
        assert part in words
    assert "file size" not in words


def test_what_was_tuned_on_the_test_set_is_called_oracle(results: Path) -> None:
    page = Page(results)
    oracle = page.part("Oracle")
    for level in ("image", "pixel"):
        found = Predictions.read(results).metrics["oracle"][level]["dice"]["value"]  # type: ignore[index]
        assert f"{found:.3f}" in oracle
    assert oracle.count('class="tag oracle"') >= 2
    assert "Best Dice" not in page.text.replace(oracle, "")
    assert "TPR 95" not in page.text.replace(oracle, "")


def test_places_on_the_disk_stay_private_unless_identifiers_are_kept(
    results: Path, tmp_path: Path
) -> None:
    text = Page(results).text
    assert "/secret/place" not in text
    assert str(results.parents[1]) not in text
    copy = shutil.copytree(results, tmp_path / "copy")
    about = json.loads((copy / "predict.json").read_text())
    (copy / "predict.json").write_text(json.dumps({**about, "patient_ids": "kept"}))
    write_report(copy)
    assert "/secret/place" in Page(copy).text


def test_files_that_failed_are_listed_without_the_place_of_the_data(tmp_path: Path) -> None:
    folder = make_results(tmp_path / "r", data=tmp_path / "d")
    reason = f"{(tmp_path / 'd').resolve()}/test/x.dcm: has <no> pixels"
    line = {"file": "test/x.dcm", "class": "InputError", "reason": reason}
    (folder / "errors.jsonl").write_text(json.dumps(line) + "\n")
    write_report(folder, images=False)
    page = Page(folder)
    assert "test/x.dcm: has &lt;no&gt; pixels" in page.part("Files that could not be used")
    assert str(tmp_path) not in page.text


def test_without_images_there_are_none(results: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(results, tmp_path / "copy")
    write_report(copy, images=False)
    assert not Page(copy).pictures
    assert "without pictures" in Page(copy).words


def test_a_moved_data_set_leaves_a_page_without_pictures(tmp_path: Path) -> None:
    folder = make_results(tmp_path / "r", data=tmp_path / "d")
    whole = write_report(folder).read_text(encoding="utf-8")
    (tmp_path / "d").rename(tmp_path / "moved")
    with pytest.warns(UserWarning, match=rf"no image of .*below {tmp_path}/d, .*--data"):
        write_report(folder)
    page = Page(folder)
    assert not page.pictures
    assert "No pictures: the images are not where they were" in " ".join(page.words.split())
    assert "medad report RESULTS --data FOLDER" in page.words
    assert "ROC curve" in page.text
    assert str(tmp_path) not in page.text
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert write_report(folder, data=tmp_path / "moved").read_text(encoding="utf-8") == whole
    about = json.loads((folder / "predict.json").read_text())
    (folder / "predict.json").write_text(json.dumps({**about, "patient_ids": "kept"}))
    with pytest.warns(UserWarning, match="no image"):
        write_report(folder)
    assert f"<code>{tmp_path}/d</code>" in Page(folder).text


def test_an_image_that_cannot_be_shown_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    folder = make_results(tmp_path / "r", data=tmp_path / "d")
    whole = len(Page(write_report(folder).parent).pictures)
    (tmp_path / "d/test/normal/sub-0.nii.gz").unlink()
    (tmp_path / "d/test/normal/sub-1.nii.gz").write_bytes(b"no volume")
    write_nifti(tmp_path / "d/test/normal/sub-2.nii.gz", np.zeros((4, 5, 3)), np.eye(4))
    with pytest.warns(UserWarning, match="3 images cannot be shown: test/normal/sub-0.* missing"):
        write_report(folder)
    page = Page(folder)
    assert "3 images cannot be shown:" in page.words
    told = re.findall(r"<li><bdi>(.*?)</bdi></li>", page.text)
    assert told[0] == "test/normal/sub-0.nii.gz: is missing"
    assert told[1].startswith("test/normal/sub-1.nii.gz: is not a")
    assert told[2] == "test/normal/sub-2.nii.gz: has 3 x 5 x 4 pixels, but its map has 3 x 24 x 24"
    assert len(page.pictures) == whole - 3 * 6
    assert "left out" not in page.words.partition("Reading list")[2].partition("Provenance")[0]
    assert str(tmp_path) not in page.text


def test_methods_side_by_side_say_when_the_images_are_gone(tmp_path: Path) -> None:
    folder = make_results(tmp_path / "r", data=tmp_path / "d")
    (tmp_path / "d").rename(tmp_path / "moved")
    with pytest.warns(UserWarning, match="no image"):
        page = write_demo_report(tmp_path / "report.html", {"a": folder})
    assert "No pictures:" in page.read_text(encoding="utf-8")
    write_demo_report(page, {"a": folder}, data=tmp_path / "moved")
    assert "No pictures:" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["maps", "masks"])
def test_a_missing_map_or_mask_is_an_error(tmp_path: Path, name: str) -> None:
    folder = make_results(tmp_path / "r", data=tmp_path / "d")
    (folder / name / "test/abnormal/sub-6.nii.gz").unlink()
    with pytest.raises(InputError, match=rf"{name}/test/abnormal/sub-6"):
        write_report(folder)


@pytest.mark.parametrize(
    ("name", "content"), [("sources.csv", "path,reader\na,b\n"), ("errors.jsonl", "no json\n")]
)
def test_a_damaged_table_is_named(tmp_path: Path, name: str, content: str) -> None:
    folder = make_results(tmp_path / "r", data=tmp_path / "d", judged=False)
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=name):
        write_report(folder)


def test_methods_side_by_side(results: Path, tmp_path: Path) -> None:
    data = Predictions.read(results).root()
    other = make_results(tmp_path / "results/other", data=data, method="other")
    page = write_demo_report(tmp_path / "report.html", {"autoencoder": results, "other": other})
    text = page.read_text(encoding="utf-8")
    assert 'href="results/other/report.html"' in text
    assert "Anomaly map of other: test/abnormal/" in text
    assert "slice-slider" in text.split("<main")[1]


def test_methods_on_other_images_are_not_compared(results: Path, tmp_path: Path) -> None:
    other = make_results(tmp_path / "r", data=tmp_path / "d", normal=3)
    with pytest.raises(InputError, match="other images"):
        write_demo_report(tmp_path / "report.html", {"a": results, "b": other})


def test_side_by_side_wants_judged_predictions(tmp_path: Path) -> None:
    folder = make_results(tmp_path / "r", data=tmp_path / "d", judged=False)
    with pytest.raises(InputError, match="medad evaluate"):
        write_demo_report(tmp_path / "report.html", {"a": folder})


def test_published_figures_stand_beside_the_own_ones(tmp_path: Path) -> None:
    folder = make_results(tmp_path / "r", data=tmp_path / "d")
    plain = write_report(folder, images=False).read_text(encoding="utf-8")
    assert "Published" not in plain
    about = json.loads((folder / "predict.json").read_text())
    figure = {
        "method": "autoencoder",
        "of": "error of <one> net",
        "source": "Table 1",
        "known": "second hand",
        "auroc": 0.669,
        "average_precision": None,
        "plus_minus": 0.005,
        "note": "",
    }
    about["published"] = {"recipe": "mine", "changed": ["epochs"], "figures": [figure]}
    (folder / "predict.json").write_text(json.dumps(about))
    metrics = evaluate(folder, resamples=5)
    text = write_report(folder, images=False).read_text(encoding="utf-8")
    for words in ("recipe mine", "error of &lt;one&gt; net", "0.669 +- 0.005", "departs", "epochs"):
        assert words in text
    assert published_rows(metrics) == [
        {
            "of": "error of <one> net",
            "auroc": "0.669 +- 0.005",
            "average_precision": "",
            "source": "Table 1 (second hand)",
        }
    ]
    without = {**metrics, "published": None}
    assert metrics_table(metrics).row_count == metrics_table(without).row_count + 2
