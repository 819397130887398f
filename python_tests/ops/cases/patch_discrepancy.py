"""How to call ``patch_discrepancy``."""

from __future__ import annotations

import torch
from torch import Tensor

from medad_fast.ops import patch_discrepancy
from python_tests.ops.cases import OpCase

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
