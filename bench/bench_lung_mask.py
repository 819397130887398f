"""Lung masks against AnatPaste's published recipe with scikit-image; "clean" ends with scipy there.

    python -m bench.bench_lung_mask [--device cuda] [--threads 1] [--point reference]

Points: one tiny (overhead), a batch of the paper's images, a few large ones; both modes. All masks
must be equal, pixel for pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bench.harness import Benchmark, Comparison, compare
from medad_fast.ops.lung_mask import Mode, lung_mask, lung_mask_reference
from python_tests.phantoms import chest_phantoms


@dataclass(frozen=True)
class Point:
    """A size of the batch, and the mode."""

    batch: int
    side: int
    mode: Mode

    @property
    def name(self) -> str:
        return f"{self.batch}x{self.side}x{self.side} {self.mode}"


POINTS = [
    Point(1, 64, "reference"),
    Point(1, 64, "clean"),
    Point(32, 256, "reference"),
    Point(32, 256, "clean"),
    Point(2, 1024, "reference"),
    Point(2, 1024, "clean"),
]


def comparison(
    point: Point, device: torch.device, *, seconds: float, compiled: bool = True
) -> Comparison:
    """Both candidates at one point; the peer runs on the CPU, wherever the images are."""
    images = chest_phantoms(range(point.batch), point.side, point.side).to(device)
    on_host = images.cpu()

    def peer() -> torch.Tensor:
        return lung_mask_reference(on_host, mode=point.mode)

    return compare(
        "lung_mask",
        {
            "fused": lambda: lung_mask(images, mode=point.mode),
            "scikit-image": peer,
        },
        shape=point.name,
        dtype=images.dtype,
        device=device,
        truth=peer,
        tolerance=0.0,
        bytes_touched=2.0 * images.nbytes,
        seconds=seconds,
    )


BENCHMARK = Benchmark("lung_mask", POINTS, comparison)
test_lung_mask = BENCHMARK.pytest()

if __name__ == "__main__":
    BENCHMARK.main()
