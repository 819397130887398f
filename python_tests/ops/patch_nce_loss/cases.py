"""How to call ``patch_nce_loss``, and how not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medad_fast.ops import patch_nce_loss
from python_tests.ops.cases import BadCall, OpCase, zeros

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _rows(*shapes: tuple[int, int, int], seed: int) -> list[Tensor]:
    """Queries, then keys, of unit length."""
    rng = torch.Generator().manual_seed(seed)
    keys = [torch.randn(shape, generator=rng) for shape in shapes]
    queries = [key + torch.randn(key.shape, generator=rng) for key in keys]
    return [F.normalize(rows, dim=2) for rows in (*queries, *keys)]


CASES = [
    OpCase(
        "patch_nce_loss",
        lambda seed: _rows((3, 37, 19), seed=seed),
        lambda query, key: patch_nce_loss(query, key, detach_key=False, reduction="none"),
        dtypes=TYPES,
        gradients=(0, 1),
        image_axis=(0, 0),
    ),
    OpCase(
        "patch_nce_loss layers",
        lambda seed: _rows((2, 20, 12), (2, 33, 7), seed=seed),
        lambda a, b, c, d: patch_nce_loss([a, b], [c, d], detach_key=False, exact_cut=True),
        dtypes=TYPES,
        gradients=(0, 1, 2, 3),
    ),
    OpCase(
        "patch_nce_loss batch",
        lambda seed: _rows((3, 21, 16), seed=seed),
        lambda query, key: patch_nce_loss(query, key, negatives="batch", reduction="sum"),
        dtypes=TYPES,
        gradients=(0,),
    ),
]

_X = torch.rand(2, 5, 3)


def _bad(what: str, names: str, query: Any = _X, key: Any = _X, **options: Any) -> BadCall:
    return BadCall(what, lambda: patch_nce_loss(query, key, **options), names)


BAD_CALLS = [
    _bad("no query", "query", None),
    _bad("no key", "key", _X, None),
    _bad("a number", "query", 3.0),
    _bad("numpy", "query", _X.numpy()),
    _bad("text", "query", "ab"),
    _bad("a dictionary", "query", {}),
    _bad("no layers", "query", [], []),
    _bad("no layers of keys", "key", [_X], []),
    _bad("fewer layers of keys", "key", [_X, _X], [_X]),
    _bad("a layer against a tensor", "key", [_X], _X),
    _bad("a tensor against a layer", "key", _X, [_X]),
    _bad("a layer None", "query[1]", [_X, None], [_X, _X]),
    _bad("a layer a number", "key[1]", [_X, _X], [_X, 1]),
    _bad("int64", "query", _X.long(), _X.long()),
    _bad("bool", "query", _X.bool(), _X.bool()),
    _bad("complex64", "query", _X.cfloat(), _X.cfloat()),
    _bad("float8", "query", _X.to(torch.float8_e5m2), _X.to(torch.float8_e5m2)),
    _bad("float64 keys", "key", _X, _X.double()),
    _bad("two 16-bit dtypes", "key", _X.half(), _X.bfloat16()),
    _bad("layers of two dtypes", "query[1]", [_X, _X.double()], [_X, _X.double()]),
    _bad("two axes", "query", _X[0], _X[0]),
    _bad("four axes", "query", _X[None], _X[None]),
    _bad("no axes", "query", _X[0, 0, 0], _X[0, 0, 0]),
    _bad("no features", "query", _X[..., :0], _X[..., :0]),
    _bad("fewer images of keys", "key", _X, _X[:1]),
    _bad("fewer rows of keys", "key", _X, _X[:, :4]),
    _bad("fewer features of keys", "key", _X, _X[..., :2]),
    _bad("keys of two axes", "key", _X, _X[0]),
    _bad("fewer keys in a layer", "key[1]", [_X, _X], [_X, _X[:1]]),
    _bad("meta beside cpu", "key", _X, _X.to("meta")),
    _bad("a layer on meta", "query[1]", [_X, _X.to("meta")], [_X, _X.to("meta")]),
    _bad("sparse", "query", _X.to_sparse()),
    _bad("mkldnn", "key", _X, _X.to_mkldnn()),
    *(
        _bad(f"temperature {value!r}", "temperature", temperature=value)
        for value in (0, -0.07, np.nan, np.inf, "0.07", None, True, torch.tensor(0.07))
    ),
    _bad("negatives of all", "negatives", negatives="all"),
    _bad("negatives None", "negatives", negatives=None),
    _bad("reduction max", "reduction", reduction="max"),
    _bad("reduction True", "reduction", reduction=True),
    _bad("detach_key a number", "detach_key", detach_key=1),
    _bad("exact_cut text", "exact_cut", exact_cut="yes"),
]


def large() -> None:
    # float32, since 16-bit tensors are widened on the CPU: 17 GB.
    images, depth = 2**20 + 8, 1024
    rows = zeros(images, 2, depth, dtype=torch.float32)
    assert rows.numel() > 2**31
    rows[-1, 1, -1] = 1
    losses = patch_nce_loss(rows, rows, temperature=1.0, reduction="none")
    assert math.isclose(losses[-1, 1].item(), math.log(1 + 2.718281828459045) - 1, rel_tol=1e-5)
    assert (losses.flatten()[:-1] - math.log(2)).abs().max() < 1e-6
