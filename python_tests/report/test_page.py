"""The page: self-contained, honest about its scale, and alive in a real browser."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medad_fast.errors import InputError
from medad_fast.evaluate import evaluate
from medad_fast.report import (
    metrics_table,
    published_rows,
    write_demo_report,
    write_report,
)
from medad_fast.report.choose import select
from medad_fast.report.pictures import _outline
from medad_fast.report.results import read_results
from python_tests.report.study import make_results


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("judged")
    folder = make_results(root / "results/autoencoder", data=root / "data")
    (root / "data/simulation.json").write_text(json.dumps({"about": "All of this is simulated."}))
    write_report(folder)
    return folder


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "img":
            self.pictures.append(found)
        self.links += [value for name, value in attrs if name in ("href", "src") and value]
        if found.get("id"):
            self.ids.add(str(found["id"]))


def text_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_nothing_is_loaded_from_outside(results: Path) -> None:
    page = _Page(text_of(results))
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert "<script" not in text_of(results)
    assert "url(" not in text_of(results)


def test_every_picture_has_a_text_and_every_anchor_a_target(results: Path) -> None:
    page = _Page(text_of(results))
    assert page.pictures
    assert all(picture.get("alt") for picture in page.pictures)
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids


def test_both_classes_and_the_worst_errors_are_shown(results: Path) -> None:
    texts = [str(picture["alt"]) for picture in _Page(text_of(results)).pictures]
    for part in ("Image: ", "Anomaly map: ", "Map over the image: "):
        assert sum(text.startswith(part) and "/normal/" in text for text in texts) >= 4
        assert sum(text.startswith(part) and "/abnormal/" in text for text in texts) >= 4
    worst = text_of(results).split("Worst errors</h2>")[1]
    assert "test/normal/sub-0.nii.gz" in worst.split("False negatives")[0]
    assert "test/abnormal/sub-5.nii.gz" in worst.split("False negatives")[1]


def test_all_maps_share_one_scale(results: Path) -> None:
    """Noise of 0.02 on a scale to 0.8 is dark; stretched to itself it would reach every colour."""
    for picture in _Page(text_of(results)).pictures:
        if not str(picture["alt"]).startswith("Anomaly map"):
            continue
        data = base64.b64decode(str(picture["src"]).partition(",")[2])
        places = np.asarray(Image.open(io.BytesIO(data)))
        if "/normal/" in str(picture["alt"]):
            assert places.max() < 12
        else:
            assert places.max() == 255


def test_it_says_what_it_is(results: Path) -> None:
    text = text_of(results)
    assert "Not for diagnosis" in text
    assert "All of this is simulated." in text
    assert "mean grey level" in text
    assert "file size" not in text.split("</style>")[1]


def test_without_images_there_are_none(results: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(results, tmp_path / "copy")
    write_report(copy, images=False)
    assert not _Page(text_of(copy)).pictures


def test_names_are_text_never_markup(tmp_path: Path) -> None:
    folder = make_results(tmp_path / "r", data=tmp_path / "d", method="<script>alert(1)</script>")
    write_report(folder)
    assert "<script" not in text_of(folder)


def test_one_class_is_reported_not_refused(tmp_path: Path) -> None:
    folder = make_results(tmp_path / "r", data=tmp_path / "d", abnormal=0)
    write_report(folder)
    assert "is undefined:" in text_of(folder)


def test_a_moved_data_set_is_named_and_found(tmp_path: Path) -> None:
    folder = make_results(tmp_path / "r", data=tmp_path / "d")
    (tmp_path / "d").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="--data"):
        write_report(folder)
    write_report(folder, data=tmp_path / "moved")


def test_predictions_that_are_not_judged_are_refused(tmp_path: Path) -> None:
    folder = make_results(tmp_path / "r", data=tmp_path / "d")
    (folder / "metrics.json").unlink()
    with pytest.raises(InputError, match="medad evaluate"):
        write_report(folder)


def test_methods_side_by_side(results: Path, tmp_path: Path) -> None:
    data = read_results(results).root
    other = make_results(tmp_path / "results/other", data=data, method="other")
    page = write_demo_report(tmp_path / "report.html", {"autoencoder": results, "other": other})
    text = page.read_text(encoding="utf-8")
    assert 'href="results/other/report.html"' in text
    assert "Map of other over test/abnormal/" in text


def test_methods_on_other_images_are_not_compared(results: Path, tmp_path: Path) -> None:
    other = make_results(tmp_path / "r", data=tmp_path / "d", normal=3)
    with pytest.raises(InputError, match="other images"):
        write_demo_report(tmp_path / "report.html", {"a": results, "b": other})


def test_the_gallery_shows_each_patient_once_over_the_whole_range(results: Path) -> None:
    rows = read_results(results).rows
    chosen = select(rows)
    assert chosen.normal == sorted(chosen.normal, key=lambda row: -row.anomaly_score)
    assert {row.label for row in chosen.normal} == {"normal"}
    assert len(chosen.all()) == len({(row.path, row.slice) for row in chosen.all()})


def test_an_outline_runs_around_its_pixels() -> None:
    mask = np.zeros((4, 5), dtype=bool)
    mask[1:3, 2:5] = True
    assert set(re.findall(r"M\d+ \d+[hv]\d+", _outline(mask))) == {
        "M2 1h3",
        "M2 3h3",
        "M2 1v2",
        "M5 1v2",
    }


def browse(page: Path, profile: Path) -> tuple[str, str]:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        if os.environ.get("MEDAD_REQUIRE_BROWSER"):
            pytest.fail("MEDAD_REQUIRE_BROWSER is set and chromium is not installed")
        pytest.skip("chromium is not installed")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--enable-logging=stderr",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={profile}",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


PROBE = """
<script>
addEventListener("load", () => {
  const all = [...document.images];
  document.body.dataset.pictures = all.length;
  document.body.dataset.broken = all.filter(i => !i.complete || !i.naturalWidth).length;
  document.body.dataset.loaded = performance.getEntriesByType("resource")
    .filter(r => !r.name.startsWith("data:")).length;
});
</script>
</body>
"""


def test_a_browser_shows_every_picture_and_asks_for_nothing(results: Path, tmp_path: Path) -> None:
    """The probe that counts the pictures needs a script, which the page itself forbids."""
    text = text_of(results)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert policy in text
    probed = tmp_path / "probed.html"
    allowed = text.replace(policy, policy + "; script-src 'unsafe-inline'")
    probed.write_text(allowed.replace("</body>", PROBE), encoding="utf-8")
    dom, log = browse(probed, tmp_path / "profile")
    assert 'data-broken="0"' in dom
    assert 'data-loaded="0"' in dom
    count = re.search(r'data-pictures="(\d+)"', dom)
    assert count is not None
    assert int(count[1]) == len(_Page(text).pictures)
    assert "CONSOLE" not in log


def test_a_browser_has_nothing_to_complain_about(results: Path, tmp_path: Path) -> None:
    _, log = browse(results / "report.html", tmp_path / "profile")
    assert "CONSOLE" not in log


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
    assert (
        metrics_table(metrics).row_count
        == metrics_table({**metrics, "published": None}).row_count + 2
    )
