"""How unusual a network's features are at each place, measured on normal training images.

Ours. Near to it is PaDiM (Defard et al., 2021), which keeps a covariance for every place; here
places share one, so that memory and the number of training images needed stay small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from medad_fast.methods.parts.embedding_density import ledoit_wolf, whitening
from medad_fast.methods.parts.score import smooth

__all__ = ["FeatureDistance"]

WINDOW = 3  # positions: anatomy lies alike only so far


class FeatureDistance(nn.Module):
    """Squared Mahalanobis distance of each position's features from what is normal at its place.

    The mean is that of the place, over training images and neighbours; the covariance is that of
    what remains, over all places. The distance is divided by the number of channels: 1 on average
    over the training images. Until :meth:`fit` has run: the mean square of the features.

    Args:
        channels: of the features.
        side: of their map.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, side, side))
        self.register_buffer("whitening", torch.eye(channels))

    @torch.no_grad()
    def fit(self, batches: Callable[[], Iterable[Tensor]]) -> None:
        """Learn from features ``(B, C, h, w)`` in batches, which are gone through twice."""
        total = torch.zeros_like(self.mean, dtype=torch.float64)
        count = 0
        for features in batches():
            total += features.double().sum(dim=0, keepdim=True)
            count += len(features)
        self.mean.copy_(smooth(total / count, WINDOW))

        def remainders() -> Iterator[Tensor]:
            for features in batches():
                yield (features - self.mean).movedim(1, 3).flatten(0, 2)

        covariance, _ = ledoit_wolf(remainders())
        self.whitening.copy_(whitening(covariance))

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(B, C, h, w)`` to distances ``(B, 1, h, w)`` float32."""
        remainder = features.float() - self.mean
        white = torch.einsum("dc,bchw->bdhw", self.whitening, remainder)
        return white.square().mean(dim=1, keepdim=True)
