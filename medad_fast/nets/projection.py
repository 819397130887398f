"""The two-layer heads that project encoder features before they are compared."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ProjectionHead"]


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
