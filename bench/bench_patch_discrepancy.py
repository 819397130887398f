"""Patch discrepancy, forward and with its gradient, fused against plain torch, eager and compiled.

    python -m bench.bench_patch_discrepancy [--device cuda] [--threads 1] [--point encoder]

Points: one tiny (overhead), the layers of an encoder at 224 pixels (in several layouts and types),
one large, and PatchCL-AE's own with its projection heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.harness import Benchmark, Candidate, Comparison, compare
from medad_fast.ops.patch_discrepancy import patch_discrepancy, patch_discrepancy_reference

Shape = tuple[int, int, int]
Head = tuple[Tensor, Tensor, Tensor, Tensor]
Map = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]

ENCODER: tuple[Shape, ...] = ((64, 112, 112), (128, 56, 56), (256, 28, 28))
PATCHCL_AE: tuple[Shape, ...] = ((256, 56, 56), (256, 56, 56), (256, 28, 28), (256, 28, 28))


@dataclass(frozen=True)
class Point:
    """One line of the table."""

    name: str
    layers: tuple[Shape, ...]
    batch: int
    size: int
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    heads: int = 0  # their width, hidden and projected
    gradient: bool = False


POINTS = [
    Point("tiny", ((8, 4, 4), (8, 2, 2)), 1, 16),
    Point("encoder", ENCODER, 16, 224),
    Point("encoder channels_last", ENCODER, 16, 224, channels_last=True),
    Point("encoder bfloat16", ENCODER, 16, 224, dtype=torch.bfloat16),
    Point("encoder gradient", ENCODER, 16, 224, gradient=True),
    Point("large", ((64, 256, 256), (128, 128, 128), (256, 64, 64)), 8, 512),
    Point("PatchCL-AE heads", PATCHCL_AE, 16, 224, heads=256),
]


def cosine_map(
    features: Sequence[Tensor],
    reconstructed: Sequence[Tensor],
    heads: Sequence[Head] | None,
    size: int,
) -> Tensor:
    """As it is usually written."""
    total = torch.zeros((), device=features[0].device)
    for layer, (a, b) in enumerate(zip(features, reconstructed, strict=True)):
        if heads is not None:
            w1, b1, w2, b2 = heads[layer]
            a, b = (
                F.conv2d(F.relu(F.conv2d(x, w1[:, :, None, None], b1)), w2[:, :, None, None], b2)
                for x in (a, b)
            )
        distance = 1 - F.cosine_similarity(a, b, dim=1)[:, None]
        total = total + F.interpolate(distance, size, mode="bilinear", align_corners=False)
    return total


def comparison(
    point: Point, device: torch.device, *, seconds: float, compiled: bool = True
) -> Comparison:
    """All candidates at one point."""
    rng = torch.Generator().manual_seed(0)
    order = torch.channels_last if point.channels_last else torch.contiguous_format

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    drawn = [draw(point.batch, *layer) for layer in point.layers]
    moved = [x + 0.3 * draw(*x.shape) for x in drawn]
    features = [x.to(device, point.dtype, memory_format=order) for x in drawn]
    reconstructed = [x.to(device, point.dtype, memory_format=order) for x in moved]
    heads = None
    if point.heads:
        width = point.heads
        heads = [
            (draw(width, c) / c**0.5, draw(width), draw(width, width) / width**0.5, draw(width))
            for c, _, _ in point.layers
        ]
        heads = [
            (w1.to(device), b1.to(device), w2.to(device), b2.to(device)) for w1, b1, w2, b2 in heads
        ]

    def fused(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        result = patch_discrepancy(a, b, size=point.size, heads=heads)
        assert isinstance(result, Tensor)
        return result

    def eager(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        return cosine_map(a, b, heads, point.size)

    def candidate(of: Map) -> Candidate:
        if not point.gradient:
            return torch.no_grad()(lambda: of(features, reconstructed))
        leaves = [x.detach().requires_grad_() for x in reconstructed]
        return lambda: torch.autograd.grad(of(features, leaves).sum(), leaves)

    def truth() -> Tensor | Sequence[Tensor]:
        wide = [x.double() for x in features]
        leaves = [x.double().requires_grad_(point.gradient) for x in reconstructed]
        exact = None
        if heads is not None:
            exact = [
                (w1.double(), b1.double(), w2.double(), b2.double()) for w1, b1, w2, b2 in heads
            ]
        result = patch_discrepancy_reference(wide, leaves, size=point.size, heads=exact)
        assert isinstance(result, Tensor)
        return torch.autograd.grad(result.sum(), leaves) if point.gradient else result

    candidates = {"fused": candidate(fused), "eager": candidate(eager)}
    if compiled:
        candidates["compiled"] = candidate(torch.compile(eager))
    elements = sum(x.numel() for x in features)
    positions = sum(x.shape[2] * x.shape[3] for x in features) * point.batch
    per_position = 2 * 2 * (point.layers[0][0] + point.heads) * point.heads
    return compare(
        "patch_discrepancy",
        candidates,
        shape=f"{point.name}: {point.batch} x {point.layers} to {point.size}",
        dtype=point.dtype,
        device=device,
        truth=truth,
        # Eager works in the inputs' type.
        tolerance=1e-4 if point.dtype == torch.float32 else 0.1,
        flops=float(per_position * positions) if point.heads else None,
        bytes_touched=float((3 if point.gradient else 2) * elements * features[0].itemsize),
        seconds=seconds,
    )


BENCHMARK = Benchmark("patch_discrepancy", POINTS, comparison)
test_patch_discrepancy = BENCHMARK.pytest()

if __name__ == "__main__":
    BENCHMARK.main()
