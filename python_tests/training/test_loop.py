"""The training loop: which images each step sees, what it logs, where it runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from medad_fast.errors import DeviceError, InputError
from medad_fast.methods.base import Method, Prediction, Stage, Update
from medad_fast.methods.parts.optimization import adam
from medad_fast.training import loop as training
from medad_fast.training.interrupts import Interrupted
from medad_fast.training.loop import pick_device, seed_for, train
from python_tests.methods.small import discs, small
from python_tests.training.two_stages import (
    IMAGES,
    UNLABELED,
    TwoStages,
    run_two_stages,
    same,
    stop_at,
)


def test_every_image_is_seen_once_an_epoch_and_the_last_batch_may_be_short():
    method = TwoStages()
    train(method, IMAGES, UNLABELED, device="cpu")
    first, second = [4, 4, 2], [4, 4, 4, 1]
    assert method.seen[:6] == first * 2
    assert sum(method.seen[6:]) > sum(second) * 3
    order = [training._Loop._order(_loop(), 1, epoch, 10) for epoch in (0, 1)]
    assert sorted(order[0].tolist()) == list(range(10))
    assert not torch.equal(*order)


class Ensemble(Method):
    """Notes the batches that its members get, told apart by their first pixel."""

    def __init__(self, **stage) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.stage, self.batches, self.began = stage, [], []

    def begin(self, *, unlabeled):
        self.began.append((unlabeled, torch.rand(1).item()))

    def stages(self) -> Iterator[Stage]:
        def loss(batch):
            self.batches.append(batch[..., 0, 0, 0])
            return self.weight * batch.mean()

        update = Update("a", self.parameters, loss, adam(0.1, (0.9, 0.9), 1e-8))
        yield Stage("first", (update,), epochs=2, batch_size=4, **self.stage)

    def predict(self, images: torch.Tensor) -> Prediction:
        return Prediction(images.mean((1, 2, 3)), images)


def test_each_member_of_an_ensemble_sees_every_image_once_an_epoch_in_its_own_order():
    method = Ensemble(orders=3)
    train(method, IMAGES, device="cpu")
    assert [tuple(batch.shape) for batch in method.batches] == [(3, 4), (3, 4), (3, 2)] * 2
    epochs = [torch.cat(method.batches[:3], 1), torch.cat(method.batches[3:], 1)]
    everything = IMAGES[:, 0, 0, 0].sort().values
    rows = [row for epoch in epochs for row in epoch]
    assert all(torch.equal(row.sort().values, everything) for row in rows)
    assert len({tuple(row.tolist()) for row in rows}) == 6


def test_an_order_of_images_does_not_depend_on_how_many_there_are():
    order = training._Loop._order(_loop(), 1, 0, 10, 3)
    assert torch.equal(order[:2], training._Loop._order(_loop(), 1, 0, 10, 2))


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_an_ensemble_resumes_bit_for_bit(cut, tmp_path):
    whole, first, second = Ensemble(orders=2), Ensemble(orders=2), Ensemble(orders=2)
    train(whole, IMAGES, device="cpu", seed=3)
    with pytest.raises(Interrupted):
        train(first, IMAGES, device="cpu", seed=3, state=tmp_path, progress=stop_at(cut))
    train(second, IMAGES, device="cpu", seed=3, state=tmp_path, resume=True)
    resumed = first.batches + second.batches
    assert all(map(torch.equal, whole.batches, resumed))
    assert len(resumed) == 6
    assert same(whole, second)


def test_a_short_last_batch_can_be_left_out_unless_it_is_the_only_one():
    method, few = Ensemble(drop_last=True), Ensemble(drop_last=True)
    train(method, IMAGES, device="cpu")
    assert [len(batch) for batch in method.batches] == [4, 4] * 2
    train(few, IMAGES[:3], device="cpu")
    assert [len(batch) for batch in few.batches] == [3] * 2


def test_a_method_is_told_whether_there_are_unlabeled_images_and_may_draw():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    method = Ensemble()
    for unlabeled in (None, UNLABELED[:0], UNLABELED):
        train(method, IMAGES, unlabeled, device="cpu", seed=2)
    assert [told for told, _ in method.began] == [False, False, True]
    assert len({drawn for _, drawn in method.began}) == 1
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(("steps", "seen"), [(2, [4, 4]), (8, [4, 4, 2, 4, 4, 2, 4, 4])])
def test_a_stage_can_ask_for_steps_instead_of_epochs(steps, seen):
    class Counted(TwoStages):
        def stages(self):
            yield dataclasses.replace(next(super().stages()), steps=steps)

    method = Counted()
    train(method, IMAGES, device="cpu")
    assert method.seen == seen


class Initialized(TwoStages):
    def initialize(self):
        self.called = True
        nn.init.constant_(self.a.weight, 0.25)


def test_a_training_begins_from_initial_weights_and_a_resumed_one_does_not(tmp_path):
    def run(folder, **options):
        method = Initialized()
        train(method, IMAGES, device="cpu", state=tmp_path / folder, seed=7, **options)
        return method

    whole = run("whole")
    assert not same(whole, run_two_stages(tmp_path / "without"))
    with pytest.raises(Interrupted):
        run("cut", progress=stop_at(2))
    resumed = run("cut", resume=True)
    assert same(whole, resumed)
    assert not hasattr(resumed, "called")


def _loop():
    return training._Loop(TwoStages(), 0, torch.device("cpu"), "float32", None, None, None, [])


def test_unlabeled_images_are_used_only_where_a_stage_asks():
    with_them, without = TwoStages(), TwoStages()
    train(with_them, IMAGES, UNLABELED, device="cpu")
    train(without, IMAGES, device="cpu")
    assert not same(with_them.b, without.b)
    assert len(with_them.seen) > len(without.seen)


def test_max_steps_caps_each_stage_and_the_schedule_ends_there(tmp_path):
    steps = []
    run_two_stages(tmp_path, max_steps=4, progress=steps.append)
    assert [(s.stage, s.step, s.steps) for s in steps] == [
        (stage, step, 4) for stage in ("first", "second") for step in range(1, 5)
    ]


def test_an_update_can_run_on_every_second_batch_only():
    steps = []
    train(TwoStages(), IMAGES, UNLABELED, device="cpu", progress=steps.append)
    second = [set(step.losses) for step in steps if step.stage == "second"]
    assert second[0] == {"b", "a again"}


def test_the_log_has_a_line_per_epoch_with_mean_losses(tmp_path):
    run_two_stages(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["epoch"], line["step"]) for line in lines] == [
        ("first", 1, 3),
        ("first", 2, 6),
        ("second", 1, 4),
        ("second", 2, 8),
        ("second", 3, 12),
    ]
    assert set(lines[-1]["losses"]) == {"b", "a again"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_and_names_stage_step_and_update(value):
    images = IMAGES.clone()
    images[:] = value
    with pytest.raises(InputError, match=r"update 'a' became (nan|inf) at step 1 of stage 'first'"):
        train(TwoStages(), images, device="cpu")


def test_bfloat16_trains_too():
    method = small("patchcl-ae")
    train(method, discs(4), max_steps=1, device="cpu", precision="bfloat16")
    assert all(value.isfinite().all() for value in method.state_dict().values())


def test_seeds_differ_by_place_and_not_by_process():
    assert seed_for(0, "step", 1, 11) == 9194978698969627918
    places = [(a, b) for a in range(3) for b in range(50)]
    assert len({seed_for(s, *place) for s in range(3) for place in places}) == 450


def test_devices_are_picked_or_refused_in_words():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda")
    for wrong in ("gpu", "cuda:x", "mps"):
        with pytest.raises(InputError, match="device must be auto, cpu, cuda"):
            pick_device(wrong)
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="no CUDA GPU; use cpu"):
            pick_device("cuda")
