"""How to call ``ssim``, and how not to."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from medad_fast.ops import ssim
from python_tests.ops.cases import BadCall, OpCase, zeros

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _images(seed: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 2, 21, 37, generator=rng)
    return [x, x + 0.2 * torch.randn(x.shape, generator=rng)]


def _tall_images(seed: int) -> list[Tensor]:
    """Tall enough to be cut into runs of rows, wide enough to be cut into strips."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(2, 1, 150, 350, generator=rng)
    return [x, x + 0.2 * torch.randn(x.shape, generator=rng)]


CASES = [
    OpCase(
        "ssim",
        _images,
        functools.partial(ssim, data_range=1.0),
        dtypes=TYPES,
        gradients=(0, 1),
    ),
    OpCase(
        "ssim map",
        _images,
        functools.partial(ssim, data_range=1.0, reduction="none"),
        dtypes=TYPES,
        gradients=(0, 1),
        image_axis=(0, 0),
    ),
    OpCase(
        "ssim map same",
        _tall_images,
        functools.partial(ssim, data_range=1.0, padding="same", reduction="none"),
        dtypes=TYPES,
        gradients=(0, 1),
        image_axis=(0, 0),
    ),
    OpCase(
        "ssim window of 7",
        _images,
        functools.partial(ssim, data_range=2.0, window_size=7, sigma=2.0, reduction="sum"),
        dtypes=TYPES,
        gradients=(0, 1),
    ),
]

IMAGE = torch.ones(2, 3, 12, 13)


def _bad(names: str, what: str, x: Any = IMAGE, y: Any = IMAGE, **options: Any) -> BadCall:
    return BadCall(f"{names}: {what}", lambda: ssim(x, y, **{"data_range": 1.0, **options}), names)


BAD_CALLS = [
    _bad("x", "no tensor", x=None),
    _bad("x", "a number", x=1.0),
    _bad("x", "an array", x=IMAGE.numpy()),
    _bad("x", "a list", x=[IMAGE]),
    _bad("y", "no tensor", y=None),
    _bad("y", "a list", y=[IMAGE]),
    _bad("x", "three axes", x=IMAGE[0], y=IMAGE[0]),
    _bad("x", "five axes", x=IMAGE[None], y=IMAGE[None]),
    _bad("x", "no axes", x=IMAGE.sum(), y=IMAGE.sum()),
    _bad("x", "no rows", x=IMAGE[:, :, :0], y=IMAGE[:, :, :0]),
    _bad("x", "no columns", x=IMAGE[..., :0], y=IMAGE[..., :0], padding="same"),
    _bad("x", "fewer rows than the window", x=IMAGE[:, :, :10], y=IMAGE[:, :, :10]),
    _bad("x", "fewer columns than the window", x=IMAGE[..., :10], y=IMAGE[..., :10]),
    _bad("x", "integers", x=IMAGE.int(), y=IMAGE.int()),
    _bad("x", "bytes", x=IMAGE.byte(), y=IMAGE.byte()),
    _bad("x", "truth values", x=IMAGE.bool(), y=IMAGE.bool()),
    _bad("x", "complex", x=IMAGE.to(torch.complex64), y=IMAGE.to(torch.complex64)),
    _bad("x", "sparse", x=IMAGE.to_sparse()),
    _bad("y", "sparse", y=IMAGE.to_sparse()),
    _bad("y", "of another type", y=IMAGE.double()),
    _bad("y", "of integers", y=IMAGE.int()),
    _bad("y", "on another device", y=IMAGE.to("meta")),
    _bad("y", "with fewer images", y=IMAGE[:1]),
    _bad("y", "with one channel", y=IMAGE[:, :1]),
    _bad("y", "turned", y=IMAGE.mT),
    _bad("y", "without the batch axis", y=IMAGE[0]),
    _bad("data_range", "zero", data_range=0.0),
    _bad("data_range", "negative", data_range=-1.0),
    _bad("data_range", "infinite", data_range=float("inf")),
    _bad("data_range", "NaN", data_range=float("nan")),
    _bad("data_range", "too small for its square", data_range=1e-200),
    _bad("data_range", "a tensor", data_range=torch.ones(())),
    _bad("data_range", "none", data_range=None),
    _bad("data_range", "a truth value", data_range=True),
    _bad("window_size", "even", window_size=10),
    _bad("window_size", "zero", window_size=0),
    _bad("window_size", "negative", window_size=-11),
    _bad("window_size", "a float", window_size=11.0),
    _bad("window_size", "a truth value", window_size=True),
    _bad("window_size", "a pair", window_size=(11, 11)),
    _bad("window_size", "huge", window_size=2**40 + 1, padding="same"),
    _bad("x", "smaller than a large window", window_size=15),
    _bad("sigma", "zero", sigma=0.0),
    _bad("sigma", "negative", sigma=-1.5),
    _bad("sigma", "infinite", sigma=float("inf")),
    _bad("sigma", "NaN", sigma=float("nan")),
    _bad("sigma", "a word", sigma="1.5"),
    _bad("sigma", "none", sigma=None),
    _bad("padding", "unknown", padding="reflect"),
    _bad("padding", "a number", padding=5),
    _bad("padding", "none", padding=None),
    _bad("reduction", "unknown", reduction="max"),
    _bad("reduction", "none", reduction=None),
]


def large() -> None:
    count, side = 2**9 + 1, 2**8
    both = zeros(count + 1, 2**6, side, side, dtype=torch.float16)
    assert both[1:].numel() > 2**31
    both[-1, -1] = torch.rand(side, side, generator=torch.Generator().manual_seed(0)).half()
    many = both[1:].requires_grad_()
    (grad,) = torch.autograd.grad(ssim(both[:-1], many, data_range=1.0, reduction="sum"), many)
    last = both[-1:].clone().requires_grad_()
    alone = ssim(both[:1].clone(), last, data_range=1.0, reduction="sum")
    assert torch.equal(grad[-1:], torch.autograd.grad(alone, last)[0])
    assert grad[-1, -1].count_nonzero() > side * side / 2  # a corner underflows
    assert grad[:-1].count_nonzero() == 0
