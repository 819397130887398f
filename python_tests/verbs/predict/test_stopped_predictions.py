"""What stands in the folder while files are scored, and after a stop."""

from __future__ import annotations

from pathlib import Path

import pytest

from medad_fast import evaluate, predict
from medad_fast.artifacts.run import Run
from medad_fast.errors import BusyError, InputError
from medad_fast.files import folder_lock
from python_tests.verbs.predict.brightness import SLICES


def test_a_stopped_prediction_leaves_its_rows_and_no_result(
    run: Run, dataset: Path, tmp_path: Path
) -> None:
    def stop(done: int, files: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    predict(run, dataset, tmp_path / "out")
    evaluate(tmp_path / "out", resamples=2)
    with pytest.raises(KeyboardInterrupt):
        predict(run, dataset, tmp_path / "out", progress=stop)
    partial = tmp_path / "out/scores.partial.csv"
    assert len(partial.read_text(encoding="utf-8").splitlines()) == 1 + 2 * SLICES
    assert not (tmp_path / "out/metrics.json").exists()
    with pytest.raises(InputError, match=r"no predict\.json"):
        evaluate(tmp_path / "out", resamples=2)
    predict(run, dataset, tmp_path / "out")
    assert not partial.exists()


def test_rows_can_be_read_while_the_rest_is_under_way(
    run: Run, dataset: Path, tmp_path: Path
) -> None:
    seen: list[int] = []

    def count(done: int, files: int) -> None:
        partial = tmp_path / "out/scores.partial.csv"
        seen.append(len(partial.read_text(encoding="utf-8").splitlines()))

    predict(run, dataset, tmp_path / "out", progress=count)
    assert seen == [1 + SLICES, 1 + 2 * SLICES, 1 + 3 * SLICES]


def test_progress_counts_every_file(run: Run, dataset: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    predict(run, dataset, tmp_path / "out", progress=lambda done, files: seen.append((done, files)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_folder_has_one_writer(run: Run, dataset: Path, tmp_path: Path) -> None:
    with folder_lock(tmp_path / "out"), pytest.raises(BusyError):
        predict(run, dataset, tmp_path / "out")
