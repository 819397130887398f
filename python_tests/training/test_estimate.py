"""The estimate comes after ten steps of each stage, and is about right."""

from __future__ import annotations

import time

import pytest
import torch

from medad_fast.training.estimate import Estimate, Estimator
from medad_fast.training.loop import Step, train
from python_tests.methods.small import discs, small

CPU = torch.device("cpu")


def feed(estimator, stage, first, last, steps, sleep=0.0):
    for step in range(first, last + 1):
        time.sleep(sleep)
        estimator(Step(f"stage-{stage}", stage, step, steps, {}))


def test_it_is_told_once_a_stage_after_ten_steps():
    told = []
    estimator = Estimator(told.append, CPU)
    feed(estimator, 1, 1, 9, 40)
    assert not told
    feed(estimator, 1, 10, 40, 40)
    feed(estimator, 2, 1, 25, 25)
    assert [(each.stage, each.step, each.steps) for each in told] == [
        ("stage-1", 10, 40),
        ("stage-2", 10, 25),
    ]


def test_a_resumed_stage_counts_from_where_it_goes_on():
    told = []
    feed(Estimator(told.append, CPU), 1, 21, 60, 60)
    assert [each.step for each in told] == [30]


@pytest.mark.parametrize("steps", [1, 9, 10])
def test_a_stage_that_is_over_by_then_has_none(steps):
    told = []
    feed(Estimator(told.append, CPU), 1, 1, steps, steps)
    assert not told


def test_the_time_is_that_of_the_other_steps():
    told = []
    feed(Estimator(told.append, CPU), 1, 1, 12, 110, sleep=0.01)
    (estimate,) = told
    assert estimate.seconds_per_step >= 0.01
    assert estimate.seconds_left == pytest.approx(100 * estimate.seconds_per_step)


def test_the_first_step_which_warms_up_does_not_count():
    told = []
    estimator = Estimator(told.append, CPU)
    feed(estimator, 1, 1, 1, 20, sleep=1.0)
    feed(estimator, 1, 2, 10, 20)
    assert told[0].seconds_per_step < 0.1


def test_memory_is_what_training_adds_even_inside_a_step():
    torch.ones(128 << 20).sum()  # a larger peak, which is over: not counted
    _before = torch.ones(8 << 20)  # there already: not counted
    told = []
    estimator = Estimator(told.append, CPU)
    for step in range(1, 11):
        if step == 5:
            torch.ones(64 << 20).sum()  # 256 MiB, gone again when the step is over
        estimator(Step("stage", 1, step, 20, {}))
    assert told[0].memory_bytes is None or told[0].memory_bytes > 200 << 20


def test_every_step_still_reaches_the_callers_callback():
    told, seen = [], []
    method = small("autoencoder")
    estimator = Estimator(told.append, CPU, lambda step: seen.append(step.step))
    train(method, discs(8), max_steps=12, device="cpu", progress=estimator)
    assert seen == list(range(1, 13))
    assert len(told) == 1
    assert isinstance(told[0], Estimate)
    assert told[0].device == "cpu"


@pytest.mark.gpu
def test_on_a_gpu_the_memory_is_what_torch_allocated_there():
    device = torch.device("cuda")
    told = []
    estimator = Estimator(told.append, device)
    for step in range(1, 11):
        torch.ones(16 << 20, device=device).sum()
        estimator(Step("stage", 1, step, 20, {}))
    assert told[0].memory_bytes >= 64 << 20
