"""CRADL's smoothed saliency, fused against plain torch (unfold, median, convolution).

    python -m bench.bench_smooth_saliency [--device cuda] [--threads 1] [--point tiny]

Points: one tiny (overhead), CRADL's own (64 slices of 128 pixels), one large.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.harness import Benchmark, Candidate, Comparison, compare
from medad_fast.ops.smooth_saliency import smooth_saliency, smooth_saliency_reference


@dataclass(frozen=True)
class Point:
    """One line of the table."""

    name: str
    batch: int
    side: int


POINTS = [
    Point("tiny", 1, 32),
    Point("64x1x128x128", 64, 128),
    Point("4x1x512x512", 4, 512),
]


def as_written(gradient: Tensor, image: Tensor, kernel: Tensor) -> Tensor:
    """As it is usually written; the median along the last axis, where torch is fastest at it."""
    saliency = gradient.abs() * (image != 0)
    padded = F.pad(saliency, (2, 2, 2, 2), mode="reflect")
    windows = padded.unfold(2, 5, 1).unfold(3, 5, 1).flatten(-2)
    return F.conv2d(windows.median(-1).values, kernel, padding=3)


def comparison(
    point: Point, device: torch.device, *, seconds: float, compiled: bool = True
) -> Comparison:
    """All candidates at one point."""
    rng = torch.Generator().manual_seed(0)
    shape = (point.batch, 1, point.side, point.side)
    gradient = torch.randn(shape, generator=rng)
    image = torch.rand(shape, generator=rng)
    image *= image > 0.3
    gradient, image = gradient.to(device), image.to(device)
    taps = torch.exp(-(torch.arange(-3.0, 4.0, device=device) ** 2) / 18)
    taps /= taps.sum()
    kernel = (taps[:, None] * taps)[None, None]

    candidates: dict[str, Candidate] = {
        "fused": lambda: smooth_saliency(gradient, image),
        "eager": lambda: as_written(gradient, image, kernel),
    }
    if compiled:
        compiled_form = torch.compile(as_written)
        candidates["compiled"] = lambda: compiled_form(gradient, image, kernel)
    return compare(
        "smooth_saliency",
        candidates,
        shape=f"{point.name}: {point.batch} x 1 x {point.side} x {point.side}",
        dtype=gradient.dtype,
        device=device,
        truth=lambda: smooth_saliency_reference(gradient.double(), image.double()),
        tolerance=1e-5,
        bytes_touched=3.0 * gradient.nbytes,
        seconds=seconds,
    )


BENCHMARK = Benchmark("smooth_saliency", POINTS, comparison)
test_smooth_saliency = BENCHMARK.pytest()

if __name__ == "__main__":
    BENCHMARK.main()
