"""A bank of feature vectors of normal images, and how far a new vector is from its nearest ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from medad_fast.methods.base import RowBank

Selection = Literal["coreset", "random"]

CHUNK = 4096  # rows compared at a time: bounds the memory
SPARE = 7  # further neighbours that are compared exactly
CANDIDATES = 8  # times the bank's size: rows that a coreset is chosen from
PROJECTED = 128  # dimensions in which a coreset is chosen, PatchCore


class NearestNormals(RowBank):
    """Euclidean distance to the nearest rows of a bank; until :meth:`fit` has run, to the origin.

    Candidates are found by a matrix product on centred rows, and compared by subtraction: the
    product alone loses all digits of a small distance between large vectors.

    Args:
        dimensions: D, of the rows.
        size: rows that the bank has at most.
        selection: of the rows that it keeps: at random, or so that no other is far from all of
            them (:func:`farthest_first`).
        neighbours: over how many nearest rows the distance is the mean.
    """

    rows = "bank"
    bank: Tensor

    def __init__(
        self, dimensions: int, *, size: int, selection: Selection, neighbours: int
    ) -> None:
        super().__init__()
        self.size = size
        self.selection = selection
        self.neighbours = neighbours
        self.register_buffer("bank", torch.zeros(1, dimensions))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Keep rows of normal images.

        Args:
            batches: rows of each image, ``(B, n, D)``; gone through twice.
        """
        images = sum(len(batch) for batch in batches)
        wanted = self.size if self.selection == "random" else CANDIDATES * self.size
        generator = torch.Generator().manual_seed(0)
        kept = []
        for batch in batches:
            for rows in batch:
                count = min(-(-wanted // images), len(rows))
                chosen = torch.randperm(len(rows), generator=generator)[:count]
                kept.append(rows[chosen.to(rows.device)].float())
        candidates = torch.cat(kept)
        if len(candidates) > self.size:
            if self.selection == "random":
                chosen = torch.randperm(len(candidates), generator=generator)[: self.size]
            else:
                chosen = farthest_first(candidates, self.size, generator)
            candidates = candidates[chosen.to(candidates.device)]
        self.bank = candidates.to(self.bank.device).contiguous()

    def forward(self, rows: Tensor) -> Tensor:
        """Rows ``(n, D)`` to distances ``(n)``, float32."""
        return torch.cat([self._distances(part) for part in torch.split(rows.float(), CHUNK)])

    def _distances(self, rows: Tensor) -> Tensor:
        centre = self.bank.mean(dim=0)
        bank, queries = self.bank - centre, rows - centre
        # Without |query|^2, which is the same for all of the bank.
        order = bank.square().sum(dim=1) - 2 * queries @ bank.T
        neighbours = min(self.neighbours, len(bank))
        nearest = order.topk(min(neighbours + SPARE, len(bank)), largest=False).indices
        exact = torch.linalg.vector_norm(self.bank[nearest] - rows[:, None], dim=2)
        distances: Tensor = exact.topk(neighbours, largest=False).values.mean(dim=1)
        return distances


def farthest_first(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indices ``(count)`` of rows ``(n, D)`` such that each is the farthest from those before it.

    The greedy coreset of Roth et al. 2022, chosen in a random projection as theirs is.
    """
    dimensions = min(rows.shape[1], PROJECTED)
    projection = torch.randn(rows.shape[1], dimensions, generator=generator)
    points = rows @ projection.to(rows.device) if dimensions < rows.shape[1] else rows
    nearest = torch.full((len(points),), torch.inf, device=points.device)
    chosen = torch.zeros(count, dtype=torch.int64, device=points.device)
    current = torch.randint(len(points), (), generator=generator).to(points.device)
    for place in range(count):
        chosen[place] = current
        torch.minimum(nearest, (points - points[current]).square().sum(dim=1), out=nearest)
        current = nearest.argmax()
    return chosen
