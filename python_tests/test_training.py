"""The training loop: repeatable, resumable bit for bit, stopped cleanly."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from medad_fast import training
from medad_fast.errors import CheckpointError, DeviceError, InputError
from medad_fast.methods.base import Method, Prediction, Stage, Update
from medad_fast.methods.optimization import adam, schedule, sgd
from medad_fast.training import Interrupted, pick_device, seed_for, train
from medad_fast.training_state import StateFolder
from python_tests.methods.small import discs, small


class TwoStages(Method):
    """Two stages, of which the second has two updates, one of them on every second batch."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.a = nn.Linear(16, 4)
            self.b = nn.Linear(16, 4)
        self.seen: list[int] = []

    def stages(self) -> Iterator[Stage]:
        def update(name: str, module: nn.Module, every: int = 1) -> Update:
            def loss(images: torch.Tensor) -> torch.Tensor:
                self.seen.append(len(images))
                noise = torch.randn(4)  # a loss that draws
                return (module(images.flatten(1)) - noise).square().mean()

            plan = schedule("cosine")
            return Update(name, module.parameters, loss, adam(0.1, (0.9, 0.9), 1e-8), plan, every)

        yield Stage("first", (update("a", self.a),), epochs=2, batch_size=4)
        both = (update("b", self.b), update("a again", self.a, every=2))
        yield Stage("second", both, "normal+unlabeled", epochs=3, batch_size=4)

    def predict(self, images: torch.Tensor) -> Prediction:
        return Prediction(images.mean((1, 2, 3)), images)


IMAGES = torch.rand(10, 1, 4, 4, generator=torch.Generator().manual_seed(1))
UNLABELED = IMAGES[:3] + 1


def run_two_stages(folder, **options):
    method = TwoStages()
    options = {"state": folder / "state", "log": folder / "log.jsonl", "seed": 7, **options}
    train(method, IMAGES, UNLABELED, device="cpu", **options)
    return method


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))


def stop_at(total, number=signal.SIGTERM):
    """A progress callback that sends a signal during the ``total``-th step of the run."""
    count = [0]

    def progress(step):
        count[0] += 1
        if count[0] == total:
            os.kill(os.getpid(), number)

    return progress


@pytest.mark.parametrize("cut", range(1, 18))
def test_a_stopped_run_ends_bit_for_bit_like_one_that_was_not(cut, tmp_path):
    whole = run_two_stages(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run_two_stages(tmp_path / "cut", progress=stop_at(cut))
    resumed = run_two_stages(tmp_path / "cut", resume=True)
    assert same(whole, resumed)
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "cut")]
    assert logs[0] == logs[1]


class Prepared(TwoStages):
    """Trains its second stage on rows that the weights of the first have shifted."""

    def stages(self) -> Iterator[Stage]:
        first, second = super().stages()

        def prepare(batches: Iterator[torch.Tensor]) -> torch.Tensor:
            return torch.cat(
                [batch.flatten(1) + self.a.weight.detach().mean() for batch in batches]
            )

        yield first
        yield dataclasses.replace(second, updates=second.updates[:1], prepare=prepare)


@pytest.mark.parametrize("cut", [3, 6, 7, 9, 11])
def test_a_stage_trains_on_what_it_prepared_also_when_resumed(cut, tmp_path):
    def run(folder, **options):
        method = Prepared()
        train(method, IMAGES, device="cpu", state=tmp_path / folder, seed=7, **options)
        return method

    whole = run("whole")
    with pytest.raises(Interrupted):
        run("cut", progress=stop_at(cut))
    assert same(whole, run("cut", resume=True))
    plain = TwoStages()
    train(plain, IMAGES, device="cpu", seed=7)
    assert not same(whole, plain)


@pytest.mark.parametrize("cut", [1, 4])
def test_an_adversarial_method_resumes_bit_for_bit(cut, tmp_path):
    images = discs(10)
    methods = []
    for stops in ((), (cut, 2)):
        method = small("patchcl-ae", epochs=3, schedule="linear")
        for place, stop in enumerate(stops):
            with pytest.raises(Interrupted):
                train(
                    method,
                    images,
                    device="cpu",
                    state=tmp_path,
                    resume=place > 0,
                    progress=stop_at(stop) if stop else None,
                )
            method = small("patchcl-ae", epochs=3, schedule="linear", seed=9)
        train(method, images, device="cpu", state=tmp_path if stops else None, resume=True)
        methods.append(method)
    assert same(*methods)


