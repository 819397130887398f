"""How to call ``smooth_saliency``, and how not to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medad_fast.ops import smooth_saliency
from python_tests.ops.cases import BadCall, OpCase, zeros

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _draw(seed: int, *shape: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    image = torch.rand(shape, generator=rng)
    return [torch.randn(shape, generator=rng), image * (image > 0.3)]


CASES = [
    OpCase(
        "smooth_saliency",
        lambda seed: _draw(seed, 4, 1, 21, 19),
        smooth_saliency,
        dtypes=TYPES,
        image_axis=(0, 0),
    ),
    OpCase(
        "smooth_saliency channels and bands",
        lambda seed: _draw(seed, 2, 3, 71, 9),
        smooth_saliency,
        dtypes=TYPES,
        image_axis=(0, 0),
    ),
]

G = torch.ones(2, 3, 4, 5)


def _bad(what: str, names: str, gradient: Any, image: Any) -> BadCall:
    return BadCall(what, lambda: smooth_saliency(gradient, image), names)


BAD_CALLS = [
    _bad("None for the gradient", "gradient", None, G),
    _bad("None for the image", "image", G, None),
    _bad("a list", "gradient", [G], G),
    _bad("a list of images", "image", G, [G]),
    _bad("an array", "gradient", G.numpy(), G),
    _bad("an array as image", "image", G, G.numpy()),
    _bad("a number", "gradient", 1.0, G),
    _bad("a text", "image", G, "image"),
    _bad("integers", "gradient", G.int(), G.int()),
    _bad("an image of integers", "image", G, G.int()),
    _bad("bytes", "gradient", G.byte(), G.byte()),
    _bad("an image of bytes", "image", G, G.byte()),
    _bad("booleans", "gradient", G.bool(), G),
    _bad("a mask as image", "image", G, G != 0),
    _bad("complex numbers", "gradient", G.to(torch.complex64), G.to(torch.complex64)),
    _bad("sparse", "gradient", G.to_sparse(), G),
    _bad("a sparse image", "image", G, G.to_sparse()),
    _bad("one image", "gradient", G[0], G[0]),
    _bad("a batch and one image", "image", G, G[0]),
    _bad("one picture", "gradient", G[0, 0], G[0, 0]),
    _bad("five axes", "gradient", G[None], G[None]),
    _bad("an image of five axes", "image", G, G[None]),
    _bad("a scalar", "gradient", torch.tensor(1.0), G),
    _bad("a scalar image", "image", G, torch.tensor(1.0)),
    _bad("no channels", "gradient", G[:, :0], G[:, :0]),
    _bad("another batch", "image", G, G[:1]),
    _bad("other channels", "image", G, G[:, :1]),
    _bad("another height", "image", G, G[:, :, 1:]),
    _bad("another width", "image", G, G[..., 1:]),
    _bad("a turned image", "image", G, G.mT),
    _bad("another dtype", "image", G, G.double()),
    _bad("a half beside floats", "image", G, G.half()),
    _bad("floats beside a bfloat16", "image", G.bfloat16(), G),
    _bad("another device", "image", G, G.to("meta")),
]


def large() -> None:
    count, side = 2**9 + 1, 2**8
    gradient = zeros(count, 2**6, side, side, dtype=torch.float16)
    assert gradient.numel() > 2**31
    gradient[-1, -1] = torch.rand(side, side, generator=torch.Generator().manual_seed(0)).half()
    many = smooth_saliency(gradient, gradient)
    last = gradient[-1:].clone()
    assert torch.equal(many[-1:], smooth_saliency(last, last))
    assert many[-1].amax() > 0.2
    assert many[:-1].count_nonzero() == 0
