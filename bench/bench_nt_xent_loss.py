"""NT-Xent and its gradient: fused against SimCLR's form, eager and compiled, and a lean one.

    python -m bench.bench_nt_xent_loss [--device cuda] [--threads 1] [--point 2x4096x128]

Points: one tiny (overhead), CRADL's own, one large.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.harness import Benchmark, Candidate, Comparison, compare
from medad_fast.ops import nt_xent_loss, nt_xent_loss_reference

TEMPERATURE = 0.5

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Point:
    """Images, and features of each of their two views."""

    pairs: int
    depth: int

    @property
    def name(self) -> str:
        return f"2x{self.pairs}x{self.depth}"


POINTS = [Point(8, 32), Point(64, 256), Point(4096, 128)]


def simclr_loss(z1: Tensor, z2: Tensor) -> Tensor:
    """As SimCLR's ports write it: positives picked out and set before the negatives."""
    pairs = z1.shape[0]
    rows = 2 * pairs
    units = F.normalize(torch.cat([z1, z2]), dim=1)
    similarity = units @ units.T
    positive = torch.cat([similarity.diag(pairs), similarity.diag(-pairs)]).view(rows, 1)
    itself = torch.eye(rows, dtype=torch.bool, device=z1.device)
    others = ~(itself | itself.roll(pairs, 0))
    logits = torch.cat([positive, similarity[others].view(rows, rows - 2)], 1) / TEMPERATURE
    return F.cross_entropy(logits, torch.zeros(rows, dtype=torch.long, device=z1.device))


def lean_loss(z1: Tensor, z2: Tensor) -> Tensor:
    """The same as ordinary cross-entropy over the square of logits."""
    pairs = z1.shape[0]
    units = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = units @ units.T / TEMPERATURE
    logits.diagonal().fill_(-math.inf)
    return F.cross_entropy(logits, torch.arange(2 * pairs, device=z1.device).roll(pairs))


def comparison(
    point: Point, device: torch.device, *, seconds: float, compiled: bool = True
) -> Comparison:
    """Loss and the gradients of both views."""
    pairs, depth = point.pairs, point.depth
    rng = torch.Generator().manual_seed(0)
    z1 = torch.randn(pairs, depth, generator=rng)
    z2 = (z1 + 0.5 * torch.randn(pairs, depth, generator=rng)).to(device)
    z1 = z1.to(device)

    def gradients(loss: Loss, dtype: torch.dtype = torch.float32) -> Candidate:
        a, b = (z.to(dtype).detach().requires_grad_() for z in (z1, z2))
        return lambda: torch.autograd.grad(loss(a, b), (a, b))

    candidates = {
        "fused": gradients(nt_xent_loss),
        "eager": gradients(simclr_loss),
        "lean eager": gradients(lean_loss),
    }
    if compiled:
        candidates["compiled"] = gradients(torch.compile(simclr_loss, dynamic=False))
    rows = 2 * pairs
    return compare(
        "nt_xent_loss",
        candidates,
        shape=point.name,
        dtype=z1.dtype,
        device=device,
        truth=gradients(nt_xent_loss_reference, torch.float64),
        tolerance=1e-5,
        flops=6.0 * rows * rows * depth,
        seconds=seconds,
    )


BENCHMARK = Benchmark("nt_xent_loss", POINTS, comparison)
test_nt_xent_loss = BENCHMARK.pytest()

if __name__ == "__main__":
    BENCHMARK.main()
