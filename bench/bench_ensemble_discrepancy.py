"""The maps of DDAD, fused against plain torch: as written, unrolled over the members, compiled.

    python -m bench.bench_ensemble_discrepancy [--device cuda] [--threads 1] [--point tiny]

Points: one tiny (overhead), DDAD's own (three members each, 64 pixels), one large, and the large
one with predicted log-variances and in bfloat16. All three maps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.harness import Benchmark, Candidate, Comparison, compare
from medad_fast.ops.ensemble_discrepancy import (
    EnsembleDiscrepancy,
    ensemble_discrepancy,
    ensemble_discrepancy_reference,
)


@dataclass(frozen=True)
class Point:
    """One line of the table."""

    name: str
    members: int
    batch: int
    side: int
    dtype: torch.dtype = torch.float32
    log_variance: bool = False


POINTS = [
    Point("tiny", 3, 1, 16),
    Point("K=3+3, 64x1x64x64", 3, 64, 64),
    Point("K=3+3, 16x1x256x256", 3, 16, 256),
    Point("K=3+3, 16x1x256x256 log-variance", 3, 16, 256, log_variance=True),
    Point("K=3+3, 16x1x256x256 bfloat16", 3, 16, 256, dtype=torch.bfloat16),
]


def as_written(
    unknown: Tensor, normal: Tensor, image: Tensor, log_variance: Tensor | None
) -> list[Tensor]:
    """The definition, as it is usually written; in float32 at least."""
    mean = normal.mean(0)
    inter, intra = (unknown.mean(0) - mean).abs(), torch.std(normal, 0)
    reconstruction = (image - mean) ** 2
    if log_variance is None:
        return [inter, intra, reconstruction]
    variance = log_variance.exp().mean(0)
    return [inter / variance.sqrt(), intra / variance.sqrt(), reconstruction / variance]


def unrolled(
    unknown: Tensor, normal: Tensor, image: Tensor, log_variance: Tensor | None
) -> list[Tensor]:
    """The same without reductions over an axis, which torch is slow at on the CPU."""

    def mean_of(members: Tensor) -> Tensor:
        total = members[0] + members[1]
        for member in members[2:]:
            total += member
        return total.div_(len(members))

    mean = mean_of(normal)
    squares = (normal[0] - mean).square_()
    for member in normal[1:]:
        squares += (member - mean).square_()
    inter = mean_of(unknown).sub_(mean).abs_()
    intra = squares.div_(len(normal) - 1).sqrt_()
    reconstruction = (image - mean).square_()
    if log_variance is None:
        return [inter, intra, reconstruction]
    variance = mean_of(log_variance.exp())
    reconstruction /= variance
    deviation = variance.sqrt_()
    return [inter.div_(deviation), intra.div_(deviation), reconstruction]


def comparison(
    point: Point, device: torch.device, *, seconds: float, compiled: bool = True
) -> Comparison:
    """All candidates at one point."""
    rng = torch.Generator().manual_seed(0)
    shape = (point.members, point.batch, 1, point.side, point.side)

    def draw(*size: int) -> Tensor:
        return torch.rand(size, generator=rng).to(device, point.dtype)

    unknown, normal, image = draw(*shape), draw(*shape), draw(*shape[1:])
    log_variance = draw(*shape) if point.log_variance else None
    inputs = (unknown, normal, image, log_variance)

    def tensors(maps: EnsembleDiscrepancy) -> list[Tensor]:
        return [m for m in maps if m is not None]

    def wide(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        return None if tensor is None else tensor.to(dtype)

    def truth() -> list[Tensor]:
        return tensors(
            ensemble_discrepancy_reference(
                unknown.double(),
                normal.double(),
                image=image.double(),
                log_variance=wide(log_variance, torch.float64),
            )
        )

    candidates: dict[str, Candidate] = {
        "fused": lambda: tensors(
            ensemble_discrepancy(unknown, normal, image=image, log_variance=log_variance)
        ),
        "eager": lambda: as_written(*inputs),
        "unrolled": lambda: unrolled(*inputs),
    }
    if compiled:
        compiled_form = torch.compile(as_written)
        candidates["compiled"] = lambda: compiled_form(*inputs)
    read = sum(t.nbytes for t in inputs if t is not None)
    return compare(
        "ensemble_discrepancy",
        candidates,
        shape=f"{point.name}: {point.batch} x 1 x {point.side} x {point.side}",
        dtype=point.dtype,
        device=device,
        truth=truth,
        # Eager works in the inputs' type.
        tolerance=1e-4 if point.dtype == torch.float32 else 0.1,
        bytes_touched=float(read + 3 * 4 * image.numel()),
        seconds=seconds,
    )


BENCHMARK = Benchmark("ensemble_discrepancy", POINTS, comparison)
test_ensemble_discrepancy = BENCHMARK.pytest()

if __name__ == "__main__":
    BENCHMARK.main()
