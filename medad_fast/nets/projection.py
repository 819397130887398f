"""Small heads on features: projections before features are compared, and a classifier."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class ProjectionHead(nn.Module):
    """Linear, ReLU, linear, applied to each position by itself."""

    def __init__(self, features: int, projection_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, projection_dim)
        self.output = nn.Linear(projection_dim, projection_dim)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows ``(..., features)`` to ``(..., projection_dim)``, not normalised."""
        projected: Tensor = self.output(F.relu(self.hidden(rows)))
        return projected

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``(w1, b1, w2, b2)`` as :func:`medad_fast.ops.patch_discrepancy` takes them."""
        return self.hidden.weight, self.hidden.bias, self.output.weight, self.output.bias


def rows_at(features: Tensor, ids: Tensor) -> Tensor:
    """Features ``(B, C, H, W)`` at flat positions ``(S)`` or ``(B, S)``, as rows ``(B, S, C)``."""
    flat = features.flatten(2)
    if ids.dim() == 1:
        return flat[:, :, ids].transpose(1, 2)
    return flat.gather(2, ids[:, None, :].expand(-1, flat.shape[1], -1)).transpose(1, 2)


class ClassificationHead(nn.Module):
    """Linear layers with batch norm and ReLU, the last of them narrower, then the logits.

    Args:
        features: width of the input and of the hidden layers.
        layers: number of hidden layers before the narrow one.
        projection_dim: width of the narrow one.
        classes: number of logits.
    """

    def __init__(self, features: int, layers: int, projection_dim: int, classes: int) -> None:
        super().__init__()
        hidden: list[nn.Module] = []
        for outputs in [*[features] * layers, projection_dim]:
            hidden += [nn.Linear(features, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
            features = outputs
        self.hidden = nn.Sequential(*hidden)
        self.output = nn.Linear(projection_dim, classes)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings ``(B, features)`` to logits ``(B, classes)``."""
        logits: Tensor = self.output(self.hidden(embeddings))
        return logits