def test_a_kill_loses_at_most_what_came_after_the_last_save(tmp_path, monkeypatch):
    whole = run_two_stages(tmp_path / "whole")
    monkeypatch.setattr(training, "SAVE_EVERY_SECONDS", -1.0)
    seen = []

    def die(step):
        seen.append(step)
        if len(seen) == 9:
            raise MemoryError

    with pytest.raises(MemoryError):
        run_two_stages(tmp_path / "cut", progress=die)
    steps = []
    resumed = run_two_stages(tmp_path / "cut", resume=True, progress=steps.append)
    assert same(whole, resumed)
    assert len(steps) == 18 - 9
    assert len(list((tmp_path / "cut/state").iterdir())) == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_and_tells_the_exit_code(number, code, tmp_path):
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="resume continues from there") as stop:
        run_two_stages(tmp_path, progress=stop_at(3, number))
    assert stop.value.exit_code == code
    assert isinstance(stop.value, KeyboardInterrupt)
    assert signal.getsignal(number) is before
    assert StateFolder(tmp_path / "state").read() is not None


def test_a_second_signal_leaves_at_once(tmp_path):
    with pytest.raises(Interrupted, match="twice"):
        run_two_stages(tmp_path, progress=lambda _: [stop_at(1)(None) for _ in range(2)])


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


@pytest.fixture
def stopped(tmp_path):
    with pytest.raises(Interrupted):
        run_two_stages(tmp_path, progress=stop_at(8))
    return tmp_path / "state"


def test_a_flipped_bit_in_the_state_is_noticed(stopped):
    (file,) = stopped.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"step.*safetensors is damaged"):
        run_two_stages(stopped.parent, resume=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:40],
        lambda text: text.replace('"format_version": 1', '"format_version": 2'),
        lambda text: text.replace('"step"', '"stop"'),
        lambda text: text.replace('"updates"', '"upgrades"'),
        lambda text: "[]",
    ],
)
def test_a_damaged_index_is_noticed(stopped, damage):
    index = stopped / "state.json"
    index.write_text(damage(index.read_text()))
    with pytest.raises(CheckpointError, match="state"):
        run_two_stages(stopped.parent, resume=True)


def test_the_state_of_another_method_is_refused(stopped):
    with pytest.raises(CheckpointError, match="does not fit this method"):
        train(small("autoencoder"), discs(4), device="cpu", state=stopped, resume=True)


def test_weight_decay_can_leave_vectors_alone_and_gradients_can_be_clipped():
    layer = nn.Linear(3, 2)
    build = adam(0.1, (0.9, 0.999), 1e-8, weight_decay=0.5, decay_vectors=False, clip=2.0)
    optimizer = build(layer.parameters())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    assert [group["params"][0] for group in optimizer.param_groups] == [layer.weight, layer.bias]
    layer.weight.grad, layer.bias.grad = torch.full((2, 3), 3.0), torch.full((2,), 3.0)
    optimizer.step()
    norm = torch.cat([layer.weight.grad.flatten(), layer.bias.grad]).norm()
    assert norm.item() == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "factors"),
    [
        ("linear", [1, 1, 1, 0.5]),
        ("cosine", [1, 0.854, 0.5, 0.146]),
        ("warmup_cosine", [0, 0.8946, 0.5413, 0.1614]),
        ("steps", [1, 1, 0.1, 0.01]),
    ],
)
def test_schedules_fall_as_their_names_say(kind, factors):
    layer = nn.Linear(1, 1)
    optimizer = adam(1.0, (0.9, 0.999), 1e-8)(layer.parameters())
    plan = schedule(kind)(optimizer, 40)
    rates = []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        plan.step()
    assert rates[::10] == pytest.approx(factors, abs=1e-3)


def test_a_schedule_can_change_at_so_many_places_only():
    layer = nn.Linear(1, 1)
    optimizer = sgd(1.0, momentum=0.9, weight_decay=0.0)(layer.parameters())
    plan = schedule("cosine", levels=4)(optimizer, 40)
    rates = []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        plan.step()
    expected = [1, 0.8536, 0.5, 0.1464]
    assert rates == pytest.approx([rate for rate in expected for _ in range(10)], abs=1e-3)
