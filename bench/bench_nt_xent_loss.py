"""NT-Xent and its gradient: fused against SimCLR's form, eager and compiled, and a lean one.

    python -m bench.bench_nt_xent_loss [--device cuda] [--threads 1] [--seconds 10] [--json FILE]

Points: one tiny (overhead), CRADL's own, one large.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.harness import Candidate, Comparison, compare, parse_arguments
from medad_fast.ops import nt_xent_loss, nt_xent_loss_reference

POINTS = [(8, 32), (64, 256), (4096, 128)]  # B, D
RATIOS = [
    ("simclr eager", "fused"),
    ("simclr compiled", "fused"),
    ("lean eager", "fused"),
]
TEMPERATURE = 0.5

Loss = Callable[[Tensor, Tensor], Tensor]


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
    pairs: int, depth: int, device: torch.device, *, seconds: float, compiled: bool = True
) -> Comparison:
    """Loss and the gradients of both views."""
    rng = torch.Generator().manual_seed(0)
    z1 = torch.randn(pairs, depth, generator=rng)
    z2 = (z1 + 0.5 * torch.randn(pairs, depth, generator=rng)).to(device)
    z1 = z1.to(device)

    def gradients(loss: Loss, dtype: torch.dtype = torch.float32) -> Candidate:
        a, b = (z.to(dtype).detach().requires_grad_() for z in (z1, z2))
        return lambda: torch.autograd.grad(loss(a, b), (a, b))

    candidates = {
        "fused": gradients(nt_xent_loss),
        "simclr eager": gradients(simclr_loss),
        "lean eager": gradients(lean_loss),
    }
    if compiled:
        candidates["simclr compiled"] = gradients(torch.compile(simclr_loss, dynamic=False))
    rows = 2 * pairs
    return compare(
        "nt_xent_loss",
        candidates,
        shape=f"2x{pairs}x{depth} both gradients",
        dtype=z1.dtype,
        device=device,
        truth=gradients(nt_xent_loss_reference, torch.float64),
        tolerance=1e-5,
        flops=6.0 * rows * rows * depth,
        seconds=seconds,
    )


# Compiling warns about things of torch's own, which pytest would turn into errors.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("point", POINTS, ids=lambda point: "x".join(map(str, point)))
def test_nt_xent_loss(point: tuple[int, int], capsys: pytest.CaptureFixture[str]) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result = comparison(*point, device, seconds=4.0)
    with capsys.disabled():
        print("\n" + result.text(RATIOS))


def main() -> None:
    arguments = parse_arguments("NT-Xent against plain torch")
    for point in POINTS:
        result = comparison(*point, arguments.device, seconds=arguments.seconds)
        print(result.text(RATIOS), flush=True)
        if arguments.json:
            with arguments.json.open("a") as file:
                file.writelines(f"{line}\n" for line in result.json_lines())


if __name__ == "__main__":
    main()
