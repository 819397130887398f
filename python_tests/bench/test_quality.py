"""The quality benchmark: figures, ablations, and tables that are honest."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from bench.quality import __main__ as cli
from bench.quality import page, plan, simulated, tables
from bench.quality.ablations import ABLATIONS, Ablation, Outcome, ablation_fits, outcomes
from bench.quality.plan import Fit, Variant
from bench.quality.pooled import Pooled, difference, pool
from bench.quality.record import core_seconds, held, load_records, over_budget
from bench.quality.simulated import SETS
from python_tests.bench.quality_fits import fit_of

# Figures


def figure(value, half):
    return {"value": value, "low": value - half, "high": value + half}


def test_one_seed_is_shown_as_it_is_and_several_as_their_mean():
    found = pool([{"value": 0.8, "low": 0.7, "high": 0.85}])
    assert found == pytest.approx((0.8, 0.7, 0.85))
    assert pool([figure(0.6, 0.1), figure(0.8, 0.1)]) == pytest.approx(
        (0.7, 0.7 - 0.1 / 2**0.5, 0.7 + 0.1 / 2**0.5)
    )
    assert pool([]) is None
    assert pool([figure(0.6, 0.1), {"value": None, "low": None, "high": None}]) is None
    assert str(Pooled(0.5, 0.25, 0.75)) == "0.50 (0.25 to 0.75)"


def scored(scores, abnormal, seed=0, key="k"):
    names = [f"sub-{i // 2}" for i in range(len(scores))]
    return {
        "key": key,
        "seed": seed,
        "scores": {
            "path": [f"{name}-{i}" for i, name in enumerate(names)],
            "patient": names,
            "abnormal": abnormal,
            "score": scores,
        },
    }


def test_differences_are_taken_image_by_image():
    rng = np.random.default_rng(0)
    abnormal = [i % 2 == 1 for i in range(60)]
    noise = rng.normal(0, 1, 60)
    good, poor = (noise + step * np.array(abnormal) for step in (3.0, 0.3))
    one, other = scored(good.tolist(), abnormal), scored(poor.tolist(), abnormal)
    found = difference([one], [other])
    assert found.low > 0.1
    assert found.low <= found.value <= found.high
    assert difference([one], [one]) == (0, 0, 0)
    assert difference([other], [one]).value == pytest.approx(-found.value)
    second = scored(rng.permutation(poor).tolist(), abnormal, seed=1)
    both = difference([one, second], [other, second])
    assert both.value == pytest.approx(found.value / 2)
    shorter = scored(good[:-1].tolist(), abnormal[:-1])
    with pytest.raises(ValueError, match="not of the same images"):
        difference([one], [shorter])


# Ablations


def test_every_ablation_names_its_source_and_fits_a_set():
    for ablation in ABLATIONS:
        assert ablation.set in SETS
        assert ablation.source
        assert all(variant.label for variant in ablation.variants)
        assert all(low < high < len(ablation.variants) for low, high in ablation.steps)


def test_an_ablation_of_a_method_that_is_not_there_is_said_to_be_not_run():
    gone = Ablation("a", "oct", "b", (Variant("nobody", {"x": 1}), Variant("autoencoder")))
    assert gone.refusal() == "no method nobody"
    odd = Ablation("a", "oct", "b", (Variant("autoencoder", {"no_such": 1}),) * 2)
    assert "has no setting 'no_such'" in (odd.refusal() or "")
    wrong = Ablation("a", "oct", "b", (Variant("autoencoder", {"loss": "l7"}),) * 2)
    assert "loss must be" in (wrong.refusal() or "")
    assert "not run" in Outcome(odd, odd.variants[0], odd.variants[1], reason="x").verdict


def test_every_ablation_of_a_method_that_is_here_can_be_run():
    for ablation in ABLATIONS:
        here = plan.available(SETS[ablation.set])
        if {variant.method for variant in ablation.variants} <= set(here):
            assert ablation.refusal() is None


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.2, "as published"),
        (-0.01, 0.2, "not: not told apart"),
        (-0.2, -0.1, "not: the other way round"),
    ],
)
def test_only_a_whole_interval_above_zero_is_as_published(low, high, verdict):
    ablation = ABLATIONS[0]
    outcome = Outcome(ablation, *ablation.variants, Pooled((low + high) / 2, low, high))
    assert outcome.verdict == verdict


def test_outcomes_are_read_from_the_records_of_both_variants():
    ablation = ABLATIONS[0]
    worse, better = (Fit(SETS[ablation.set], 0, variant) for variant in ablation.variants)
    abnormal = [i % 2 == 1 for i in range(40)]
    noise = np.random.default_rng(1).normal(0, 1, 40)
    records = {
        worse.key: scored(noise.tolist(), abnormal),
        better.key: scored((noise + 3 * np.array(abnormal)).tolist(), abnormal),
    }
    first, *others = outcomes(records, 1)
    assert first.verdict == "as published"
    assert {each.verdict.split(":")[0] for each in others} == {"not run"}
    lines = tables.outcome_lines([first])
    assert "as published" in lines[-1]
    assert len({line.count("|") for line in lines}) == 1


def test_variants_that_are_the_recipe_are_fitted_once():
    keys = [fit.key for fit in ablation_fits(1, list(SETS))]
    assert len(set(keys)) == len(keys)


# The whole way, as short as it gets


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality")
    words = ["--sets", "oct", "--methods", "autoencoder", "--max-steps", "2", "--small"]
    words += ["--work", str(folder / "work"), "--results", str(folder / "results")]
    return folder, words, cli.main(words)


def test_a_fit_leaves_one_record_and_nothing_large(run, capsys):
    folder, words, code = run
    assert code == 0
    (record,) = load_records(folder / "results")
    assert record["key"] in next((folder / "results").iterdir()).name
    assert set(record["kinds"]) == {"fluid", "cysts", "drusen", "thinning"}
    assert record["metrics"]["pixel"]["aupro"]["value"] is not None
    assert record["baselines"]["pca16"]["value"] is not None
    assert record["baselines"]["file_size"]["value"] == 0.5  # tells nothing
    assert len(record["scores"]["score"]) == 12
    assert record["fit_seconds"] > 0
    assert not list((folder / "work" / "runs").iterdir())
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "done before" in said
    assert "pca16 (trivial)" in said


@pytest.mark.parametrize(
    ("seconds", "threads", "hours", "over"),
    [
        (170.0, 2, None, False),
        (190.0, 2, None, True),
        (350.0, 1, None, False),
        (370.0, 1, None, True),
        (3000.0, 2, 1.0, False),
        (None, 2, None, False),
    ],
)
def test_the_budget_is_three_minutes_of_two_cores(seconds, threads, hours, over):
    record = {"fit_seconds": seconds, "threads": threads, "hours": hours}
    assert over_budget(record) is over
    assert core_seconds(record) == (None if seconds is None else seconds * threads)


def test_a_set_is_built_once_and_known_by_its_pictures(run):
    folder, *_ = run
    (built,) = (folder / "work" / "data").iterdir()
    record = load_records(folder / "results")[0]
    assert record["data"] == simulated.content_digest(built)
    counts = {"train": 10, "validation": 3, "test": 6, "unlabeled": 6}
    changed = (built / "simulation.json").stat().st_mtime_ns
    assert SETS["oct"].build(folder / "work" / "data", 0, counts=counts) == built
    assert (built / "simulation.json").stat().st_mtime_ns == changed


def test_a_failed_fit_is_reported_and_the_next_goes_on(run, monkeypatch, capsys):
    from medad_fast.errors import InputError

    _, words, _ = run

    def fail(*_):
        raise InputError("it did not work")

    monkeypatch.setattr(cli, "make_record", fail)
    assert cli.main([*words, "--seeds", "2"]) == 1
    said = capsys.readouterr()
    assert "FAILED it did not work" in said.err
    assert "done before" in said.out


def test_a_signal_ends_the_run_in_one_line(run, monkeypatch, capsys):
    import signal

    from medad_fast.training.interrupts import Interrupted

    def stop(*_):
        raise Interrupted(signal.SIGTERM, "at step 3 of reconstruct")

    monkeypatch.setattr(cli, "make_record", stop)
    assert cli.main([*run[1], "--seeds", "2"]) == 128 + signal.SIGTERM
    assert "step 3 of reconstruct: the same command goes on" in capsys.readouterr().err


def current(record, fit):
    """The record as if it were of a fit with all images and steps."""
    return copy.deepcopy(record) | {"key": fit.key, **fit.identity()}


def test_the_page_counts_records_of_the_present_code_only(run):
    folder, *_ = run
    (record,) = load_records(folder / "results")
    stale = page.page([record])
    assert "0 of" in stale
    assert "1 further records" in stale
    assert "| not fitted yet |" in page.readme_part([record])
    text = page.page([record, current(record, fit_of())])
    assert "stale" not in text.partition("## Brain")[2]
    assert "1 of" in text
    row = next(line for line in text.splitlines() if line.startswith("| `autoencoder` (base"))
    value = record["metrics"]["image"]["auroc"]["value"]
    assert f"{value:.2f} (" in row
    for each in SETS.values():
        assert f"## {each.title}" in text


def test_a_record_of_earlier_code_is_shown_and_marked_as_stale(run):
    folder, *_ = run
    (record,) = load_records(folder / "results")
    value = record["metrics"]["image"]["auroc"]["value"]
    made = current(record, fit_of("salad"))
    older = current(record, fit_of()) | {"key": "0", "source": "0", "date": "2020-01-01"}
    old = older | {"key": "1", "date": "2020-01-02", "parameters": 12_340_000}
    rekeyed = current(record, fit_of("ddad")) | {"rekeyed": [{"from": "2"}]}
    text = page.page([old, older, made, rekeyed])
    assert "2 of 28 pairs of method and set have records of the present code. 1 have stale" in text
    assert "1 records were made by earlier code that was proven to give the same." in text
    (row,) = [line for line in text.splitlines() if line.startswith("| `autoencoder` (base")]
    assert f"| 1, stale | {value:.2f} (" in row
    assert "12.34 M" in row
    assert "| pca16 (trivial) | 1, some stale |" in text
    assert "| `autoencoder` (stale) |" in text
    assert "| `salad` |" in text
    readme = page.readme_part([old, made])
    assert readme.count(", stale |") == 1
    assert page.page([old, current(record, fit_of())]).count("1, stale") == 0
    other = old | {"config": old["config"] | {"width": 999}}
    assert "12.34 M" not in page.page([other])


def test_an_ablation_of_earlier_code_is_shown_and_marked_as_stale():
    ablation = ABLATIONS[0]
    worse, better = (Fit(SETS[ablation.set], 0, variant) for variant in ablation.variants)
    abnormal = [i % 2 == 1 for i in range(40)]
    noise = np.random.default_rng(1).normal(0, 1, 40)
    usual = {"date": "2020-01-01", "hours": None}
    high = scored((noise + 3 * np.array(abnormal)).tolist(), abnormal)
    records = [
        scored(noise.tolist(), abnormal) | worse.identity() | usual | {"key": worse.key},
        high | better.identity() | usual | {"key": "0", "source": "0"},
    ]
    first, *_ = outcomes(held(records, [worse, better]), 1)
    assert first.verdict == "as published (stale)"


def test_a_method_of_the_modality_is_judged_by_its_interval(run):
    folder, *_ = run
    (record,) = load_records(folder / "results")
    made = current(record, fit_of("salad"))
    high = {"value": 0.95, "low": 0.9, "high": 0.99}
    made["metrics"]["image"]["auroc"] = high
    made["baselines"] = {"pca16": {"value": 0.6, "low": 0.5, "high": 0.7}}
    assert "its interval lies above the best trivial baseline (pca16, 0.60) and lies" in page.page(
        [made]
    )
    made["metrics"]["image"]["auroc"] = {"value": 0.7, "low": 0.59, "high": 0.8}
    assert "**does not lie** above the best" in page.page([made])


def test_readmes_part_stands_between_its_marks_and_is_checked(run, tmp_path, capsys):
    folder, *_ = run
    out, readme = tmp_path / "quality.md", tmp_path / "README.md"
    readme.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    words = ["--results", str(folder / "results"), "--out", str(out), "--readme", str(readme)]
    assert page.main([*words, "--check"]) == 1
    assert not out.exists()
    assert page.main(words) == 0
    assert page.main([*words, "--check"]) == 0
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "synthetic" in text
    assert "`autoencoder` (baseline)" in text
    with pytest.raises(ValueError, match="expected in it"):
        page.with_part("no marks", "x")


def test_readmes_part_says_of_how_many_seeds_a_figure_is(run):
    folder, *_ = run
    (record,) = load_records(folder / "results")
    first, second = (current(record, fit_of(seed=seed)) for seed in (0, 1))
    other = current(record, fit_of("salad"))
    assert ", one seed;" in page.readme_part([first, other])
    assert ", mean over 2 seeds;" in page.readme_part([first, second])
    assert "), 2 seeds |" not in page.readme_part([first, second])
    mixed = page.readme_part([first, second, other])
    assert "of one seed, or the mean over as many as it says;" in mixed
    assert mixed.count("), 2 seeds |") == 1


def test_records_of_another_format_are_left_alone(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"format": 0}))
    (tmp_path / "b.json").write_text(json.dumps([1]))
    assert load_records(tmp_path) == []


def test_what_would_be_done_is_listed_without_doing_it(tmp_path, capsys):
    words = ["--list", "--results", str(tmp_path), "--work", str(tmp_path / "work")]
    assert cli.main([*words, "--sets", "brain", "--seeds", "2"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith("to do")]
    assert len(lines) == 2 * len(plan.available(SETS["brain"]))
    assert cli.main([*words, "--ablations"]) == 0
    assert "contrastive" in capsys.readouterr().out
    assert not (tmp_path / "work").exists()
