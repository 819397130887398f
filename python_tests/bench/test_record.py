"""Records survive the file, and a later one takes the place of an earlier one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.harness.record import FORMAT, load, save
from python_tests.bench.records import record


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new" / "machine.jsonl"
    rows = [record("ssim", "tiny", "fused"), record("ssim", "tiny", "eager", ratio=3.0)]
    save(path, rows)
    assert load([path]) == rows
    assert len(path.read_text().splitlines()) == 2


def test_a_later_record_replaces_an_earlier_one_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "machine.jsonl"
    save(path, [record("ssim", "tiny", "eager", ratio=3.0), record("nce", "tiny", "fused")])
    save(path, [record("ssim", "tiny", "eager", ratio=5.0)])
    assert [(each["op"], each["ratio"]) for each in load([path])] == [("ssim", 5.0), ("nce", None)]


@pytest.mark.parametrize("what", ["processor", "threads", "op", "point", "dtype", "candidate"])
def test_records_about_different_things_stand_beside_each_other(what: str, tmp_path: Path) -> None:
    one = record("ssim", "tiny", "fused")
    other = one | {what: "another"}
    save(tmp_path / "a.jsonl", [one])
    save(tmp_path / "b.jsonl", [other])
    assert load([tmp_path / "a.jsonl", tmp_path / "b.jsonl"]) == [one, other]


def test_records_of_another_format_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    path.write_text(json.dumps({"op": "ssim", "min_ms": 1.0}) + "\n")
    assert load([path]) == []
    assert record("ssim", "tiny", "fused")["format"] == FORMAT


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text(json.dumps(record("ssim", "tiny", "fused")) + '\n{"op": \n')
    with pytest.raises(ValueError, match=r"broken\.jsonl, line 2"):
        load([path])


def test_no_number_that_is_none_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save(tmp_path / "a.jsonl", [record("ssim", "tiny", "fused", min_ms=float("nan"))])
    assert not (tmp_path / "a.jsonl").exists()
