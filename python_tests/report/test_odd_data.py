"""Odd names, missing classes, one picture, two hundred pictures: a page all the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from medad_fast import evaluate
from medad_fast.errors import InputError
from medad_fast.verbs.report import write_report
from python_tests.report.dataset import make_pictures, make_results, write_groups
from python_tests.report.html import Page

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
    write_groups(folder, {"<b>scanner": ["<i>A", "<i>B"] * 4 + ["<i>A"]})
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
        assert "were not evaluated" in page.words
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


def test_metrics_of_an_earlier_version_are_refused(tmp_path: Path) -> None:
    folder = make_results(tmp_path / "r", data=tmp_path / "d")
    path = folder / "metrics.json"
    metrics = json.loads(path.read_text())
    del metrics["subgroups"]
    path.write_text(json.dumps(metrics))
    with pytest.raises(InputError, match=r"metrics\.json: subgroups expected.* evaluate .*again"):
        write_report(folder)
