"""``medad demo`` from nothing to its page; a browser opens that page in ``report/``."""

from __future__ import annotations

from pathlib import Path

import pytest

from python_tests.cli.tiny_demo import tiny_demo


def test_the_demo_ends_with_a_table_and_the_path_of_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    assert tiny_demo(out) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == f"Report: {out / 'report.html'}"
    assert "pixel AP" in said
    for method in ("patchcl-ae", "autoencoder"):
        assert (out / "runs" / method / "manifest.json").is_file()
        assert (out / "results" / method / "report.html").is_file()
        assert f'href="results/{method}/report.html"' in (out / "report.html").read_text()
    assert tiny_demo(out, "--resume") == 0
