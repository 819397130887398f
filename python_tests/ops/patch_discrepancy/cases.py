"""How to call ``patch_discrepancy``, and how not to."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from medad_fast.ops import patch_discrepancy
from python_tests.ops.cases import BadCall, OpCase, zeros

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _maps(seed: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shapes = [(3, 6, 9, 8), (3, 17, 4, 5)]
    features = [torch.randn(shape, generator=rng) for shape in shapes]
    return features + [f + 0.3 * torch.randn(f.shape, generator=rng) for f in features]


def _with_heads(seed: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    widths = [(6, 5, 7), (17, 5, 7)]
    shapes = [s for c, h, d in widths for s in ((h, c), (h,), (d, h), (d,))]
    return _maps(seed) + [0.5 * torch.randn(shape, generator=rng) for shape in shapes]


CASES = [
    OpCase(
        "patch_discrepancy",
        _maps,
        lambda a, b, c, d: patch_discrepancy([a, b], [c, d], size=(11, 13)),
        dtypes=TYPES,
        gradients=(0, 1, 2, 3),
        image_axis=(0, 0, 0, 0),
    ),
    OpCase(
        "patch_discrepancy heads",
        _with_heads,
        lambda a, b, c, d, *heads: patch_discrepancy(
            [a, b], [c, d], size=(11, 13), heads=[heads[:4], heads[4:]]
        ),
        dtypes=TYPES,
        image_axis=(0, 0, 0, 0) + (None,) * 8,
    ),
]

_MAP = torch.ones(2, 3, 4, 5)
_W1, _B1, _W2, _B2 = _HEAD = tuple(torch.ones(shape) for shape in ((6, 3), (6,), (4, 6), (4,)))


def _bad(what: str, names: str, features: Any, reconstructed: Any, **options: Any) -> BadCall:
    options = {"size": 4, **options}
    return BadCall(what, lambda: patch_discrepancy(features, reconstructed, **options), names)


def _both(what: str, names: str, map_: Any) -> BadCall:
    return _bad(what, names, [map_], [map_])


def _heads(what: str, names: str, heads: Any) -> BadCall:
    return _bad(what, names, [_MAP], [_MAP], heads=heads)


BAD_CALLS = [
    _bad("features a tensor", "features", _MAP, [_MAP]),
    _bad("reconstructed a tensor", "reconstructed", [_MAP], _MAP),
    _bad("features None", "features", None, [_MAP]),
    _bad("reconstructed None", "reconstructed", [_MAP], None),
    _bad("features a generator", "features", (m for m in [_MAP]), [_MAP]),
    _bad("no layers", "features", [], []),
    _bad("a layer None", "features[0]", [None], [_MAP]),
    _bad("a layer a number", "reconstructed[0]", [_MAP], [1.0]),
    _bad("a layer of numpy", "features[0]", [_MAP.numpy()], [_MAP]),
    _bad("fewer layers reconstructed", "reconstructed", [_MAP, _MAP], [_MAP]),
    _bad("more layers reconstructed", "reconstructed", [_MAP], [_MAP, _MAP]),
    _both("three axes", "features[0]", _MAP[0]),
    _both("five axes", "features[0]", _MAP[None]),
    _both("no axes", "features[0]", torch.tensor(1.0)),
    _bad("other channels", "reconstructed[0]", [_MAP], [_MAP[:, :2]]),
    _bad("height and width swapped", "reconstructed[0]", [_MAP], [_MAP.mT]),
    _bad("another batch", "reconstructed[0]", [_MAP], [_MAP[:1]]),
    _bad("layers of two batches", "features[1]", [_MAP, _MAP[:1]], [_MAP, _MAP[:1]]),
    _both("no height", "features[0]", _MAP[:, :, :0]),
    _both("no width", "features[0]", _MAP[..., :0]),
    _both("int32", "features[0]", _MAP.int()),
    _both("bool", "features[0]", _MAP.bool()),
    _both("complex64", "features[0]", _MAP.to(torch.complex64)),
    _both("float8", "features[0]", _MAP.to(torch.float8_e4m3fn)),
    _bad("float64 beside float32", "reconstructed[0]", [_MAP], [_MAP.double()]),
    _bad("layers of two dtypes", "features[1]", [_MAP, _MAP.half()], [_MAP, _MAP.half()]),
    _bad("sparse", "features[0]", [_MAP.to_sparse()], [_MAP]),
    _bad("mkldnn", "reconstructed[0]", [_MAP], [_MAP.to_mkldnn()]),
    _bad("meta beside cpu", "reconstructed[0]", [_MAP], [_MAP.to("meta")]),
    *(
        _bad(f"size {size!r}", "size", [_MAP], [_MAP], size=size)
        for size in (0, -3, (4, 0), (4, 4, 4), (), 2**31, 4.5, (4, 4.0), True, "4", None)
    ),
    *(
        _bad(f"reduction {reduction!r}", "reduction", [_MAP], [_MAP], reduction=reduction)
        for reduction in ("max", None, 0)
    ),
    _heads("heads a tensor", "heads", _W1),
    _heads("no heads", "heads", []),
    _heads("more heads than layers", "heads", [_HEAD, _HEAD]),
    _heads("a head a tensor", "heads[0]", [_W1]),
    _heads("a head of three", "heads[0]", [_HEAD[:3]]),
    _heads("a bias None", "heads[0].b2", [(_W1, _B1, _W2, None)]),
    _heads("w1 of other channels", "heads[0].w1", [(_W1[:, :2], _B1, _W2, _B2)]),
    _heads("w1 transposed", "heads[0].w1", [(_W1.T, _B1, _W2, _B2)]),
    _heads("b1 cut short", "heads[0].b1", [(_W1, _B1[:5], _W2, _B2)]),
    _heads("w2 transposed", "heads[0].w2", [(_W1, _B1, _W2.T, _B2)]),
    _heads("b2 of two axes", "heads[0].b2", [(_W1, _B1, _W2, _B2[None])]),
    _heads("w1 a number", "heads[0].w1", [(torch.tensor(1.0), _B1, _W2, _B2)]),
    _heads("heads of float64", "heads[0]", [tuple(part.double() for part in _HEAD)]),
    _heads("heads on meta", "heads[0]", [tuple(part.to("meta") for part in _HEAD)]),
]


def large() -> None:
    channels, side = 2**15 + 8, 2**8
    both = zeros(1, channels + 1, side, side, dtype=torch.float16)
    assert both[:, 1:].numel() > 2**31
    both[0, -2, -1, -1], both[0, -1, -1, -1] = 3, 4
    out = patch_discrepancy([both[:, :-1]], [both[:, 1:]], size=side)
    # The last vectors are (..., 0, 3) and (..., 3, 4): a cosine of 4 / 5.
    assert math.isclose(out[0, 0, -1, -1].item(), 0.2, rel_tol=1e-5)
    assert out.count_nonzero() == 1
