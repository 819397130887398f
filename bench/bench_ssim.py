"""SSIM and its gradient, fused against plain torch and pytorch-msssim, as it is and compiled.

    python -m bench.bench_ssim [--device cuda] [--threads 1] [--point tiny]

Points: one tiny (overhead), a batch of SALAD's images with the gradient to one side, the same in
bfloat16, to both sides, without a gradient and as a map, and one large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytorch_msssim
import torch
from torch import Tensor

from bench.harness import Benchmark, Candidate, Comparison, compare
from medad_fast.ops.ssim import ssim, ssim_reference

TAPS = 11


@dataclass(frozen=True)
class Point:
    """One line of the table."""

    name: str
    batch: int
    side: int
    gradients: int = 1  # to how many of the two images
    dtype: torch.dtype = torch.float32


POINTS = [
    Point("tiny", 1, 16),
    Point("16x1x256x256", 16, 256),
    Point("16x1x256x256 both sides", 16, 256, gradients=2),
    Point("16x1x256x256 value only", 16, 256, gradients=0),
    Point("16x1x256x256 bfloat16", 16, 256, dtype=torch.bfloat16),
    Point("large 2x1x1024x1024", 2, 1024),
]


def comparison(
    point: Point, device: torch.device, *, seconds: float, compiled: bool = True
) -> Comparison:
    """All candidates at one point."""
    rng = torch.Generator().manual_seed(0)
    shape = (point.batch, 1, point.side, point.side)
    drawn = torch.rand(shape, generator=rng)
    noisy = drawn + 0.1 * torch.randn(shape, generator=rng)
    images = [t.to(device, point.dtype) for t in (noisy, drawn)]

    def peer(x: Tensor, y: Tensor) -> Tensor:
        value: Tensor = pytorch_msssim.ssim(x.float(), y.float(), data_range=1.0)
        return value

    def candidate(of: Callable[[Tensor, Tensor], Tensor]) -> Candidate:
        if point.gradients == 0:
            return torch.no_grad()(lambda: of(*images))
        leaves = [t.detach().requires_grad_(i < point.gradients) for i, t in enumerate(images)]
        wanted = leaves[: point.gradients]

        def value_and_gradients() -> list[Tensor]:
            value = of(*leaves)
            return [value.detach(), *torch.autograd.grad(value, wanted)]

        return value_and_gradients

    def fused(x: Tensor, y: Tensor) -> Tensor:
        return ssim(x, y, data_range=1.0)

    def truth() -> list[Tensor]:
        leaves = [t.double().requires_grad_(i < point.gradients) for i, t in enumerate(images)]
        value = ssim_reference(*leaves, data_range=1.0)
        wanted = leaves[: point.gradients]
        return [value.detach(), *(torch.autograd.grad(value, wanted) if wanted else [])]

    candidates: dict[str, Candidate] = {
        "fused": candidate(fused),
        "eager": candidate(lambda x, y: ssim_reference(x, y, data_range=1.0)),
        "pytorch-msssim": candidate(peer),
    }
    if compiled:
        candidates["pytorch-msssim compiled"] = candidate(torch.compile(peer))
    blurs = 4 + (point.gradients + 2 if point.gradients else 0)
    pixels = drawn.numel()
    return compare(
        "ssim",
        candidates,
        shape=f"{point.name}: {point.batch} x 1 x {point.side} x {point.side}",
        dtype=point.dtype,
        device=device,
        truth=truth,
        # A gradient in a 16-bit type is rounded to it.
        tolerance=1e-4 if point.dtype == torch.float32 else 1e-2,
        flops=float(2 * 2 * TAPS * blurs * pixels),
        bytes_touched=float((2 + point.gradients) * pixels * images[0].itemsize),
        seconds=seconds,
    )


BENCHMARK = Benchmark("ssim", POINTS, comparison)
test_ssim = BENCHMARK.pytest()

if __name__ == "__main__":
    BENCHMARK.main()
