"""The command line as a person meets it: a clear line for each mistake, the right exit code."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medad_fast.cli.main import main
from medad_fast.io.nifti import read_nifti, write_nifti
from medad_fast.methods import list_methods
from medad_fast.training import Interrupted
from python_tests.report.study import make_results

METHOD = ["--method", "autoencoder"]


def said(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> tuple[int, str, str]:
    code = main(arguments)
    found = capsys.readouterr()
    return code, found.out, found.err


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
        (["benchmark"], ["bench_"]),
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
    assert "for images that lie alike" in words  # stands above its field
    assert "the re-implementation's rule" in words  # stands behind it
    _, out, _ = said(capsys, ["fit", "--help"])
    assert "--temperature" not in out
    words = " ".join(out.split())
    assert all(re.search(rf"[ ,]{name}\b", words) for name in list_methods())


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


def chain_data(root: Path) -> Path:
    """The fewest small brains that can be fitted on."""
    from medad_fast.simulate import simulate_brain

    return simulate_brain(root, seed=1, train=8, validation=2, test=4, slices=2, size=48)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("chain")
    data = str(chain_data(root / "data"))
    small = ["--image-size=32", "--width=4", "--units=1", "--batch-size=4", "--max-steps=2"]
    assert main(["fit", *METHOD, "--data", data, "--out", str(root / "run"), *small]) == 0
    arguments = ["predict", "--run", str(root / "run"), "--data", data, "--out", str(root / "res")]
    assert main([*arguments, "--overlays"]) == 0
    return root


def test_the_chain_from_files_to_a_report(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = said(capsys, ["evaluate", str(chain / "res"), "--resamples", "10"])
    assert code == 0
    told = {line.partition(":")[0] for line in text.splitlines()}
    assert "Oracle, thresholds chosen on the test set itself" in told
    assert "At the thresholds from validation (target FPR 0.05)" in told
    assert (chain / "res/report.html").is_file()
    assert list((chain / "res/overlays").rglob("*.png"))


def test_a_damaged_file_is_reported_and_the_rest_is_scored(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = sorted((chain / "data/test").rglob("normal/*.nii.gz"))[0]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/good.nii.gz").write_bytes(good.read_bytes())
    (tmp_path / "in/bad.nii.gz").write_bytes(good.read_bytes()[:200])
    out = tmp_path / "out"
    arguments = ["--run", str(chain / "run"), "--data", str(tmp_path / "in"), "--out", str(out)]
    code, text, err = said(capsys, ["predict", *arguments])
    assert code == 3
    assert "errors.jsonl" in err
    assert "1 of 2 files" in text
    assert "bad.nii.gz" in (out / "errors.jsonl").read_text()
    code, _, err = said(capsys, ["predict", *arguments, "--strict"])
    assert code == 2
    assert "bad.nii.gz" in err


def test_an_empty_folder_and_a_patient_in_two_splits_are_refused(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = said(
        capsys, ["fit", *METHOD, "--data", str(tmp_path / "empty"), "--out", str(tmp_path / "r")]
    )
    assert code == 2
    assert "empty" in err
    volume, affine = read_nifti(sorted((chain / "data").rglob("*.nii.gz"))[0])
    for place in ("train/normal", "test/normal"):
        write_nifti(tmp_path / "two" / place / f"sub-7_{place[:4]}.nii.gz", volume, affine)
    code, _, err = said(
        capsys, ["fit", *METHOD, "--data", str(tmp_path / "two"), "--out", str(tmp_path / "r")]
    )
    assert code == 2
    assert "same patient" in err
    assert err.count("\n") == 1


def test_a_second_fit_does_not_overwrite_the_first(
    chain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["fit", *METHOD, "--data", str(chain / "data"), "--out", str(chain / "run")]
    code, _, err = said(capsys, line)
    assert code == 2
    assert "already holds a finished run" in err


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from medad_fast.cli.main import main; main(['--help']); main(['fit', '-h']);"
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.splitlines()[-1] == "False False"


def test_fit_tells_time_and_memory_and_the_least_normal_training_images(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--image-size=32", "--width=4", "--units=1", "--batch-size=4", "--max-steps=12"]
    line = ["fit", *METHOD, "--data", str(chain / "data"), "--out", str(tmp_path / "run"), *small]
    code, out, err = said(capsys, line)
    assert code == 0
    assert "stage 1 (reconstruct): about 0 s for the other 2 steps, peak memory" in err
    told = out[out.index("Most anomalous of the") :]
    kept = json.loads((tmp_path / "run/training_outliers.json").read_text())["most_anomalous"]
    assert len(kept) >= 1
    assert all(each["path"] in told for each in kept)
    assert str(chain) not in told.split("Run: ")[0]


def test_a_recipe_of_one_method_needs_no_name_and_shows_what_to_compare_with(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.yaml"
    figure = "{method: autoencoder, of: its error, source: Table 1, known: printed, auroc: 0.7}"
    fields = "{image_size: 32, width: 4, units: 1, epochs: 1}"
    recipe.write_text(f"methods: {{autoencoder: {fields}}}\npublished: [{figure}]\n")
    data, run, results = str(chain / "data"), str(tmp_path / "run"), str(tmp_path / "res")
    line = ["fit", "--config", str(recipe), "--data", data, "--out", run, "--batch-size=8"]
    assert said(capsys, line)[0] == 0
    assert said(capsys, ["predict", "--run", run, "--data", data, "--out", results])[0] == 0
    code, out, _ = said(capsys, ["evaluate", results, "--resamples", "5"])
    assert code == 0
    assert "Published, recipe mine" in out
    assert "Published: its error: Table 1 (printed)" in out
    assert "departs from the recipe in: batch_size" in out
    code, _, err = said(capsys, ["fit", "--data", data, "--out", run])
    assert (code, "--method" in err) == (2, True)
