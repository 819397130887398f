"""A fit that was stopped goes on to the same run; finished runs and busy folders are safe."""

from __future__ import annotations

import subprocess
import sys

import pytest

from medad_fast.errors import BusyError, CheckpointError, InputError
from medad_fast.files import folder_lock
from medad_fast.training.interrupts import Interrupted
from medad_fast.verbs.fit import fit
from python_tests.verbs.fit.small_fits import NAME, TINY, same_weights, stop_at, write_pictures


@pytest.mark.parametrize("cut", [1, 2, 4, 5])
def test_a_stopped_fit_resumes_to_the_same_run(cut, data, tmp_path):
    fit(NAME, data, tmp_path / "whole", device="cpu", **TINY)
    out = tmp_path / "cut"
    with pytest.raises(Interrupted):
        fit(NAME, data, out, device="cpu", progress=stop_at(cut), **TINY)
    assert not (out / "manifest.json").exists()
    with pytest.raises(InputError, match="holds an unfinished run: resume it"):
        fit(NAME, data, out, device="cpu", **TINY)
    fit(NAME, data, out, device="cpu", resume=True, **TINY)
    assert same_weights(tmp_path / "whole", out)
    for name in ("thresholds.json", "log.jsonl", "config.yaml"):
        assert (tmp_path / "whole" / name).read_bytes() == (out / name).read_bytes()


def test_resuming_with_other_settings_or_data_is_refused_by_name(data, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        fit(NAME, data, out, device="cpu", progress=stop_at(1), **TINY)
    with pytest.raises(InputError, match="begun with another config"):
        fit(NAME, data, out, device="cpu", resume=True, **{**TINY, "epochs": 3})
    with pytest.raises(InputError, match="begun with another seed"):
        fit(NAME, data, out, device="cpu", resume=True, seed=1, **TINY)
    write_pictures(tmp_path / "other/train/normal", 10, 8)
    with pytest.raises(InputError, match="begun with another images"):
        fit(NAME, tmp_path / "other", out, device="cpu", resume=True, **TINY)
    (out / "state/request.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"request\.json"):
        fit(NAME, data, out, device="cpu", resume=True, **TINY)


def test_a_finished_run_is_never_overwritten_and_resuming_it_loads_it(data, tmp_path):
    run = fit(NAME, data, tmp_path, device="cpu", max_steps=1, **TINY)
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(InputError, match="already holds a finished run"):
        fit(NAME, data, tmp_path, device="cpu", max_steps=1, **TINY)
    again = fit(NAME, data, tmp_path, device="cpu", resume=True, max_steps=1, **TINY)
    assert again.thresholds == run.thresholds
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_a_folder_in_use_is_busy_and_free_again_when_its_holder_is_killed(data, tmp_path):
    hold = (
        "import sys, time; from pathlib import Path; "
        "from medad_fast.files import folder_lock\n"
        "with folder_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match=f"in use by process {holder.pid} on"):
            fit(NAME, data, tmp_path, **TINY)
        holder.kill()
    (tmp_path / ".partial-1-model.safetensors").write_bytes(b"half")
    with folder_lock(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["config.yaml", "log.jsonl", "state/notes.txt"])
def test_files_of_somebody_else_are_not_lost(name, data, tmp_path):
    (tmp_path / "run/state").mkdir(parents=True)
    (tmp_path / "run" / name).write_text("mine")
    with pytest.raises(InputError, match=f"{name} is of no run"):
        fit(NAME, data, tmp_path / "run", device="cpu", max_steps=1, **TINY)
    assert (tmp_path / "run" / name).read_text() == "mine"
    (tmp_path / "run" / name).unlink()
    fit(NAME, data, tmp_path / "run", device="cpu", max_steps=1, **TINY)


def test_another_finished_run_is_not_taken_for_the_one_asked_for(data, tmp_path):
    fit(NAME, data, tmp_path, device="cpu", max_steps=1, **TINY)
    with pytest.raises(InputError, match="finished run of autoencoder with seed 0, not of ddad"):
        fit("ddad", data, tmp_path, device="cpu", resume=True)
    with pytest.raises(InputError, match="not of autoencoder with seed 3"):
        fit(NAME, data, tmp_path, device="cpu", resume=True, seed=3, **TINY)


def test_all_files_of_a_run_have_the_permissions_of_new_ones(data, tmp_path):
    fit(NAME, data, tmp_path / "run", device="cpu", max_steps=1, **TINY)
    (tmp_path / "new").touch()
    mode = (tmp_path / "new").stat().st_mode
    assert {path.stat().st_mode for path in (tmp_path / "run").glob("*.*")} == {mode}
