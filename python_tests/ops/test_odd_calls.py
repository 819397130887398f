"""Calls that nobody wrote down: drawn at random, each gives a right answer or names an argument."""

from __future__ import annotations

import functools
import inspect
import random
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import medad_fast.ops
from medad_fast.errors import InputError
from python_tests.ops.cases import OpCase, all_cases, flat
from python_tests.ops.run_case import LAYOUTS, differences, starts_at, storage_bytes

QUICK = 100
SLOW = 20_000  # of each op

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int8,
    torch.int16, torch.int32, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn,
    torch.uint16,
]  # fmt: skip
VALUES = [float("nan"), float("inf"), -float("inf"), 1e38, 1e-42, -0.0, 0.0, 3.0]


def _another_dtype(tensor: Tensor, rng: random.Random) -> Any:
    return tensor if tensor.is_complex() else tensor.to(rng.choice(DTYPES))


def _odd_numbers(tensor: Tensor, rng: random.Random) -> Any:
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    if tensor.numel() and tensor.is_floating_point():
        places = tensor.view(-1)
        if rng.random() < 0.3:
            places.fill_(rng.choice(VALUES))
        else:
            places[rng.randrange(tensor.numel())] = rng.choice(VALUES)
    return tensor


def _another_side(tensor: Tensor, rng: random.Random) -> Any:
    if tensor.dim() == 0:
        return tensor[None]
    axis = rng.randrange(tensor.dim())
    side = tensor.shape[axis]
    if rng.random() < 0.3:
        return torch.cat([tensor, tensor], axis)
    return tensor.narrow(axis, 0, min(side, rng.choice([0, 1, 2, max(0, side - 1)])))


def _another_rank(tensor: Tensor, rng: random.Random) -> Any:
    if tensor.dim() and rng.random() < 0.5:
        return tensor.select(rng.randrange(tensor.dim()), 0) if 0 not in tensor.shape else tensor
    return tensor.unsqueeze(rng.randrange(tensor.dim() + 1))


def _another_layout(tensor: Tensor, rng: random.Random) -> Any:
    if rng.random() < 0.3:
        return starts_at(tensor, rng.randrange(16))
    return LAYOUTS[rng.choice(list(LAYOUTS))](tensor)


def _another_kind(tensor: Tensor, rng: random.Random) -> Any:
    kinds: list[Callable[[], Any]] = [
        lambda: None,
        lambda: 1.5,
        lambda: "tensor",
        lambda: [tensor],
        lambda: tensor.to("meta"),
        lambda: tensor.to_sparse(),
        lambda: tensor.to_mkldnn() if tensor.dtype == torch.float32 else tensor.to_sparse(),
        lambda: tensor.numpy() if tensor.dtype != torch.bfloat16 else None,
        lambda: torch.nn.Parameter(tensor, requires_grad=False),
        lambda: tensor.detach().requires_grad_(tensor.is_floating_point()),
        lambda: torch.empty(0),
        lambda: torch.tensor(1.0),
    ]
    return rng.choice(kinds)()


MUTATIONS = [
    *[_another_layout] * 4, *[_odd_numbers] * 3, *[_another_side] * 3, _another_dtype,
    _another_rank, _another_kind,
]  # fmt: skip


def _draw(case: OpCase, rng: random.Random) -> list[Any]:
    arguments: list[Any] = list(
        case.tensors(rng.randrange(1000), dtype=rng.choice(case.dtypes or (None,)))
    )
    for _ in range(rng.choice([1, 1, 2, 3])):
        mutation = rng.choice(MUTATIONS)
        places = range(len(arguments)) if rng.random() < 0.4 else [rng.randrange(len(arguments))]
        seed = rng.random()  # the same for all places: shapes that still fit each other
        for place in places:
            plain = (
                isinstance(arguments[place], Tensor) and arguments[place].layout == torch.strided
            )
            if plain and arguments[place].device.type == "cpu":
                try:
                    arguments[place] = mutation(arguments[place], random.Random(seed))
                except (RuntimeError, TypeError, ValueError):
                    continue  # torch knows no such tensor
    return arguments


def _reached_the_op(error: Exception) -> bool:
    package = Path(inspect.getfile(medad_fast.ops)).parent
    return any(
        package in Path(frame.filename).parents
        for frame in traceback.extract_tb(error.__traceback__)
    )


@functools.cache
def _parameters() -> set[str]:
    """Names of all parameters of the ops and of the structs that they take."""
    public = [getattr(medad_fast.ops, name) for name in medad_fast.ops.__all__]
    methods = [getattr(c, name) for c in public if inspect.isclass(c) for name in dir(c)]
    functions = [f for f in public + methods if inspect.isfunction(f) or inspect.ismethod(f)]
    return {name for function in functions for name in inspect.signature(function).parameters}


def _try(case: OpCase, arguments: list[Any]) -> str:
    """What became of a call: "refused", "answered", or "not a call" of the op at all."""
    names = "|".join(_parameters())
    tensors = [
        a
        for a in arguments
        if isinstance(a, Tensor) and a.layout == torch.strided and a.device.type == "cpu"
    ]
    before = [storage_bytes(t.detach()) for t in tensors]
    try:
        found = flat(case.call(*arguments))
    except Exception as error:
        if not _reached_the_op(error):
            return "not a call"
        if not isinstance(error, (InputError, TypeError)) or not re.match(
            rf"({names})\b", str(error)
        ):
            raise
        return "refused"
    assert not differences([storage_bytes(t.detach()) for t in tensors], before)
    plain = [
        a.detach().resolve_neg().contiguous().clone() if isinstance(a, Tensor) else a
        for a in arguments
    ]
    if all(t.device.type == "cpu" for t in found):
        again = flat(case.call(*plain))
        assert not differences([t.detach() for t in found], [t.detach() for t in again])
    return "answered"


def _try_many(case: OpCase, count: int) -> None:
    became = {"refused": 0, "answered": 0, "not a call": 0}
    for seed in range(count):
        arguments = _draw(case, random.Random(f"{case.name} {seed}"))
        try:
            became[_try(case, arguments)] += 1
        except Exception as error:
            shown = [
                f"{tuple(a.shape)} {a.dtype} {a.layout} {a.device}"
                if isinstance(a, Tensor)
                else repr(a)
                for a in arguments
            ]
            raise AssertionError(f"seed {seed}: {shown}") from error
    assert became["refused"] > count / 20, became
    assert became["answered"] > count / 20, became


each_case = pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)


@each_case
def test_a_drawn_call_is_answered_or_refused(case):
    _try_many(case, QUICK)


@pytest.mark.slow
@each_case
def test_many_drawn_calls_are_answered_or_refused(case):
    _try_many(case, SLOW // sum(other.op == case.op for other in all_cases()))
