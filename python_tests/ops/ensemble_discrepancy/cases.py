"""How to call ``ensemble_discrepancy``, and how not to."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from medad_fast.ops import ensemble_discrepancy
from python_tests.ops.cases import BadCall, OpCase, zeros

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _ensembles(seed: int, unknown: int = 3, normal: int = 3) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shape = (4, 2, 13, 11)
    return [torch.rand(unknown, *shape, generator=rng), torch.rand(normal, *shape, generator=rng)]


def _with_image(seed: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed + 1)
    return [*_ensembles(seed), torch.rand(4, 2, 13, 11, generator=rng)]


def _with_all(seed: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed + 2)
    return [
        *_ensembles(seed, 2, 5),
        torch.rand(4, 2, 13, 11, generator=rng),
        torch.randn(5, 4, 2, 13, 11, generator=rng),
    ]


CASES = [
    OpCase(
        "ensemble_discrepancy",
        _with_image,
        lambda u, n, x: ensemble_discrepancy(u, n, image=x),
        dtypes=TYPES,
        image_axis=(1, 1, 0),
    ),
    OpCase(
        "ensemble_discrepancy log-variance",
        _with_all,
        lambda u, n, x, s: ensemble_discrepancy(u, n, image=x, log_variance=s),
        dtypes=TYPES,
        image_axis=(1, 1, 0, 1),
    ),
    OpCase(
        "ensemble_discrepancy without an image",
        _ensembles,
        lambda u, n: ensemble_discrepancy(u, n),
        dtypes=TYPES,
        image_axis=(1, 1),
    ),
]

U, X = torch.ones(3, 2, 1, 4, 5), torch.ones(2, 1, 4, 5)


def _bad(what: str, names: str, *arguments: Any, **options: Any) -> BadCall:
    return BadCall(what, lambda: ensemble_discrepancy(*arguments, **options), names)


BAD_CALLS = [
    _bad("None for unknown", "unknown", None, U),
    _bad("None for normal", "normal", U, None),
    _bad("a list of members", "unknown", list(U), U),
    _bad("a list of normal members", "normal", U, list(U)),
    _bad("an array", "unknown", U.numpy(), U),
    _bad("a number", "normal", U, 1.0),
    _bad("integers", "unknown", U.int(), U.int()),
    _bad("bytes", "unknown", U.byte(), U.byte()),
    _bad("booleans", "unknown", U.bool(), U.bool()),
    _bad("complex numbers", "unknown", U.to(torch.complex64), U.to(torch.complex64)),
    _bad("sparse", "unknown", U.to_sparse(), U),
    _bad("sparse normal", "normal", U, U.to_sparse()),
    _bad("one member without its axis", "unknown", U[0], U),
    _bad("normal without the axis of members", "normal", U, U[0]),
    _bad("six axes", "unknown", U[None], U[None]),
    _bad("a scalar", "normal", U, torch.tensor(1.0)),
    _bad("no unknown members", "unknown", U[:0], U),
    _bad("no normal members", "normal", U, U[:0]),
    _bad("another batch", "normal", U, U[:, :1]),
    _bad("other channels", "normal", U, U.expand(3, 2, 2, 4, 5)),
    _bad("another height", "normal", U, U[:, :, :, 1:]),
    _bad("turned images", "normal", U, U.mT),
    _bad("another dtype", "normal", U, U.double()),
    _bad("a half beside floats", "normal", U, U.half()),
    _bad("another device", "normal", U, U.to("meta")),
    _bad("an image that is no tensor", "image", U, U, image=1),
    _bad("an image with members", "image", U, U, image=U),
    _bad("one image of the batch", "image", U, U, image=X[0]),
    _bad("an image of another size", "image", U, U, image=X[..., 1:]),
    _bad("an image of another batch", "image", U, U, image=X[:1]),
    _bad("an image of bytes", "image", U, U, image=X.byte()),
    _bad("an image of another dtype", "image", U, U, image=X.double()),
    _bad("an image elsewhere", "image", U, U, image=X.to("meta")),
    _bad("a sparse image", "image", U, U, image=X.to_sparse()),
    _bad("a log-variance that is no tensor", "log_variance", U, U, log_variance=[U]),
    _bad("a log-variance for one member", "log_variance", U, U, log_variance=U[:1]),
    _bad("a log-variance without members", "log_variance", U, U, log_variance=X),
    _bad("a log-variance of another dtype", "log_variance", U, U, log_variance=U.bfloat16()),
    _bad("a log-variance elsewhere", "log_variance", U, U, log_variance=U.to("meta")),
]


def large() -> None:
    members, side = 64, 2**12
    normal = zeros(members, 2, 1, side, side + 1, dtype=torch.float16)
    assert normal.numel() > 2**31
    normal[-1, -1, -1, -1, -1] = 64
    found = ensemble_discrepancy(normal[:2], normal)
    for value, wanted in ((found.inter, 1.0), (found.intra, 8.0)):
        assert math.isclose(value[-1, -1, -1, -1].item(), wanted, rel_tol=1e-5)
        assert value.count_nonzero() == 1
