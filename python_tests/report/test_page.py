"""What stands on the page: self-contained, de-identified, honest about scale and errors."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medad_fast.errors import InputError
from medad_fast.evaluate import evaluate
from medad_fast.overlay import colour_map
from medad_fast.report import metrics_table, published_rows, write_demo_report, write_report
from medad_fast.report.pictures import STEPS
from medad_fast.report.results import read_results
from python_tests.report.study import make_pictures, make_results, write_manifest


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("judged")
    folder = make_results(root / "results/autoencoder", data=root / "data")
    (root / "data/simulation.json").write_text(json.dumps({"about": "All of this is simulated."}))
    write_report(folder)
    return folder


class Page(HTMLParser):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.text = (folder / "report.html").read_text(encoding="utf-8")
        self.pictures: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.words = ""
        self._silent = False
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self._silent = tag in ("style", "script")
        if tag == "img":
            self.pictures.append(found)
        self.links += [value for name, value in attrs if name in ("href", "src") and value]
        if found.get("id"):
            self.ids.append(str(found["id"]))

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words += f" {' '.join(data.split())}"

    def part(self, heading: str) -> str:
        """The markup from one heading to the next of the same or a higher level."""
        level, rest = re.split(rf"<h(?=[23][^>]*>{heading}<)", self.text)[1].split(">", 1)
        return re.split(rf"<h[2-{level[0]}][ >]", rest)[0]


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
    assert sorted(found) == sorted({row.path for row in read_results(results).rows})


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
        found = read_results(results).metrics["oracle"][level]["dice"]["value"]  # type: ignore[index]
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


ODD = (
    "test/<img src=x onerror=alert(1)>.png",
    "test/\"quoted\" & 'single'.png",
    "test/{{ 7 * 7 }}.png",
    "test/\u202egnp.exe.png",
    "test/new\nline\x1b.png",
    "test/b\udce9.png",
    "test/&amp;lt;.png",
    "test/größe 数.png",
)


def test_names_are_text_never_markup(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "r", data=tmp_path / "d", count=8, side=16, names=ODD)
    write_report(folder)
    page = Page(folder)
    assert set(page.tags) & {"img"} == {"img"}
    assert all(str(picture["src"]).startswith("data:") for picture in page.pictures)
    assert "onerror" not in {name for picture in page.pictures for name in picture}
    assert "{{ 7 * 7 }}" in page.text
    assert "\x1b" not in page.text
    for name in (ODD[0], ODD[1], ODD[6]):
        assert f"Image: {name}" in {picture["alt"] for picture in page.pictures}
    assert re.findall(r"<bdi>test/\u202egnp.exe.png</bdi>", page.text)


def test_a_method_and_a_manifest_are_text_too(tmp_path: Path) -> None:
    folder = make_results(
        tmp_path / "r", data=tmp_path / "d", method="<script>x</script>", judged=False
    )
    write_manifest(folder, tmp_path / "d", {"<b>scanner": ["<i>A", "<i>B"] * 4 + ["<i>A"]})
    evaluate(folder, resamples=5)
    write_report(folder, images=False)
    page = Page(folder)
    assert page.tags.count("script") == 1
    assert not {"b", "i"} & set(page.tags)
    assert "<b>scanner" in page.words


def numbers_are_told(page: Page) -> None:
    """Words and drawings hold no number that is none."""
    markup = re.sub(r"<(style|script)>.*?</\1>|data:[^\"]*", "", page.text, flags=re.DOTALL)
    assert not re.search(r"\b([nN]a[nN]|-?inf|Infinity|None)\b", markup)


@pytest.mark.parametrize(
    ("normal", "abnormal", "unlabeled"),
    [(5, 0, 0), (0, 4, 0), (0, 0, 5), (1, 0, 0), (0, 0, 1), (1, 1, 0), (3, 2, 2)],
)
@pytest.mark.parametrize("judged", [True, False])
def test_missing_classes_are_reported_not_refused(
    tmp_path: Path, normal: int, abnormal: int, unlabeled: int, judged: bool
) -> None:
    folder = make_results(
        tmp_path / "r",
        data=tmp_path / "d",
        normal=normal,
        abnormal=abnormal,
        unlabeled=unlabeled,
        judged=judged,
    )
    write_report(folder)
    page = Page(folder)
    numbers_are_told(page)
    both = normal and abnormal
    assert ("ROC curve" in page.text) == bool(both and judged)
    if judged and not both:
        assert "is undefined" in page.words
    if not judged:
        assert "were not judged" in page.words
    assert len(re.findall(r"<bdi>", page.text)) == normal + abnormal + unlabeled


def test_without_masks_there_are_maps_and_a_reason(tmp_path: Path) -> None:
    folder = make_results(tmp_path / "r", data=tmp_path / "d", masks=False)
    write_report(folder)
    page = Page(folder)
    numbers_are_told(page)
    assert "no abnormal image has a mask" in page.words
    assert page.pictures


def test_one_picture_is_enough(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "r", data=tmp_path / "d", count=1, side=9)
    write_report(folder)
    numbers_are_told(Page(folder))
    assert "1 image of 1 patient:" in Page(folder).words


def test_two_hundred_of_the_hardest_pictures_fit(tmp_path: Path) -> None:
    folder = make_pictures(
        tmp_path / "r", data=tmp_path / "d", count=200, side=200, suffix=".jpg", judged=False
    )
    page = write_report(folder)
    assert 5e6 < page.stat().st_size < 15e6
    assert len(re.findall("<bdi>", Page(folder).text)) == 200


def test_pictures_that_are_left_out_are_counted(tmp_path: Path) -> None:
    folder = make_results(tmp_path / "r", data=tmp_path / "d")
    write_report(folder, pictures=4)
    page = Page(folder)
    assert "5 of 9 files were left out" in page.words
    assert "--pictures" in page.words
    assert len(re.findall(r"<bdi>", page.text)) == 4
    assert "left out, evenly" not in Page(write_report(folder).parent).words
    with pytest.raises(InputError, match="pictures"):
        write_report(folder, pictures=0)


def test_slices_that_do_not_fit_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_results(tmp_path / "r", data=tmp_path / "d")
    whole = write_report(folder).stat().st_size
    monkeypatch.setattr("medad_fast.report.gallery.LARGEST_PAGE", 9_000)
    assert write_report(folder).stat().st_size < whole
    assert "of 3 scored slices are shown" in Page(folder).words
    assert "Not everything is shown." in Page(folder).words


def test_a_moved_data_set_is_named_and_found(tmp_path: Path) -> None:
    folder = make_results(tmp_path / "r", data=tmp_path / "d")
    (tmp_path / "d").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="--data"):
        write_report(folder)
    write_report(folder, data=tmp_path / "moved")


@pytest.mark.parametrize(
    ("name", "content"), [("sources.csv", "path,reader\na,b\n"), ("errors.jsonl", "no json\n")]
)
def test_a_damaged_table_is_named(tmp_path: Path, name: str, content: str) -> None:
    folder = make_results(tmp_path / "r", data=tmp_path / "d", judged=False)
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=name):
        write_report(folder)


def test_methods_side_by_side(results: Path, tmp_path: Path) -> None:
    data = read_results(results).root
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
