"""Layers of several networks of one shape, the members of an ensemble, trained side by side.

Parameters have a leading axis of ``K`` members. Convolutions take the members' channels one after
another, ``(B, K * C, H, W)``, and are grouped, so that a layer is one launch whatever ``K`` is;
linear layers are batched products ``(K, B, D)``. Nothing is shared between members: each is what a
network alone, given the same batches, would be.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MemberConvolution", "MemberLinear", "MemberNorm"]

EPS = 1e-5  # torch's own, as is the momentum
MOMENTUM = 0.1
EVERY = slice(None)


class MemberNorm(nn.Module):
    """Batch norm of each channel of each member."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, members: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, channels))
        self.bias = nn.Parameter(torch.zeros(members, channels))
        self.register_buffer("running_mean", torch.zeros(members, channels))
        self.register_buffer("running_var", torch.ones(members, channels))

    def forward(self, features: Tensor, members: slice = EVERY) -> Tensor:
        """``(B, K * C, ...)`` of the members named, by the batch's own statistics."""
        return F.batch_norm(
            features,
            self.running_mean[members].view(-1),  # views: the statistics are updated in place
            self.running_var[members].view(-1),
            self.weight[members].flatten(),
            self.bias[members].flatten(),
            training=True,
            momentum=MOMENTUM,
            eps=EPS,
        )

    def affine(self, members: slice = EVERY) -> tuple[Tensor, Tensor]:
        """Factor and summand ``(K, C)`` that the running statistics make of the norm."""
        factor = self.weight[members] * torch.rsqrt(self.running_var[members] + EPS)
        return factor, self.bias[members] - self.running_mean[members] * factor


class MemberConvolution(nn.Module):
    """4x4 convolution that halves the sides, or a transposed one that doubles them; no bias.

    Args:
        members: K.
        inputs, outputs: channels of one member.
        transposed: doubles instead of halving.
        norm: batch norm and ReLU follow.
    """

    def __init__(
        self, members: int, inputs: int, outputs: int, *, transposed: bool = False, norm: bool
    ) -> None:
        super().__init__()
        self.transposed = transposed
        first, second = (inputs, outputs) if transposed else (outputs, inputs)
        bound = 1 / math.sqrt(16 * second)  # torch's own, which takes a transposed one's outputs
        self.weight = nn.Parameter(
            torch.empty(members, first, second, 4, 4).uniform_(-bound, bound)
        )
        self.norm = MemberNorm(members, outputs) if norm else None

    def forward(self, features: Tensor, members: slice, inference: bool) -> Tensor:
        """``(B, K * C, H, W)`` of the members named; for inference with the norm folded in."""
        weight = self.weight[members]
        if self.norm is None:
            return self._convolve(features, weight, None)
        if not inference:
            features = self._convolve(features, weight, None)
            return F.relu(self.norm(features, members), inplace=True)
        factor, summand = self.norm.affine(members)
        shape = (1, -1, 1, 1) if self.transposed else (-1, 1, 1, 1)
        weight = weight * factor.view(len(factor), *shape)
        return F.relu(self._convolve(features, weight, summand.flatten()), inplace=True)

    def _convolve(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolve = F.conv_transpose2d if self.transposed else F.conv2d
        groups = len(weight)
        return convolve(features, weight.flatten(0, 1), bias, 2, 1, groups=groups)


class MemberLinear(nn.Module):
    """Linear layer, with batch norm and ReLU behind it where asked.

    Weights are ``(K, inputs, outputs)``, the transpose of torch's, so that their gradient comes out
    of one batched product as it is kept.
    """

    def __init__(self, members: int, inputs: int, outputs: int, *, norm: bool = False) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, outputs).uniform_(-bound, bound))
        self.norm = MemberNorm(members, outputs) if norm else None

    def forward(self, features: Tensor, inference: bool) -> Tensor:
        """Rows ``(K, B, inputs)`` to ``(K, B, outputs)``."""
        if self.norm is None:
            return torch.baddbmm(self.bias[:, None], features, self.weight)
        # A norm takes away what a bias before it adds, whose gradient is 0; of the rounding that
        # autograd finds in its place Adam would make steps of full size.
        features = torch.baddbmm(self.bias.detach()[:, None], features, self.weight)
        if inference:
            # Scaling a few features is cheaper than folding the factor into millions of weights.
            factor, summand = self.norm.affine()
            return F.relu(torch.addcmul(summand[:, None], features, factor[:, None]), inplace=True)
        members, batch, outputs = features.shape
        rows = F.relu(self.norm(features.transpose(0, 1).flatten(1)), inplace=True)
        return rows.reshape(batch, members, outputs).transpose(0, 1)
