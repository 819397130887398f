"""What the quality page says beside its figures: labels, budgets, seeds, settings."""

from __future__ import annotations

import numpy as np
import pytest

from bench.quality import page, tables
from bench.quality.ablations import ABLATIONS, outcomes
from bench.quality.plan import Fit
from bench.quality.simulated import SETS
from python_tests.bench.quality_fits import fit_of


@pytest.mark.parametrize(
    ("method", "config", "label"),
    [
        ("ddad", {}, "`ddad`"),
        ("autoencoder", {}, "`autoencoder` (baseline)"),
        ("patch-knn", {"weights": "random"}, "`patch-knn` (baseline, random filters)"),
        ("patch-knn", {"weights": "resnet18.safetensors"}, "`patch-knn` (baseline)"),
        ("anatpaste", {"weights": None}, "`anatpaste`"),
    ],
)
def test_a_label_says_what_is_a_baseline_and_what_has_random_filters(method, config, label):
    assert tables.method_label(method, [{"config": config}]) == label


def test_fits_over_the_budget_are_named_with_what_else_ran():
    slow = {"method": "anatpaste", "set": "chest", "seed": 1, "others_cpu": 0.704, "hours": None}
    slow |= {"fit_seconds": 515.3, "threads": 1}
    quick = slow | {"fit_seconds": 100.0}
    assert tables.over_lines([quick]) == []
    (line, _) = tables.over_lines([slow, quick])
    assert line.count("anatpaste") == 1
    assert "seed 1 (515 core s, other processes took 70 % of the processors)" in line


def test_an_outcome_tells_the_seeds_behind_it():
    ablation = ABLATIONS[0]
    fits = [Fit(SETS[ablation.set], seed, each) for seed in (0, 2) for each in ablation.variants]
    fits.append(Fit(SETS[ablation.set], 1, ablation.variants[0]))  # the other one is missing
    abnormal = [i % 2 == 1 for i in range(20)]
    scores = {"path": list(map(str, range(20))), "patient": list(map(str, range(20)))}
    scores |= {"abnormal": abnormal, "score": np.linspace(0, 1, 20).tolist()}
    records = {fit.key: {"key": fit.key, "seed": fit.seed, "scores": scores} for fit in fits}
    first, *_ = outcomes(records, 3)
    assert first.seeds == (0, 2)
    assert "| 0, 2 |" in tables.outcome_lines([first])[-1]


def test_the_settings_that_the_page_tells_are_those_of_the_recipes():
    def told(method, field):
        return [fit_of(method, name).settings()[field] for name in SETS]

    assert list(SETS) == ["brain", "chest", "fundus", "oct"]
    assert told("patchcl-ae", "score") == ["patch+pixel", "patch+pixel", "patch", "patch"]
    assert told("patchcl-ae", "normal_margin") == [3.0, 3.0, None, None]
    assert told("patchcl-ae", "temperature") == [0.3] * 4
    assert all(len(each) > 1 for each in told("patchcl-ae", "noise_resolution"))
    assert all(each > 1 for each in told("patchcl-ae", "map_smoothing"))
    assert told("ddad", "refinement_error") == [True] * 4
    assert told("ddad", "image_score") == ["topk"] * 4
    assert told("cradl", "squares") == [0] * 4
    assert told("cradl", "temperature") == [0.1] * 4
    assert told("cradl", "unit_latents") == [True] * 4
    assert [list(each) for each in told("cradl", "components")] == [[1]] * 4
    assert all(each > 0 for each in told("cradl", "shrinkage"))
    assert told("anatpaste", "density") == ["mahalanobis"] * 4
    assert told("anatpaste", "anatomy") == ["foreground", "lungs", "whole", "foreground"]
    assert told("patch-knn", "weights") == ["random"] * 4


def test_the_page_tells_the_seeds_of_its_tables():
    assert page._shown([]) == ""
    assert page._shown([{"seed": 2}, {"seed": 0}, {"seed": 2}]) == " The tables show seeds 0, 2."
