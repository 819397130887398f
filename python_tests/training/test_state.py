"""A training that was stopped: it goes on bit for bit, or says what is damaged."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import pytest
import torch

from medad_fast.errors import CheckpointError
from medad_fast.methods.base import Stage
from medad_fast.training import loop as training
from medad_fast.training.interrupts import Interrupted
from medad_fast.training.loop import train
from python_tests.methods.small import discs, small
from python_tests.training.two_stages import IMAGES, TwoStages, run_two_stages, same, stop_at


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
        lambda text: text.replace('"format_version": 3', '"format_version": 4'),
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


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (1, r"version 1, this release reads version 3: go on with the medad-fast that began it"),
        (4, r"version 4, this release reads version 3: install a newer medad-fast"),
        ("3", r"state\.json is damaged: '3' is no format version"),
    ],
)
def test_a_state_of_another_version_says_what_to_do(stopped, version, words):
    index = stopped / "state.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps({**content, "format_version": version}))
    with pytest.raises(CheckpointError, match=words):
        run_two_stages(stopped.parent, resume=True)


def test_the_state_of_another_method_is_refused(stopped):
    with pytest.raises(CheckpointError, match="does not fit this method"):
        train(small("autoencoder"), discs(4), device="cpu", state=stopped, resume=True)
