"""``medad demo`` from nothing to its page, on a smaller data set with shorter fits."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path

import pytest

from medad_fast import simulate
from medad_fast.cli.main import main

RECIPE = """
max_steps: 2
methods:
  patchcl-ae: {image_size: 32, width: 4, units: 1, projection_dim: 8, patches: 16, batch_size: 4}
  autoencoder: {image_size: 32, width: 4, units: 1, batch_size: 4}
"""


def test_the_demo_ends_with_a_table_and_the_path_of_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = tmp_path / "tiny.yaml", tmp_path / "demo"
    recipe.write_text(RECIPE)
    small = functools.partial(
        simulate.simulate_brain, train=8, validation=2, test=4, slices=2, size=48
    )
    monkeypatch.setattr(simulate, "simulate_brain", small)
    monkeypatch.setattr(importlib.import_module("medad_fast.cli.demo"), "RECIPE", str(recipe))
    assert main(["demo", "--out", str(out), "--seed", "5"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == f"Report: {out / 'report.html'}"
    assert "pixel AP" in said
    for method in ("patchcl-ae", "autoencoder"):
        assert (out / "runs" / method / "manifest.json").is_file()
        assert (out / "results" / method / "report.html").is_file()
        assert f'href="results/{method}/report.html"' in (out / "report.html").read_text()
    assert main(["demo", "--out", str(out), "--seed", "5", "--resume"]) == 0
