"""The command line as a person meets it: a clear line for each mistake, the right exit code."""

from __future__ import annotations

import gzip
import importlib
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medad_fast.cli.console import say
from medad_fast.cli.main import main
from medad_fast.methods import config_class, list_methods
from medad_fast.settings import describe
from medad_fast.training.interrupts import Interrupted
from python_tests.cli.command_line import METHOD, said
from python_tests.report.dataset import make_results


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", *METHOD, "--data", "d", "--out", "o", "--widht", "3"], ["--widht", "--width"]),
        (["fit", *METHOD, "--data", "d", "--out", "o", "--width", "x"], ["--width", "x"]),
        (["fit", *METHOD, "--data", "d", "--out", "o", "--image-size", "33"], ["image_size", "16"]),
        (["fit", "--method", "autencoder"], ["autencoder", "patchcl-ae"]),
        (["fit", *METHOD], ["--data"]),
        (["fit", *METHOD, "--data", "d", "--out", "o", "--config", "n.yaml"], ["n.yaml", "demo"]),
        (["fit", *METHOD, "--data", "nowhere", "--out", "o"], ["nowhere", "exist"]),
        (["predict", "--run", "r"], ["--data"]),
        (["evaluate", "nowhere"], ["nowhere", "predict.json"]),
        (["doctor", "nowhere"], ["nowhere"]),
        (["frobnicate"], ["frobnicate"]),
        (["--frobnicate"], ["frobnicate"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = said(capsys, arguments)
    assert (code, out) == (2, "")
    assert err.startswith("medad: error: ")
    assert err.count("\n") == 1
    assert all(word in err for word in words)


def test_a_run_that_is_none_has_its_own_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", "--run", str(tmp_path), "--data", str(tmp_path), "--out", "o"]
    code, _, err = said(capsys, arguments)
    assert code == 6
    assert str(tmp_path) in err


def test_help_lists_the_fields_of_the_method(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, ["fit", "--method", "patchcl-ae", "--help"])
    assert code == 0
    assert "--temperature" in out
    assert "CUT and MoCo" in out
    words = " ".join(out.replace("│", " ").split())
    assert "for images that lie alike" in words
    assert "channels of the first block, Table 1 (1 or more) [default: 64]" in words
    _, out, _ = said(capsys, ["fit", "--help"])
    assert "--temperature" not in out
    words = " ".join(out.split())
    assert all(re.search(rf"[ ,]{name}\b", words) for name in list_methods())


@pytest.mark.parametrize("name", list_methods())
def test_help_says_something_of_every_field_without_its_source(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: object) -> str:
        raise OSError("could not get source code")

    for reader in ("getsource", "getsourcelines", "findsource"):
        monkeypatch.setattr(inspect, reader, refuse)
    monkeypatch.setenv("COLUMNS", "300")
    code, out, _ = said(capsys, ["fit", "--method", name, "--help"])
    assert code == 0
    told = out.partition(f"Fields of {name}")[2]
    for field, _, _, text in describe(config_class(name)):
        flag = re.escape(f"--{field.replace('_', '-')} ")
        assert re.search(rf"│ {flag}.*  {re.escape(text)} ", told), field


def test_flags_reach_fit_with_their_types_and_only_when_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module("medad_fast.cli.fit")
    given: dict[str, object] = {}
    monkeypatch.setattr(module, "_fit", lambda **flags: given.update(flags) or 0)
    line = "fit --method patchcl-ae --data d --out=o --layers 2 --layers 3 --no-residual --seed 4"
    assert main(line.split()) == 0
    assert given == {
        "method": "patchcl-ae",
        "data": Path("d"),
        "out": Path("o"),
        "layers": (2, 3),
        "residual": False,
        "seed": 4,
    }


def test_a_bug_of_ours_is_one_line_without_its_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text of an unexpected error may hold what stands in a patient's file."""

    def broken(*_: object) -> None:
        raise KeyError("DOE^JANE")

    monkeypatch.delenv("MEDAD_TRACEBACK", raising=False)
    monkeypatch.setattr("medad_fast.cli.main._run", broken)
    code, _, err = said(capsys, ["doctor"])
    assert code == 1
    assert err.count("\n") == 1
    assert "bug" in err
    assert "MEDAD_TRACEBACK=1" in err
    assert "DOE" not in err


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")],
)
def test_too_little_memory_is_no_bug(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hungry(*_: object) -> None:
        raise error

    monkeypatch.delenv("MEDAD_TRACEBACK", raising=False)
    monkeypatch.setattr("medad_fast.cli.main._run", hungry)
    code, _, err = said(capsys, ["doctor"])
    assert code == 4
    assert err.startswith("medad: error: out of memory; a fit needs less with a smaller batch_size")


def test_a_traceback_can_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDAD_TRACEBACK", "1")
    code, _, err = said(capsys, ["evaluate", "nowhere"])
    assert code == 2
    assert "Traceback" in err


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (Interrupted(signal.SIGTERM, "in stage copy"), 143, "SIGTERM in stage copy"),
    ],
)
def test_a_stop_says_where_and_ends_with_the_signals_code(
    error: BaseException,
    code: int,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(**_: object) -> int:
        raise error

    monkeypatch.setattr(importlib.import_module("medad_fast.cli.fit"), "_fit", stopped)
    found, _, err = said(capsys, ["fit", *METHOD, "--data", "d", "--out", "o"])
    assert found == code
    assert word in err


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = said(capsys, ["demo", "--out", str(tmp_path / "file")])
    assert code == 2
    assert str(tmp_path / "file") in err


def test_demo_leaves_a_full_folder_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    code, _, err = said(capsys, ["demo", "--out", str(tmp_path)])
    assert code == 2
    assert "--resume" in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_demo_resumes_with_its_own_seed_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/simulation.json").write_text(json.dumps({"seed": 3}))
    code, _, err = said(capsys, ["demo", "--out", str(tmp_path), "--seed", "4", "--resume"])
    assert code == 2
    assert "--seed" in err


def test_evaluate_prints_the_table_and_where_the_report_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_results(tmp_path / "r", data=tmp_path / "d")
    code, out, err = said(capsys, ["evaluate", str(folder), "--resamples", "20"])
    assert (code, err) == (0, "")
    assert "mean grey level" in out
    assert f"Report: {folder / 'report.html'}" in out


def test_evaluate_of_one_class_keeps_what_is_defined_and_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_results(tmp_path / "r", data=tmp_path / "d")
    scores = folder / "scores.csv"
    scores.write_text(scores.read_text().replace(",abnormal,", ",normal,"))
    code, _, err = said(capsys, ["evaluate", str(folder), "--resamples", "20"])
    assert code == 2
    assert err.count("\n") == 1
    assert "no abnormal image" in err
    assert json.loads((folder / "metrics.json").read_text())["counts"]["abnormal"] == 0


def test_doctor_finds_a_planted_fault_and_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_results(tmp_path / "r", data=tmp_path / "d")
    assert said(capsys, ["doctor", str(tmp_path / "d")])[0] == 0
    bad = tmp_path / "d/test/normal/sub-0.nii.gz"
    bad.write_bytes(gzip.compress(gzip.decompress(bad.read_bytes())[:700]))
    code, out, _ = said(capsys, ["doctor", str(tmp_path / "d")])
    assert code == 2
    assert "sub-0" in "".join(out.split())


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from medad_fast.cli.main import main; main(['--help']); main(['fit', '-h']);"
        "print([name for name in ('torch', 'numpy', 'pydantic', 'skimage') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_name_that_the_terminal_cannot_write_is_told_by_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", told)
    say("Run: Läufe/run")
    assert told.buffer.getvalue() == b"Run: L\\xe4ufe/run\n"  # type: ignore[attr-defined]


def test_the_module_ends_with_the_exit_code_of_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medad_fast", "nonsense"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 2
    assert done.stderr.startswith("medad: error: ")
