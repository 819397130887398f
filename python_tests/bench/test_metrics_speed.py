"""The benchmark of the metrics runs, and its two ways to the same figure agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import bench_metrics
from bench.harness.suite import discover


def test_it_says_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "record.json"
    words = ["--images", "8", "--side", "64", "--json", str(file)]
    assert bench_metrics.main([*words, "--anomalib", str(tmp_path / "none")]) == 0
    record = json.loads(file.read_text(encoding="utf-8"))
    assert record["pixels"] == 8 * 64 * 64
    assert record["loop"]["aupro"] == pytest.approx(record["one_sort"]["aupro"], abs=0.02)
    assert 0 < record["one_sort"]["seconds"] < record["loop"]["seconds"]
    assert record["anomalib"].startswith("not measured")
    assert capsys.readouterr().out.count("met ") == 4


def test_the_suite_leaves_it_alone() -> None:
    assert "metrics" not in {benchmark.op for benchmark in discover("metrics")}
