"""Lung masks against AnatPaste's published recipe and scipy.

    python -m bench.bench_lung_mask [--device cuda] [--threads 1] [--seconds 10] [--json FILE]

Points: one tiny (overhead), a batch of the paper's images, a few large ones; both modes. All masks
must be equal, pixel for pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from bench.harness import Comparison, compare, parse_arguments
from medad_fast.ops.lung_mask import Mode, lung_mask, lung_mask_reference
from python_tests.phantoms import chest_phantoms

RATIOS = [("scikit-image", "fused"), ("scipy", "fused")]


@dataclass(frozen=True)
class Point:
    """A size of the batch, and the mode."""

    name: str
    batch: int
    side: int
    mode: Mode

    @property
    def peer(self) -> str:
        return "scikit-image" if self.mode == "reference" else "scipy"


POINTS = [
    Point("tiny", 1, 64, "reference"),
    Point("paper", 32, 256, "reference"),
    Point("large", 2, 1024, "reference"),
    Point("tiny, clean", 1, 64, "clean"),
    Point("paper, clean", 32, 256, "clean"),
    Point("large, clean", 2, 1024, "clean"),
]


def comparison(point: Point, device: torch.device, *, seconds: float) -> Comparison:
    """Both candidates at one point; the peer runs on the CPU, wherever the images are."""
    images = chest_phantoms(range(point.batch), point.side, point.side).to(device)
    on_host = images.cpu()
    return compare(
        "lung_mask",
        {
            "fused": lambda: lung_mask(images, mode=point.mode),
            point.peer: lambda: lung_mask_reference(on_host, mode=point.mode),
        },
        shape=f"{point.name}: {point.batch} x {point.side} x {point.side}, {point.mode}",
        dtype=images.dtype,
        device=device,
        truth=lambda: lung_mask_reference(on_host, mode=point.mode).to(device),
        tolerance=0.0,
        bytes_touched=2.0 * images.nbytes,
        seconds=seconds,
        min_repeats=5,
    )


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_lung_mask(point: Point, capsys: pytest.CaptureFixture[str]) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result = comparison(point, device, seconds=4.0)
    with capsys.disabled():
        print("\n" + result.text(RATIOS))


def main() -> None:
    arguments = parse_arguments("Lung masks against the published recipe and scipy")
    for point in POINTS:
        result = comparison(point, arguments.device, seconds=arguments.seconds)
        print(result.text(RATIOS), flush=True)
        if arguments.json:
            with arguments.json.open("a") as file:
                file.writelines(f"{line}\n" for line in result.json_lines())


if __name__ == "__main__":
    main()
