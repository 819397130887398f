"""PatchNCE and its gradient: fused against CUT's form and a lean one, eager and compiled.

    python -m bench.bench_patch_nce_loss [--device cuda] [--threads 1] [--point 16x256x256]

Points: one tiny (overhead), PatchCL-AE's own, one large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.harness import Benchmark, Candidate, Comparison, compare
from medad_fast.ops import patch_nce_loss, patch_nce_loss_reference

TEMPERATURE = 0.07

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Point:
    """Images, patches of each, features of a patch; gradients of the query or of both sides."""

    batch: int
    size: int
    depth: int
    both: bool

    @property
    def name(self) -> str:
        sides = "both" if self.both else "query"
        return f"{self.batch}x{self.size}x{self.depth} {sides}"


SIZES = [(1, 64, 64), (16, 256, 256), (4, 1024, 256)]
POINTS = [Point(*size, both) for size in SIZES for both in (False, True)]


def cut_loss(query: Tensor, key: Tensor) -> Tensor:
    """As CUT writes it: the diagonal filled, the positive as a column of its own."""
    batch, size, depth = query.shape
    rows = batch * size
    positive = torch.bmm(query.reshape(rows, 1, depth), key.reshape(rows, depth, 1))
    negative = torch.bmm(query, key.transpose(2, 1))
    diagonal = torch.eye(size, device=query.device, dtype=torch.bool)[None]
    negative = negative.masked_fill(diagonal, -10.0).view(-1, size)
    logits = torch.cat((positive.view(rows, 1), negative), dim=1) / TEMPERATURE
    target = torch.zeros(rows, dtype=torch.long, device=query.device)
    return F.cross_entropy(logits, target, reduction="none").mean()


def lean_loss(query: Tensor, key: Tensor) -> Tensor:
    """The same as ordinary cross-entropy over the square of logits."""
    batch, size = query.shape[:2]
    logits = torch.bmm(query, key.mT) / TEMPERATURE
    target = torch.arange(size, device=query.device).repeat(batch)
    return F.cross_entropy(logits.flatten(0, 1), target)


def comparison(
    point: Point, device: torch.device, *, seconds: float, compiled: bool = True
) -> Comparison:
    """Loss and gradient of the query, or of both sides."""
    batch, size, depth, both = point.batch, point.size, point.depth, point.both
    rng = torch.Generator().manual_seed(0)
    query, key = (
        F.normalize(torch.randn(batch, size, depth, generator=rng), dim=2).to(device)
        for _ in range(2)
    )

    def gradients(loss: Loss, q: Tensor = query, k: Tensor = key) -> Candidate:
        q = q.detach().requires_grad_()
        k = k.detach().requires_grad_(both)
        return lambda: torch.autograd.grad(loss(q, k), (q, k) if both else (q,))

    def fused(q: Tensor, k: Tensor) -> Tensor:
        return patch_nce_loss(q, k, detach_key=not both)

    def reference(q: Tensor, k: Tensor) -> Tensor:
        loss = patch_nce_loss_reference(q, k, detach_key=not both)
        assert isinstance(loss, Tensor)
        return loss

    candidates = {
        "fused": gradients(fused),
        "cut eager": gradients(cut_loss),
        "lean eager": gradients(lean_loss),
    }
    if compiled:
        candidates["cut compiled"] = gradients(torch.compile(cut_loss))
        candidates["lean compiled"] = gradients(torch.compile(lean_loss))
    units = 3 if both else 2
    return compare(
        "patch_nce_loss",
        candidates,
        shape=f"{batch}x{size}x{depth} {'both gradients' if both else 'query gradient'}",
        dtype=query.dtype,
        device=device,
        truth=gradients(reference, query.double(), key.double()),
        tolerance=1e-5,
        flops=units * 2.0 * batch * size * size * depth,
        seconds=seconds,
    )


BENCHMARK = Benchmark("patch_nce_loss", POINTS, comparison)
test_patch_nce_loss = BENCHMARK.pytest()

if __name__ == "__main__":
    BENCHMARK.main()
