"""Patch discrepancy: against plain torch, by hand, its laws, layouts, refusals, registration."""

from __future__ import annotations

import pytest
import torch

from medad_fast.ops.patch_discrepancy import patch_discrepancy, patch_discrepancy_reference
from python_tests.close import assert_as_accurate_as

LAYERS = [
    [(1, 1, 1)],
    [(3, 7, 5), (16, 4, 9)],
    [(64, 28, 28), (37, 14, 13), (5, 7, 1), (130, 3, 33)],
]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def _maps(layers, batch, device, dtype, apart=0.3):
    rng = torch.Generator().manual_seed(0)
    features = [torch.randn(batch, *s, generator=rng, dtype=torch.float64) for s in layers]
    noise = [torch.randn(batch, *s, generator=rng, dtype=torch.float64) for s in layers]
    reconstructed = [f + apart * n for f, n in zip(features, noise, strict=True)]
    return [[m.to(device, dtype) for m in side] for side in (features, reconstructed)]


def _cast(maps, dtype):
    return [m.to(dtype) for m in maps]


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layers", LAYERS)
def test_matches_reference(layers, dtype, reduction, device):
    features, reconstructed = _maps(layers, 2, device, dtype)
    assert_as_accurate_as(
        patch_discrepancy(features, reconstructed, size=(14, 31), reduction=reduction),
        lambda d: patch_discrepancy_reference(
            _cast(features, d), _cast(reconstructed, d), size=(14, 31), reduction=reduction
        ),
    )
