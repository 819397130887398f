"""The least normal of the training images are named, as many as were promised."""

from __future__ import annotations

import pytest
import torch

from medad_fast.errors import InputError
from medad_fast.training.outliers import most_anomalous


@pytest.mark.parametrize(
    ("images", "count"), [(1, 1), (8, 1), (100, 1), (101, 2), (250, 3), (1000, 10)]
)
def test_one_percent_at_least_one_highest_first(images, count):
    scores = torch.rand(images, generator=torch.Generator().manual_seed(images))
    found = most_anomalous(scores, [f"{i}.png" for i in range(images)], list(range(images)))
    expected = sorted(scores.tolist(), reverse=True)[:count]
    assert [outlier.anomaly_score for outlier in found] == expected
    for outlier in found:
        assert scores[outlier.slice] == outlier.anomaly_score
        assert outlier.path == f"{outlier.slice}.png"


def test_equal_scores_stay_in_order():
    found = most_anomalous(torch.ones(200), [str(i) for i in range(200)], [0] * 200)
    assert [outlier.path for outlier in found] == ["0", "1"]


def test_a_score_that_is_not_finite_is_an_error():
    with pytest.raises(InputError, match="1 of 3 training images"):
        most_anomalous(torch.tensor([0.0, float("nan"), 1.0]), ["a", "b", "c"], [0, 0, 0])
