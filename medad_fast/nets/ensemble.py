"""The autoencoders of DDAD, AE, AE-U and MemAE: an ensemble of them as one wide network.

The members have one shape and are trained side by side. Parameters have a leading axis of ``K``
members. Convolutions take the members' channels one after another, ``(B, K * C, H, W)``, and are
grouped, so that a layer is one launch whatever ``K`` is; linear layers are batched products
``(K, B, D)``. Nothing is shared between members: each is what a network alone, given the same
batches, would be.

Source: Cai et al., "Dual-distribution discrepancy with self-supervised refinement for anomaly
detection in medical images", Medical Image Analysis 86 (2023), whose published code (DDAD-ASR)
gives the layers; Mao et al., MICCAI 2020, for AE-U; Gong et al., "Memorizing normality to detect
anomaly", ICCV 2019, for MemAE.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Backbone = Literal["ae", "ae-u", "memae"]

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
        # A bias before a norm has no effect, so its true gradient is 0. Autograd would return
        # rounding noise instead, which Adam would scale up to full steps.
        features = torch.baddbmm(self.bias.detach()[:, None], features, self.weight)
        if inference:
            # Scaling a few features is cheaper than folding the factor into millions of weights.
            factor, summand = self.norm.affine()
            return F.relu(torch.addcmul(summand[:, None], features, factor[:, None]), inplace=True)
        members, batch, outputs = features.shape
        rows = F.relu(self.norm(features.transpose(0, 1).flatten(1)), inplace=True)
        return rows.reshape(batch, members, outputs).transpose(0, 1)


class Reconstruction(NamedTuple):
    """What ``K`` members make of their batches."""

    images: Tensor
    """``(K, B, C, H, W)``, not bounded."""
    log_variance: Tensor | None
    """Of each pixel, likewise, not clamped; AE-U's only."""
    attention: Tensor | None
    """``(K, B, slots)``: how much each slot of the memory gave; MemAE's only."""


class EnsembleAutoencoder(nn.Module):
    """``K`` autoencoders: four convolutions, four linear layers, four transposed convolutions.

    On a GPU each layer is one launch for all members. On a CPU, where grouped convolutions are
    slower than one after another, the members take turns between the linear layers.

    Args:
        members: K.
        image_size: side of the images, a multiple of 16; the latent's own side is a sixteenth.
        channels: of the images.
        backbone: "ae-u" predicts a log-variance beside each pixel, "memae" rebuilds from a memory.
        width: channels of the first layer, 16 in the paper.
        hidden_dim: of the layers around the latent, 2048 in the paper.
        latent_dim: 16 in the paper.
        memory_slots: of MemAE, 25 in the paper.
        shrinkage: of MemAE: slots with no more attention than this give nothing; 0 switches it off.
    """

    def __init__(
        self,
        members: int,
        image_size: int,
        channels: int,
        *,
        backbone: Backbone = "ae",
        width: int = 16,
        hidden_dim: int = 2048,
        latent_dim: int = 16,
        memory_slots: int = 25,
        shrinkage: float = 0.0,
    ) -> None:
        super().__init__()
        self.members, self.channels, self.shrinkage = members, channels, shrinkage
        self.predicts_variance = backbone == "ae-u"
        side, deepest = image_size // 16, 4 * width
        self.shape = (deepest, side, side)
        flat = deepest * side * side
        down = (channels, width, 2 * width, deepest, deepest)
        up = (deepest, deepest, 2 * width, width, channels * (2 if self.predicts_variance else 1))
        self.encoder = nn.ModuleList(
            MemberConvolution(members, down[i], down[i + 1], norm=True) for i in range(4)
        )
        self.to_hidden = MemberLinear(members, flat, hidden_dim, norm=True)
        self.to_latent = MemberLinear(members, hidden_dim, latent_dim)
        self.memory: nn.Parameter | None = None
        if backbone == "memae":
            bound = 1 / math.sqrt(latent_dim)
            slots = torch.empty(members, memory_slots, latent_dim).uniform_(-bound, bound)
            self.memory = nn.Parameter(slots)
        self.from_latent = MemberLinear(members, latent_dim, hidden_dim, norm=True)
        self.from_hidden = MemberLinear(members, hidden_dim, flat)
        self.decoder = nn.ModuleList(
            MemberConvolution(members, up[i], up[i + 1], transposed=True, norm=i < 3)
            for i in range(4)
        )

    def forward(self, batches: Tensor) -> Reconstruction:
        """Batches ``(K, B, C, H, W)``, one of each member's own, by the batches' statistics."""
        return self._pass(batches, inference=False)

    def reconstruct(self, images: Tensor) -> Reconstruction:
        """Images ``(B, C, H, W)`` by every member, with the running statistics; no gradient.

        An image's result does not depend on the others.
        """
        with torch.no_grad():
            return self._pass(images.expand(self.members, *images.shape), inference=True)

    def _pass(self, batches: Tensor, inference: bool) -> Reconstruction:
        features = self._convolve(self.encoder, batches, inference).flatten(2)
        latent = self.to_latent(self.to_hidden(features, inference), inference)
        attention = None
        if self.memory is not None:
            attention = self._attention(latent, self.memory)
            latent = attention @ self.memory
        features = self.from_hidden(self.from_latent(latent, inference), inference)
        features = features.reshape(*features.shape[:2], *self.shape)
        decoded = self._convolve(self.decoder, features, inference)
        if not self.predicts_variance:
            return Reconstruction(decoded, None, attention)
        images, log_variance = decoded[:, :, : self.channels], decoded[:, :, self.channels :]
        return Reconstruction(images, log_variance, attention)

    def _convolve(self, layers: Iterable[nn.Module], features: Tensor, inference: bool) -> Tensor:
        """``(K, B, C, H, W)`` through convolutions, some members at a time."""
        done: list[Tensor] = []
        for members in self._turns(features.device):
            some = features[members].transpose(0, 1)
            count, some = some.shape[1], some.flatten(1, 2)
            for layer in layers:
                some = layer(some, members, inference)
            done.append(some.reshape(len(some), count, -1, *some.shape[2:]).transpose(0, 1))
        return torch.cat(done)

    def _turns(self, device: torch.device) -> Iterator[slice]:
        # Measured on a CPU of AVX2, K = 3, 64 pixels: grouped, the first convolution takes 6 times
        # as long as one after another, the others 1 to 1.5 times.
        together = 1 if device.type == "cpu" else self.members
        for first in range(0, self.members, together):
            yield slice(first, first + together)

    def _attention(self, latent: Tensor, memory: Tensor) -> Tensor:
        attention = torch.softmax(latent @ memory.mT, dim=2)
        if self.shrinkage > 0:
            excess = attention - self.shrinkage
            attention = F.relu(excess) * attention / (excess.abs() + 1e-12)
            attention = F.normalize(attention, p=1.0, dim=2, eps=1e-12)
        return attention
