"""Two runs on the same images: paired resamples by hand, and what cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medad_fast import compare, evaluate
from medad_fast.cli.main import main
from medad_fast.errors import InputError
from medad_fast.evaluation.bootstrap import draw_clusters, paired_p_value, score_replicates
from medad_fast.evaluation.ranking import auroc, rank
from python_tests.evaluation.predictions import Predictions, square_mask

LEVELS = ("image", "volume", "patient", "pixel")


@pytest.fixture
def two(tmp_path: Path) -> tuple[Predictions, Predictions]:
    """Other scores and maps of the same images."""
    return Predictions(tmp_path, 8, out="a"), Predictions(tmp_path, 8, out="b", seed=1)


def figures(found: dict[str, Any]) -> list[dict[str, Any]]:
    blocks = [block[level] for block in (found, found["threshold"]) for level in LEVELS]
    blocks += [found["oracle"][level] for level in LEVELS]
    return [figure for block in blocks for figure in block.values()]


def test_the_difference_and_its_interval_are_those_of_resampling_patients_by_hand(
    two: tuple[Predictions, Predictions],
) -> None:
    found = compare(two[0].write(), two[1].write(), resamples=200, seed=3)
    truth = np.array([row.label == "abnormal" for row in two[0].rows])
    owner = np.arange(len(truth)) // 2
    scores = [np.array([row.anomaly_score for row in each.rows]) for each in two]

    def by_hand(items: np.ndarray) -> float:
        before, after = (auroc(rank(each[items], truth[items])).value for each in scores)
        return np.nan if before is None or after is None else after - before

    differences = [
        by_hand(np.repeat(np.arange(len(truth)), counts[owner]))
        for counts in draw_clusters(8, 200, 3)
    ]
    image = found["image"]["auroc"]
    assert image["difference"] == pytest.approx(by_hand(np.arange(len(truth))), abs=1e-12)
    expected = np.nanpercentile(differences, (2.5, 97.5))
    assert (image["low"], image["high"]) == pytest.approx(tuple(expected), abs=1e-12)
    rarer = min(np.sum(np.array(differences) <= 0), np.sum(np.array(differences) >= 0))
    defined = np.isfinite(differences).sum()
    assert image["p_value"] == pytest.approx(min(1.0, 2 * (1 + rarer) / (1 + defined)))
    assert image["dropped"] == 200 - defined


def test_both_sides_are_what_evaluate_says(two: tuple[Predictions, Predictions]) -> None:
    folders = [each.write() for each in two]
    found = compare(*folders, resamples=20, volume_score="top-2")
    for side, folder in zip("ab", folders, strict=True):
        metrics = evaluate(folder, resamples=20, volume_score="top-2")
        for level in LEVELS:
            for block in ("threshold", "oracle"):
                for name, figure in found[block][level].items():
                    assert figure[side] == metrics[block][level][name]["value"]
            assert set(found[level]) == set(metrics[level])
            for name, figure in found[level].items():
                assert figure[side] == metrics[level][name]["value"]
    assert found["oracle"]["label"].startswith("oracle")


def test_a_run_does_not_differ_from_itself(two: tuple[Predictions, Predictions]) -> None:
    folder = two[0].write()
    found = compare(folder, folder, resamples=50)
    for figure in figures(found):
        if "reason" not in figure:
            zeros = (figure["difference"], figure["low"], figure["high"])
            assert (*zeros, figure["p_value"]) == (0, 0, 0, 1)
    assert found["differs"] == {}


def test_swapping_the_runs_turns_the_sign(two: tuple[Predictions, Predictions]) -> None:
    folders = [each.write() for each in two]
    there, back = compare(*folders, resamples=50), compare(*folders[::-1], resamples=50)
    for figure, other in zip(figures(there), figures(back), strict=True):
        if "reason" not in figure:
            assert figure["difference"] == -other["difference"]
            assert figure["low"] == pytest.approx(-other["high"], abs=1e-12)
            assert figure["p_value"] == other["p_value"]
    assert there["differs"]["run.method"] == {"a": "a", "b": "b"}


def test_order_of_rows_and_names_of_patients_do_not_matter(
    two: tuple[Predictions, Predictions],
) -> None:
    first = compare(two[0].write(), two[1].write(), resamples=30)
    two[1].rows.reverse()
    two[1].baselines = two[1].baselines[::-1]
    two[1].change(lambda row: {"patient": f"{row.patient}-hashed-anew"})
    assert compare(two[0].out, two[1].write(), resamples=30) == first


def test_pairing_finds_what_two_intervals_hide(tmp_path: Path) -> None:
    before = Predictions(tmp_path, 40, out="a")
    before.change(lambda row: {"anomaly_score": row.anomaly_score * 3})
    after = Predictions(tmp_path, 40, out="b")
    after.change(
        lambda row: {"anomaly_score": row.anomaly_score * 3 + (row.label == "abnormal") * 0.9}
    )
    found = compare(before.write(), after.write(), resamples=300)["image"]["auroc"]
    alone = [evaluate(each.out, resamples=300)["image"]["auroc"] for each in (before, after)]
    assert alone[0]["high"] > alone[1]["low"]
    assert found["low"] > 0
    assert found["p_value"] < 0.02


def test_a_difference_by_chance_is_called_real_about_as_often_as_promised() -> None:
    """Clustered scores of two equally good detectors, 60 patients with 3 slices each."""
    generator = np.random.default_rng(0)
    owner = np.arange(180) // 3
    truth = owner % 2 == 0
    draws = draw_clusters(60, 200, 0)
    small = 0
    for _ in range(400):
        shared = generator.standard_normal(60)[owner]
        replicates = [
            score_replicates(
                truth + shared + generator.standard_normal(60)[owner] + 0.3 * noise,
                truth,
                owner,
                draws,
            )["auroc"]
            for noise in generator.standard_normal((2, 180))
        ]
        p_value = paired_p_value(replicates[1] - replicates[0])
        assert p_value is not None
        small += p_value <= 0.1
    assert 0.05 < small / 400 < 0.16


def test_p_values_by_hand() -> None:
    assert paired_p_value(np.array([1.0, 2.0, 3.0])) == 0.5  # the least that three can say
    assert paired_p_value(np.array([1.0, -2.0, 3.0, 4.0])) == 2 * 2 / 5
    assert paired_p_value(np.array([0.0, 0.0])) == 1.0
    assert paired_p_value(np.array([1.0, np.nan, 2.0])) == 2 / 3
    assert paired_p_value(np.full(4, np.nan)) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.rows.pop(), r"1 of 16 slices of .*/a are not in .*/b.*test/15.png slice 0"),
        (
            lambda p: p.change(lambda row: {"path": row.path.replace("/3.", "/33.")}),
            r"1 of 16 slices of .*test/3.png",
        ),
        (
            lambda p: p.change(lambda row: {"label": "normal", "mask": ""}),
            r"test/2.png slice 0: has the label 'abnormal' in .*/a and 'normal' in .*/b",
        ),
        (
            lambda p: p.change(lambda row: {"mask": row.mask.replace("/2", "/6")}),
            r"has the mask '2.png' in .* and '6.png'",
        ),
        (lambda p: p.change(lambda row: {"patient": "one"}), r"grouped with other images"),
    ],
)
def test_folders_that_do_not_score_the_same_are_refused(
    two: tuple[Predictions, Predictions],
    change: Callable[[Predictions], object],
    words: str,
) -> None:
    first = two[0].write()
    change(two[1])
    two[1].baselines = two[1].baselines[: len(two[1].rows)]
    second = two[1].write()
    with pytest.raises(InputError, match=words):
        compare(first, second, resamples=5)


def test_maps_on_other_grids_are_refused(two: tuple[Predictions, Predictions]) -> None:
    first = two[0].write()
    two[1].save_map("maps/0.npy", np.zeros((5, 5)))
    with pytest.raises(InputError, match="maps have other pixels"):
        compare(first, two[1].write(), resamples=5)


def test_masks_that_changed_under_the_same_name_are_refused(
    two: tuple[Predictions, Predictions],
) -> None:
    first = two[0].write()
    two[1].save_mask("masks/3.npy", square_mask(True).T)  # as many pixels and lesions
    with pytest.raises(InputError, match=r"test/3\.png slice 0: has another mask in .*/b than in"):
        compare(first, two[1].write(), resamples=5)


def test_what_one_class_leaves_undefined_is_null_with_a_reason(
    two: tuple[Predictions, Predictions],
) -> None:
    for each in two:
        each.change(lambda row: {"label": "normal", "mask": ""})
    found = compare(two[0].write(), two[1].write(), resamples=10)
    json.dumps(found, allow_nan=False)
    for level in LEVELS:
        for figure in found[level].values():
            assert figure["difference"] is figure["p_value"] is figure["low"] is None
            assert figure["reason"]
    assert found["threshold"]["image"]["fpr"]["difference"] is not None


def test_a_threshold_that_one_run_lacks_is_a_reason(two: tuple[Predictions, Predictions]) -> None:
    del two[1].thresholds["map"]
    found = compare(two[0].write(), two[1].write(), resamples=10)["threshold"]["pixel"]["dice"]
    assert found["a"] is not None
    assert found["b"] is None
    assert found["reason"] == "the run has no threshold for maps"


def test_an_unfinished_prediction_and_no_resamples_are_refused(
    two: tuple[Predictions, Predictions],
) -> None:
    first = two[0].write()
    with pytest.raises(InputError, match=r"b: no predict.json"):
        compare(first, two[1].out)
    with pytest.raises(InputError, match="resamples"):
        compare(first, two[1].write(), resamples=0)


def test_the_verb_prints_a_table_and_writes_what_it_is_told_to(
    two: tuple[Predictions, Predictions], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(each.write()) for each in two]
    out = tmp_path / "comparison.json"
    assert main(["compare", *folders, "--resamples", "20", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found == compare(*folders, resamples=20)
    assert f"{found['image']['auroc']['difference']:+.3f}" in text
    assert "Dice per patient" in text
    assert "run.method: a against b" in text
    assert not list(two[0].out.glob("metrics.json"))


def test_the_verb_says_in_one_line_why_it_cannot_compare(
    two: tuple[Predictions, Predictions], capsys: pytest.CaptureFixture[str]
) -> None:
    two[1].rows = [replace(row, path=f"other/{row.path}") for row in two[1].rows]
    assert main(["compare", str(two[0].write()), str(two[1].write())]) == 2
    assert "do not score the same images: 16 of 16 slices" in capsys.readouterr().err
