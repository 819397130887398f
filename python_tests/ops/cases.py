"""What an op's ``cases.py`` is made of. ``python_tests/ops/test_every_op.py`` finds and runs all.

A folder here is an op's. Its ``cases.py`` has ``CASES``, how to call it; ``BAD_CALLS``, how not to;
and ``large()``, which calls it with more than 2^31 elements and looks at the last (or a word why
there is none). What every op promises alike (layouts, threads, forks, streams, repetitions,
refusals) is tested once, from these; what is an op's own is tested beside them.
"""

from __future__ import annotations

import functools
import importlib
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from medad_fast.errors import InputError


@dataclass(frozen=True)
class OpCase:
    """A way to call an op, small enough for a test.

    Attributes:
        name: of the op; further words after a space tell apart several cases of one op.
        inputs: from a seed, the tensors of one call on the CPU, drawn in float32 where they are
            floating: tests move and cast them.
        call: the public function with everything else filled in; takes those tensors.
        dtypes: floating types that floating inputs may have; empty where none is floating.
        gradients: places of the inputs that get a gradient.
        image_axis: for each input the axis of images, or None; where the whole tuple is None, the
            images of a batch are not independent.
    """

    name: str
    inputs: Callable[[int], list[Tensor]]
    call: Callable[..., Any]
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)
    gradients: tuple[int, ...] = ()
    image_axis: tuple[int | None, ...] | None = None

    @property
    def op(self) -> str:
        """The public function's name."""
        return self.name.split()[0]

    def tensors(
        self, seed: int = 0, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> list[Tensor]:
        """The inputs on a device, the floating ones in ``dtype``."""
        return [
            t.to(device, dtype if t.is_floating_point() else t.dtype) for t in self.inputs(seed)
        ]

    def batch(self, seeds: Sequence[int], dtype: torch.dtype | None = None) -> list[Tensor]:
        """The images of several calls in one; where they are not independent, along axis 0."""
        calls = [self.tensors(seed, dtype=dtype) for seed in seeds]
        axes = self.image_axis if self.image_axis is not None else (0,) * len(calls[0])
        return [
            parts[0] if axis is None else torch.cat(parts, axis)
            for axis, parts in zip(axes, zip(*calls, strict=True), strict=True)
        ]


@dataclass(frozen=True)
class BadCall:
    """A call that must be refused, and the argument that the message must begin with."""

    what: str
    call: Callable[[], Any]
    names: str
    error: tuple[type[Exception], ...] = field(default=(InputError, TypeError))


@functools.cache
def case_modules() -> dict[str, ModuleType]:
    """The ``cases.py`` of each op."""
    ops = sorted(path.parent.name for path in Path(__file__).parent.glob("*/cases.py"))
    return {op: importlib.import_module(f"python_tests.ops.{op}.cases") for op in ops}


@functools.cache
def all_cases() -> tuple[OpCase, ...]:
    """Every case of every op."""
    return tuple(case for module in case_modules().values() for case in module.CASES)


def flat(result: Any) -> list[Tensor]:
    """All tensors of a result, whatever it is: a tensor, a list, a struct with absent fields."""
    if isinstance(result, Tensor):
        return [result]
    if result is None:
        return []
    if hasattr(result, "__dict__") and not isinstance(result, (list, tuple)):
        result = list(vars(result).values())
    return [tensor for part in result for tensor in flat(part)]


def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
    """Zeros that take no memory until they are written to."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    memory = mmap.mmap(-1, prod(shape) * dtype.itemsize, flags=flags)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
