"""``medad benchmark`` hands over to the suite of the source checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

import bench.__main__ as suite
from medad_fast.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The words given to the suite, which itself does not run and fails."""
    pytest.importorskip("pytest_benchmark")
    monkeypatch.chdir(ROOT)
    given: list[list[str]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        assert command[1:3] == ["-m", "bench"]
        given.append(command[3:])
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(subprocess, "run", run)
    return given


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["ssim"],
        ["--json", "out", "--seconds", "0.5", "--device", "cuda", "--threads", "1"],
    ],
)
def test_the_suite_understands_what_it_is_given(
    words: list[str], handed_over: list[list[str]]
) -> None:
    assert main(["benchmark", *words]) == 1  # the suite's own exit code
    options = suite.parse(handed_over[0])
    asked = dict(zip(words[::2], words[1::2], strict=False))
    assert options.select == ("ssim" if words == ["ssim"] else "")
    assert options.json == (Path("out") if "--json" in asked else None)
    assert options.seconds == float(asked.get("--seconds", 2))
    assert options.device.type == asked.get("--device", "cpu")
    assert options.threads == (1 if "--threads" in asked else None)
