"""Thresholds are values that occurred, and keep the promised false-positive rate."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from medad_fast.errors import InputError
from medad_fast.training.thresholds import choose, p_value


@pytest.mark.parametrize("images", [1, 5, 19, 20, 39, 100, 137])
@pytest.mark.parametrize("target", [0.01, 0.05, 0.2, 0.5])
def test_threshold_is_a_calibration_score_with_few_enough_above(images: int, target: float) -> None:
    scores = np.random.default_rng(images).standard_normal(images).astype(np.float32)
    chosen = choose(scores, target_fpr=target)["score"]
    assert np.float32(chosen["threshold"]) in scores
    above = int((scores > chosen["threshold"]).sum())
    assert chosen["expected_fpr"] == pytest.approx((above + 1) / (images + 1))
    assert chosen["target_reached"] == (chosen["expected_fpr"] <= target)
    if chosen["target_reached"]:
        assert (above + 2) / (images + 1) > target
    else:
        assert above == 0


def test_decision_above_threshold_is_p_value_at_most_target() -> None:
    generator = np.random.default_rng(0)
    chosen = choose(np.round(generator.standard_normal(60), 1), target_fpr=0.1)
    for score in np.round(np.linspace(-3, 3, 61), 1):
        assert (score > chosen["score"]["threshold"]) == (p_value(score, chosen) <= 0.1)


def test_new_normal_images_pass_at_the_expected_rate() -> None:
    generator = np.random.default_rng(0)
    rates = []
    for _ in range(400):
        chosen = choose(generator.gamma(2.0, size=49), target_fpr=0.1)["score"]
        rates.append(float((generator.gamma(2.0, size=200) > chosen["threshold"]).mean()))
    assert chosen["expected_fpr"] == pytest.approx(0.1)
    assert np.mean(rates) == pytest.approx(0.1, abs=0.01)


def test_nineteen_images_are_the_least_for_five_percent() -> None:
    assert choose(np.arange(19.0))["score"]["target_reached"]
    assert choose(np.arange(19.0))["score"]["threshold"] == 18.0
    few = choose(np.arange(18.0))["score"]
    assert not few["target_reached"]
    assert few["threshold"] == 17.0
    assert few["expected_fpr"] == pytest.approx(1 / 19)


def test_target_is_the_decimal_that_was_written() -> None:
    assert 0.29 * 100 < 29  # in floating point
    assert choose(np.arange(99.0), target_fpr=0.29)["score"]["expected_fpr"] == 0.29


def test_order_of_scores_changes_nothing_and_json_keeps_every_bit() -> None:
    scores = torch.randn(30, generator=torch.Generator().manual_seed(0))
    chosen = choose(scores, maps=scores.reshape(3, 1, 2, 5))
    assert chosen == choose(scores.flip(0), maps=scores.flip(0))
    assert json.loads(json.dumps(chosen, allow_nan=False)) == chosen
    assert chosen["score"]["calibration"] == sorted(scores.tolist())


def test_map_scale_is_made_of_map_values() -> None:
    maps = torch.arange(1000.0).reshape(10, 1, 10, 10)
    assert choose([1.0], maps=maps)["map"] == {
        "low": 499.0,
        "threshold": 994.0,
        "high": 998.0,
        "pixels": 1000,
    }
    assert choose([1.0], maps=np.arange(10.0))["map"]["threshold"] == 9.0
    assert "map" not in choose([1.0])


@pytest.mark.parametrize("value", [0.0, -3.0, 1e6])
def test_a_constant_map_still_has_a_scale(value: float) -> None:
    scale = choose([1.0], maps=np.full((2, 8, 8), value))["map"]
    assert scale["low"] == scale["threshold"] == value
    assert scale["high"] > scale["low"]


def test_ties_with_the_threshold_count_as_normal() -> None:
    chosen = choose(np.ones(50))
    assert chosen["score"]["threshold"] == 1.0
    assert p_value(1.0, chosen) == 1.0
    assert p_value(1.1, chosen) == pytest.approx(1 / 51)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scores": []}, "scores is empty"),
        ({"scores": [1.0, float("nan")]}, "scores has 1 values of 2"),
        ({"scores": [1.0], "maps": np.array([np.inf])}, "maps has 1"),
        ({"scores": [1.0], "target_fpr": 0.0}, "target_fpr"),
        ({"scores": [1.0], "target_fpr": 1.0}, "target_fpr"),
        ({"scores": [1.0], "target_fpr": float("nan")}, "target_fpr"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        choose(**arguments)


def test_a_p_value_needs_a_number() -> None:
    with pytest.raises(InputError, match="finite"):
        p_value(float("nan"), choose([1.0]))
