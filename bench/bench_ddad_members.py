"""A training step of DDAD's ensembles: all members as one wide network against one by one.

    python -m bench.bench_ddad_members [--device cuda] [--threads 1] [--point 64x1x64x64]

A step is forward, backward and Adam for all K members. "alone" is the same code with one member, K
times; "eager" the published form, torch's own layers and optimiser for each member. On a CPU the
wide network has to cost no more than K alone; the gain is meant for GPUs, where launches bound it.
Points: one tiny (overhead), DDAD's own, AE-U's, more members, larger images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.harness import Benchmark, Candidate, Comparison, compare
from medad_fast.methods.parts.optimization import adam
from medad_fast.nets.ensemble import Backbone, EnsembleAutoencoder
from python_tests.methods.ddad.plain import PlainAutoencoder, alone

RATE, BETAS, EPS = 5e-4, (0.5, 0.999), 1e-8


@dataclass(frozen=True)
class Point:
    """An ensemble and the batch of each member."""

    members: int
    batch: int
    side: int
    backbone: Backbone = "ae"
    hidden_dim: int = 2048

    @property
    def name(self) -> str:
        kind = "" if self.backbone == "ae" else f" {self.backbone}"
        return f"K={self.members}, {self.batch}x1x{self.side}x{self.side}{kind}"


POINTS = [
    Point(2, 4, 32, hidden_dim=64),
    Point(3, 64, 64),
    Point(3, 64, 64, "ae-u"),
    Point(10, 16, 64),
    Point(3, 16, 128),
]


def member_losses(images: Tensor, log_variance: Tensor | None, batches: Tensor) -> Tensor:
    """``(K)``, of reconstructions ``(K, B, C, H, W)``."""
    error = (images - batches).square()
    if log_variance is not None:
        error = torch.exp(-log_variance) * error + log_variance
    return error.flatten(1).mean(1)


def wide_step(ensemble: EnsembleAutoencoder, batches: Tensor) -> Candidate:
    """One step of all members of ``ensemble``, from where the last one ended."""
    optimizer = adam(RATE, BETAS, EPS, fused=True)(ensemble.parameters())

    def step() -> Tensor:
        optimizer.zero_grad()
        rebuilt = ensemble(batches)
        losses = member_losses(rebuilt.images, rebuilt.log_variance, batches)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return losses.detach()

    return step


def plain_step(
    member: nn.Module, forward: Callable[[Tensor], tuple[Tensor, Tensor | None]], batch: Tensor
) -> Candidate:
    """One step of one network, ``forward`` being it or its compiled form."""
    optimizer = torch.optim.Adam(member.parameters(), lr=RATE, betas=BETAS, eps=EPS)

    def step() -> Tensor:
        optimizer.zero_grad()
        decoded = forward(batch)[0]
        log_variance = decoded[None, :, 1:] if decoded.shape[1] == 2 else None
        losses = member_losses(decoded[None, :, :1], log_variance, batch[None])
        losses.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return losses.detach()

    return step


def in_turn(steps: list[Candidate]) -> Candidate:
    """All of them, one after another."""

    def step() -> Tensor:
        losses: list[Tensor] = []
        for each in steps:
            loss = each()
            assert isinstance(loss, Tensor)
            losses.append(loss)
        return torch.cat(losses)

    return step


def comparison(
    point: Point, device: torch.device, *, seconds: float, compiled: bool = True
) -> Comparison:
    """All candidates at one point; the losses of the first step are what is compared."""
    torch.manual_seed(0)
    ensemble = EnsembleAutoencoder(
        point.members, point.side, 1, backbone=point.backbone, hidden_dim=point.hidden_dim
    ).to(device)
    shape = (point.members, point.batch, 1, point.side, point.side)
    batches = (torch.rand(shape) * 2 - 1).to(device)

    def plain(compile_them: bool = False) -> Candidate:
        members = [PlainAutoencoder(ensemble, k).to(device) for k in range(point.members)]
        forms = [torch.compile(each) if compile_them else each for each in members]
        return in_turn(
            [
                plain_step(each, form, batch)
                for each, form, batch in zip(members, forms, batches, strict=True)
            ]
        )

    candidates: dict[str, Candidate] = {
        "fused": wide_step(copy.deepcopy(ensemble), batches),
        "alone": in_turn(
            [wide_step(alone(ensemble, k), batches[k : k + 1]) for k in range(point.members)]
        ),
        "eager": plain(),
    }
    if compiled:
        candidates["compiled"] = plain(compile_them=True)
    return compare(
        "ddad_members",
        candidates,
        shape=point.name,
        dtype=batches.dtype,
        device=device,
        truth=wide_step(copy.deepcopy(ensemble).double(), batches.double()),
        tolerance=1e-4,
        seconds=seconds,
    )


BENCHMARK = Benchmark("ddad_members", POINTS, comparison)
test_ddad_members = BENCHMARK.pytest()

if __name__ == "__main__":
    BENCHMARK.main()
