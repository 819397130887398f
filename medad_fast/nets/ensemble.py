"""The autoencoders of DDAD, AE, AE-U and MemAE: an ensemble of them as one wide network.

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

from medad_fast.nets.members import MemberConvolution, MemberLinear

__all__ = ["Backbone", "EnsembleAutoencoder", "Reconstruction"]

Backbone = Literal["ae", "ae-u", "memae"]


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
