"""How to call ``nt_xent_loss``, and how not."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from medad_fast.ops import nt_xent_loss
from python_tests.ops.cases import BadCall, OpCase

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _views(pairs: int, depth: int, seed: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    z1 = torch.randn(pairs, depth, generator=rng)
    return [z1, z1 + 0.7 * torch.randn(pairs, depth, generator=rng)]


CASES = [
    OpCase(
        "nt_xent_loss",
        lambda seed: _views(75, 19, seed),
        lambda z1, z2: nt_xent_loss(z1, z2),
        dtypes=TYPES,
        gradients=(0, 1),
    ),
    OpCase(
        "nt_xent_loss cold",
        lambda seed: _views(75, 19, seed),
        lambda z1, z2: nt_xent_loss(z1, z2, temperature=0.01),
        dtypes=TYPES,
        gradients=(0, 1),
    ),
]

X = torch.rand(5, 3)
_CALLS: list[tuple[str, Any, Any, dict[str, Any], str]] = [
    ("no tensor", None, X, {}, "z1"),
    ("no other tensor", X, None, {}, "z2"),
    ("a number", 3.0, X, {}, "z1"),
    ("a list", [X], [X], {}, "z1"),
    ("a list for z2", X, [X], {}, "z2"),
    ("numpy", X.numpy(), X, {}, "z1"),
    ("text", X, "z2", {}, "z2"),
    ("int64", X.long(), X.long(), {}, "z1"),
    ("int64 z2", X, X.long(), {}, "z2"),
    ("bool", X.bool(), X.bool(), {}, "z1"),
    ("uint8", X.byte(), X.byte(), {}, "z1"),
    ("complex", X.cfloat(), X.cfloat(), {}, "z1"),
    ("float8", X.to(torch.float8_e5m2), X.to(torch.float8_e5m2), {}, "z1"),
    ("other dtype", X, X.double(), {}, "z2"),
    ("other half dtype", X.half(), X.bfloat16(), {}, "z2"),
    ("one axis", X[0], X[0], {}, "z1"),
    ("no axis", X[0, 0], X[0, 0], {}, "z1"),
    ("three axes", X[None], X[None], {}, "z1"),
    ("three axes in z2", X, X[None], {}, "z2"),
    ("no columns", X[:, :0], X[:, :0], {}, "z1"),
    ("fewer rows", X, X[:4], {}, "z2"),
    ("a row that would broadcast", X, X[:1], {}, "z2"),
    ("fewer columns", X, X[:, :2], {}, "z2"),
    ("transposed", X, X.T, {}, "z2"),
    ("meta against cpu", X, X.to("meta"), {}, "z2"),
    ("cpu against meta", X.to("meta"), X, {}, "z2"),
    ("sparse", X.to_sparse(), X.to_sparse(), {}, "z1"),
    ("sparse rows", X, X.to_sparse(1), {}, "z2"),
    ("mkldnn", X, X.to_mkldnn(), {}, "z2"),
    ("temperature 0", X, X, {"temperature": 0}, "temperature"),
    ("negative temperature", X, X, {"temperature": -0.5}, "temperature"),
    ("nan temperature", X, X, {"temperature": np.nan}, "temperature"),
    ("infinite temperature", X, X, {"temperature": np.inf}, "temperature"),
    ("temperature as text", X, X, {"temperature": "0.5"}, "temperature"),
    ("no temperature", X, X, {"temperature": None}, "temperature"),
    ("temperature as bool", X, X, {"temperature": True}, "temperature"),
    ("temperature as tensor", X, X, {"temperature": torch.tensor(0.5)}, "temperature"),
    ("complex temperature", X, X, {"temperature": 0.5 + 0j}, "temperature"),
]
BAD_CALLS = [
    BadCall(what, lambda z1=z1, z2=z2, options=options: nt_xent_loss(z1, z2, **options), names)
    for what, z1, z2, options, names in _CALLS
]

# Its indices are 64-bit, but nothing here has memory for such a call.
large = "its unit vectors, packed along either side, would take 26 GB"
