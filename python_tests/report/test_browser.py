"""The page in a real browser: by keyboard, in light and dark, on narrow screens and on paper."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from medad_fast import evaluate
from medad_fast.verbs.report import write_demo_report, write_report
from python_tests.cli.tiny_demo import tiny_demo
from python_tests.report.browser import Browser, browser
from python_tests.report.dataset import make_pictures, make_results, write_groups

SHOWN = ".slice:not([hidden]) .view:not(.plain)"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("judged")
    folder = make_results(root / "results/a", data=root / "data", unlabeled=2, judged=False)
    columns = {"sex": ["F", "M"] * 5 + ["F"], "age": [str(20 + 6 * n) for n in range(11)]}
    write_groups(folder, columns)
    evaluate(folder, resamples=20)
    write_report(folder)
    return folder / "report.html"


@pytest.fixture(scope="module")
def side_by_side(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("side_by_side")
    names = ("one", "two")
    folders = {
        name: make_results(root / "results" / name, data=root / "data", method=name)
        for name in names
    }
    for folder in folders.values():
        write_report(folder)
    return write_demo_report(root / "report.html", folders)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "demo"
    assert tiny_demo(out) == 0
    return out / "report.html"


@pytest.fixture(params=["dataset", "side_by_side", "demo"])
def page(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_picture_shows_nothing_is_asked_for_nothing_is_wrong(
    chromium: Browser, page: Path, scheme: str
) -> None:
    chromium.show_as(scheme)
    chromium.open(page)
    pictures = chromium.run("document.images.length")
    assert pictures == page.read_text().count("<img ") + chromium.run(
        "document.querySelectorAll('.plain img').length"
    )
    assert pictures > 30
    broken = "[...document.images].filter((each) => !each.complete || !each.naturalWidth).length"
    assert chromium.run(broken) == 0
    for part in ("image", "layer"):
        box = f"document.querySelector('{SHOWN} .{part}').getBoundingClientRect()"
        assert min(chromium.run(f"[{box}.width, {box}.height]")) > 100
    assert chromium.requests() == [page.as_uri()]
    assert chromium.complaints() == []


def test_a_page_that_asks_and_complains_is_noticed(chromium: Browser, tmp_path: Path) -> None:
    """The two checks above can fail."""
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://example.org/x.png'><script>console.log(nothing)</script>")
    chromium.open(bad)
    assert chromium.requests() == [bad.as_uri(), "http://example.org/x.png"]
    assert chromium.complaints()


def shown(chromium: Browser, part: str) -> list[float]:
    """How opaque the first picture and its map are, as the browser draws them."""
    script = f"""['image', 'layer'].map((name) => Number(getComputedStyle(
        document.querySelector("{part} {SHOWN} ." + name)).opacity))"""
    found: list[float] = chromium.run(script)
    return found


def test_the_slider_moves_by_keyboard_from_image_to_map(chromium: Browser, page: Path) -> None:
    chromium.show_as("light")
    chromium.open(page)
    first = "figure.case"
    chromium.run(f"document.querySelector('{first} .view-slider').focus()")
    value = f"document.querySelector('{first} .view-slider').value"
    text = f"document.querySelector('{first} .view-slider').ariaValueText"
    said = f"document.querySelector('{first} .view-text').textContent"
    assert (chromium.run(value), chromium.run(text)) == ("50", "overlay")
    assert shown(chromium, first) == [1, 1]
    before = chromium.screenshot()
    chromium.press("ArrowLeft", 5)
    assert (chromium.run(value), chromium.run(text)) == ("0", "image")
    assert chromium.run(said) == "image"
    assert shown(chromium, first) == [1, 0]
    assert chromium.screenshot() != before
    chromium.press("ArrowRight", 2)
    assert chromium.run(text) == "image, map at 40 %"
    assert shown(chromium, first) == pytest.approx([1, 0.4])
    chromium.press("End")
    assert (chromium.run(value), chromium.run(text)) == ("100", "map")
    assert shown(chromium, first) == [0, 1]
    others = chromium.run(
        "[...document.querySelectorAll('.view-slider')].map((each) => each.value)"
    )
    assert set(others[1:]) == {"50"}


def test_slices_are_browsed_by_keyboard(chromium: Browser, page: Path) -> None:
    chromium.open(page)
    figure = "document.querySelector('figure.case')"
    state = f"""(() => {{ const found = [...{figure}.querySelectorAll('.slice')];
        const open = found.filter((each) => !each.hidden);
        return [found.length, open.length, found.indexOf(open[0]), open[0].dataset.text,
                {figure}.querySelector('.slice-text').textContent,
                {figure}.querySelector('.slice-slider').ariaValueText,
                open[0].querySelector('img').src]; }})()"""
    chromium.run(f"{figure}.querySelector('.slice-slider').focus()")
    chromium.press("Home")
    pictures = set()
    for place in range(3):
        total, visible, number, text, caption, spoken, picture = chromium.run(state)
        assert (total, visible, number) == (3, 1, place)
        assert text == caption == spoken
        assert text.startswith(f"Slice {place + 1} of 3: ")
        pictures.add(picture)
        chromium.press("ArrowRight")
    assert len(pictures) == 3
    chromium.press("ArrowDown")
    assert chromium.run(state)[2] == 1


def test_all_pictures_and_outlines_are_switched_by_keyboard(chromium: Browser, page: Path) -> None:
    chromium.open(page)
    chromium.run("document.getElementById('all-views').focus()")
    chromium.press("Home")
    values = chromium.run(
        "[...document.querySelectorAll('.view-slider')].map((each) => each.value)"
    )
    assert set(values) == {"0"}
    outline = "getComputedStyle(document.querySelector('.view:not(.plain) svg')).display"
    assert chromium.run(outline) != "none"
    chromium.run("document.getElementById('outlines').focus()")
    chromium.press(" ")
    assert chromium.run(outline) == "none"


def test_everything_is_reached_by_tab_with_a_visible_focus(chromium: Browser, page: Path) -> None:
    chromium.open(page)
    count = chromium.run("document.querySelectorAll('a[href], input, [tabindex=\"0\"]').length")
    chromium.press("Tab")
    assert chromium.run("document.activeElement.className") == "skip"
    assert chromium.run("document.activeElement.getBoundingClientRect().left") >= 0
    seen = 1
    for _ in range(count - 1):
        chromium.press("Tab")
        outline = "(({outlineStyle, outlineWidth}) => [outlineStyle, parseFloat(outlineWidth)])"
        style, width = chromium.run(f"{outline}(getComputedStyle(document.activeElement))")
        assert style not in ("none", "hidden")
        assert width >= 2
        seen += chromium.run("document.activeElement !== document.body")
    assert seen == count
    chromium.run("document.querySelector('.skip').focus()")
    chromium.press("Enter")
    assert chromium.run("location.hash") == "#content"


CONTRASTS = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((each) => each / 255).map((each) =>
    each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
    .reduce((sum, each, place) => sum + each * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = parse(getComputedStyle(each).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = {};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
    if (["SCRIPT", "STYLE"].includes(element.tagName) || element.closest(".panel-name")) continue;
    const style = getComputedStyle(element);
    const colour = element.closest("svg") ? style.fill : style.color;
    const [a, b] = [light(parse(colour)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const name = `${element.tagName}.${element.getAttribute("class") || ""} ${colour}`;
    found[name] = Math.min(found[name] || 99, ratio);
  }
  return found;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_words_are_readable(chromium: Browser, page: Path, scheme: str) -> None:
    chromium.show_as(scheme)
    chromium.open(page)
    dark = chromium.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    assert dark == (scheme == "dark")
    ratios = chromium.run(CONTRASTS)
    assert len(ratios) > 8
    assert {name: ratio for name, ratio in ratios.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("width", [320, 420, 1280])
def test_the_page_never_scrolls_sideways(chromium: Browser, page: Path, width: int) -> None:
    chromium.show_as("light", width)
    chromium.open(page)
    assert chromium.run("document.documentElement.scrollWidth") <= width
    parts = "[...document.querySelectorAll('p, h1, h2, h3, figure, dl, input, figcaption')]"
    over = f"{parts}.filter((each) => each.getBoundingClientRect().right > {width}).length"
    assert chromium.run(over) == 0


def test_on_paper_the_image_stands_beside_the_overlay(chromium: Browser, dataset: Path) -> None:
    chromium.show_as("light", 700)
    chromium.open(dataset)
    chromium.run("document.getElementById('all-views').focus()")
    chromium.press("Home")
    chromium.send("Emulation.setEmulatedMedia", media="print")
    found = chromium.run("""[...document.querySelectorAll('figure.case')].map((figure) => {
      const slice = [...figure.querySelectorAll('.slice')].filter((each) =>
        each.getBoundingClientRect().width);
      const [plain, overlay] = slice[0].querySelectorAll('.view');
      const [left, right] = [plain, overlay].map((each) => each.getBoundingClientRect());
      return [slice.length, left.right <= right.left, left.width > 50, right.width > 50,
        plain.querySelectorAll('.layer').length,
        getComputedStyle(overlay.querySelector('.layer')).opacity,
        getComputedStyle(figure.querySelector('.controls')).display]; })""")
    chromium.send("Emulation.setEmulatedMedia", media="")
    assert len(found) == 11
    assert all(each == [1, True, True, True, 0, "1", "none"] for each in found)


def test_it_prints(chromium: Browser, dataset: Path) -> None:
    chromium.open(dataset)
    pdf = chromium.print()
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 3
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
    assert sum(len(_inflated(stream)) for stream in streams) > 100_000
    assert pdf.count(b"/Subtype /Image") > 11  # an image of each file, and the maps that differ


def _inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


def test_without_pictures_or_labels_it_opens_as_well(chromium: Browser, tmp_path: Path) -> None:
    folder = make_pictures(
        tmp_path / "r", data=tmp_path / "d", count=3, side=20, labels=("unlabeled",), judged=False
    )
    for images in (True, False):
        chromium.open(write_report(folder, images=images))
        assert chromium.complaints() == []
        assert chromium.run("document.images.length") == (10 if images else 0)
