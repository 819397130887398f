"""Rules that make one score of many, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medad_fast.errors import InputError
from medad_fast.evaluation.levels import aggregate, rule_named


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("max", [4.0, 7.0]),
        ("top-1", [4.0, 7.0]),
        ("top-2", [3.5, 7.0]),
        ("top-100", [2.5, 7.0]),
        ("quantile-0.5", [2.0, 7.0]),
        ("quantile-0.51", [3.0, 7.0]),
        ("quantile-1", [4.0, 7.0]),
        ("quantile-0.0001", [1.0, 7.0]),
    ],
)
def test_rules_by_hand(rule: str, expected: list[float]) -> None:
    scores, owner = np.array([3.0, 7.0, 1.0, 4.0, 2.0]), np.array([0, 1, 0, 0, 0])
    assert aggregate(scores, owner, rule_named(rule)).tolist() == expected


def test_a_quantile_is_the_decimal_that_was_written() -> None:
    assert 0.07 * 100 > 7  # in floating point
    assert rule_named("quantile-0.07")(np.arange(1.0, 101)) == 7.0


@pytest.mark.parametrize("rule", ["max", "top-3", "quantile-0.8"])
def test_the_order_of_slices_changes_no_bit(rule: str) -> None:
    generator = np.random.default_rng(0)
    scores, owner = generator.standard_normal(200), generator.integers(0, 9, 200)
    shuffle = generator.permutation(200)
    first = aggregate(scores, owner, rule_named(rule))
    assert first.tolist() == aggregate(scores[shuffle], owner[shuffle], rule_named(rule)).tolist()


def test_nothing_gives_nothing() -> None:
    nothing = aggregate(np.zeros(0), np.zeros(0, dtype=np.int64), rule_named("max"))
    assert nothing.shape == (0,)


@pytest.mark.parametrize("rule", ["Max", "top-", "top-0", "top--1", "quantile-.", "quantile-1e-3"])
def test_unknown_rules_are_refused(rule: str) -> None:
    with pytest.raises(InputError, match="quantile-Q"):
        rule_named(rule)
