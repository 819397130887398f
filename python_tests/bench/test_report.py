"""The page and its pictures: what stands in the records, all of it, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.chart import Bar, Group, bar_chart
from bench.harness.record import save
from bench.report import RESULTS, main, newest, report
from bench.targets import TARGETS
from python_tests.bench.records import record

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return ["".join(each.itertext()) for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def bars(svg: str, kind: str) -> list[tuple[float, float]]:
    """Left and right end of each bar of a kind."""
    return [
        (float(each.attrib["x"]), float(each.attrib["x"]) + float(each.attrib["width"]))
        for each in ElementTree.fromstring(svg).iter(f"{SVG}rect")
        if each.attrib.get("class") == kind
    ]


def test_a_bar_goes_from_one_to_its_ratio_on_a_log_axis() -> None:
    values = [Bar("a", 10.0, 9.9, 10.1), Bar("b", 100.0, 99.0, 101.0), Bar("c", 0.5, 0.49, 0.51)]
    svg = bar_chart("title", "subtitle", [Group("ssim", values)])
    (ten, hundred), (half,) = bars(svg, "faster"), bars(svg, "slower")
    assert ten[0] == hundred[0] == pytest.approx(half[1], abs=0.2)
    assert (hundred[1] - hundred[0]) / (ten[1] - ten[0]) == pytest.approx(2, abs=0.01)
    assert (half[1] - half[0]) / (ten[1] - ten[0]) == pytest.approx(0.30103, abs=0.002)
    assert {"10x", "9.9 to 10.1", "100x", "0.5x", "0.49 to 0.51"} <= set(texts(svg))


def test_everything_lies_inside_the_picture() -> None:
    values = [Bar("a", 2e4, 1e4, 3e4, target=1e5), Bar("b", 0.01, 0.009, 0.02)]
    root = ElementTree.fromstring(bar_chart("t", "s", [Group("g", values)]))
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    for each in root.iter():
        for name, limit in (("x", width), ("x1", width), ("x2", width), ("y", height)):
            assert 0 <= float(each.attrib.get(name, 0)) <= limit


def test_a_target_a_miss_and_a_refusal_are_shown() -> None:
    values = [
        Bar("met", 4.0, 3.9, 4.1, target=3.0),
        Bar("short", 2.0, 1.9, 2.1, target=3.0, missed=True),
        Bar("shaky", 9.0, 1.0, 20.0, target=3.0, refused=True),
    ]
    svg = bar_chart("t", "s", [Group("g", values)])
    assert texts(svg).count("missed") == 1
    assert texts(svg).count("refused") == 1
    assert "9x" not in texts(svg)
    assert len(bars(svg, "refused")) == 1
    places = {
        each.attrib["x1"]
        for each in ElementTree.fromstring(svg).iter(f"{SVG}line")
        if each.attrib["class"] == "target"
    }
    assert len(places) == 1


def test_names_are_text_not_markup() -> None:
    svg = bar_chart("a < b & c", "s", [Group("<g>", [Bar("<b>", 2.0, 2.0, 2.0)])])
    assert {"a < b & c", "<g>", "<b>"} <= set(texts(svg))


def test_light_and_dark_and_words_for_those_who_do_not_see_it() -> None:
    svg = bar_chart("t", "s", [Group("ssim", [Bar("eager", 2.0, 2.0, 2.0)])])
    assert "prefers-color-scheme: dark" in svg
    root = ElementTree.fromstring(svg)
    assert root.findtext(f"{SVG}title") == "t"
    assert root.findtext(f"{SVG}desc") == "ssim, eager: 2x."
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")  # loads nothing


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "a-processor-2cpu-2026-11-21.jsonl"
    save(
        path,
        [
            record("patch_nce_loss", "16x256x256 query", "fused"),
            record("patch_nce_loss", "16x256x256 query", "cut eager", ratio=1.876),
            record("patch_nce_loss", "16x256x256 both", "fused"),
            record("patch_nce_loss", "16x256x256 both", "lean eager", ratio=1.1),
            record("patch_discrepancy", "encoder", "fused"),
            record(
                "patch_discrepancy",
                "encoder",
                "eager",
                ratio=7.654,
                refused="spread 0.30",
                ratio_refused="spread 0.30",
                min_ms=12.345,
            ),
        ],
    )
    return path


def test_the_page_says_what_the_records_say(results: Path) -> None:
    made = report([results])
    page = made[""]
    assert "| 1.88x | 1.84 to 1.91 | 1.7x by the low end | met |" in page
    assert "| 1.1x | 1.08 to 1.12 | 1.15x by the low end | **MISSED** |" in page
    assert (
        f"{len(TARGETS)} targets: 1 met, 1 MISSED, 1 refused, {len(TARGETS) - 3} not measured."
        in page
    )
    assert "200 GF/s multiplying, 30.0 GB/s reading" in page
    for path in re.findall(r"\]\(([^)]+\.svg)\)", page):
        ElementTree.fromstring(made.pop(path))
    assert set(made) == {""}


def test_a_refused_figure_stands_nowhere(results: Path) -> None:
    made = report([results])
    assert made[""].count("refused: spread 0.30") == 2  # among the targets and among all figures
    for text in made.values():
        assert "7.65" not in text
        assert "12.3" not in text


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    """As lines of a file, those of the same thing too."""
    path.write_text("".join(f"{json.dumps(each)}\n" for each in records))
    return path


def test_a_point_with_two_records_shows_both_where_they_differ(tmp_path: Path) -> None:
    def both(first: float, last: float, **changes: Any) -> str:
        rows = []
        for ratio, min_ms in ((first, 2.0), (last, 1.0)):
            rows.append(record("patch_discrepancy", "encoder", "fused", min_ms=min_ms, **changes))
            rows.append(record("patch_discrepancy", "encoder", "eager", ratio=ratio))
        return report([write(tmp_path / "a.jsonl", rows)])[""]

    page = both(11.2, 20.1)
    assert "| `patch_discrepancy` encoder | eager | 11.2x | 20.1x | 2 | 1 |" in page
    assert "| `patch_discrepancy` encoder | eager | 20.1x |" in page  # among the targets: the last
    assert "`patch_discrepancy` encoder against eager **MISSED** its target (11.2x)." in page
    assert "### Measured again" not in both(20.1, 22.0)
    assert "| eager | 11.2x | 20.1x |  |  |" in both(11.2, 20.1, refused="spread 0.30")


def test_an_op_whose_points_lie_apart_has_one_section(tmp_path: Path) -> None:
    rows = [
        record(op, point, name, ratio=ratio)
        for op, point in (("ssim", "tiny"), ("lung_mask", "tiny"), ("ssim", "large"))
        for name, ratio in (("fused", None), ("eager", 2.0))
    ]
    made = report([write(tmp_path / "a.jsonl", rows)])
    assert re.findall(r"^### (\w+)", made[""], re.M) == ["ssim", "lung_mask"]
    assert {"tiny", "large"} <= set(texts(made["images/benchmarks/cpu-ssim.svg"]))


def test_files_of_two_machines_do_not_share_pictures(results: Path, tmp_path: Path) -> None:
    other = tmp_path / "other-2026-11-21.jsonl"
    save(other, [record("ssim", "tiny", "fused"), record("ssim", "tiny", "eager", ratio=2.0)])
    made = report([results, other])
    assert "images/benchmarks/cpu2-ssim.svg" in made
    assert made[""].count("\n## A Processor") == 2


def test_the_newest_of_each_machine_that_has_records(tmp_path: Path) -> None:
    rows = [record("ssim", "tiny", "fused")]
    for name in ("a-2026-01-31", "a-2026-02-01", "b-2025-12-01", "notes"):
        save(tmp_path / f"{name}.jsonl", rows)
    (tmp_path / "b-2026-01-01.jsonl").write_text('{"op": "ssim"}\n')
    assert [path.stem for path in newest(tmp_path)] == ["a-2026-02-01", "b-2025-12-01"]


def test_the_command_writes_the_page_and_the_pictures(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "docs" / "benchmarks.md"
    main([str(results), "--out", str(out)])
    assert out.read_text() == report([results])[""]
    names = {path.name for path in (out.parent / "images" / "benchmarks").iterdir()}
    assert names == {"cpu-targets.svg", "cpu-patch_nce_loss.svg", "cpu-patch_discrepancy.svg"}


def test_a_page_without_records_says_so() -> None:
    page, picture = report([]).values()
    assert "No records yet" in page
    assert texts(picture).count("not measured") == len([t for t in TARGETS if t.of == "time"])


def test_the_committed_page_is_made_from_the_committed_records() -> None:
    for name, text in report(newest(RESULTS)).items():
        path = ROOT / "docs" / (name or "benchmarks.md")
        assert path.read_text(encoding="utf-8") == text, (
            f"{path.relative_to(ROOT)}: run `python -m bench.report --out docs/benchmarks.md`"
        )


def test_committed_records_judge_every_target_of_their_ops() -> None:
    """A point or candidate that was renamed would leave its target without a figure."""
    from bench.harness.record import load
    from bench.targets import judge

    for path in newest(RESULTS):
        records = load([path])
        if records[0]["device"] != "cpu":
            continue
        ops = {each["op"] for each in records}
        verdicts = judge(records, [target for target in TARGETS if target.op in ops])
        assert [v.target for v in verdicts if v.word == "not measured"] == []
