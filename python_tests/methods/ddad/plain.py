"""DDAD's autoencoders one by one, in torch's own layers: what the wide ensembles must equal."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from medad_fast.nets.ensemble import (
    EnsembleAutoencoder,
    MemberConvolution,
    MemberLinear,
    MemberNorm,
)


class PlainAutoencoder(nn.Module):
    """One member of ``ensemble``, with a copy of its weights and statistics."""

    def __init__(self, ensemble: EnsembleAutoencoder, k: int) -> None:
        super().__init__()
        self.memory = None if ensemble.memory is None else _copy(ensemble.memory[k])
        self.shrinkage = ensemble.shrinkage
        self.encode = nn.Sequential(
            *(part for layer in ensemble.encoder for part in _convolution(layer, k)),
            nn.Flatten(),
            *_linear(ensemble.to_hidden, k),
            *_linear(ensemble.to_latent, k),
        )
        self.decode = nn.Sequential(
            *_linear(ensemble.from_latent, k),
            *_linear(ensemble.from_hidden, k),
            nn.Unflatten(1, ensemble.shape),
            *(part for layer in ensemble.decoder for part in _convolution(layer, k)),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """What is decoded, and the attention to the memory."""
        latent = self.encode(images)
        if self.memory is None:
            return self.decode(latent), None
        rows = []
        for z in latent:
            a = torch.softmax(torch.stack([z @ slot for slot in self.memory]), 0)
            if self.shrinkage > 0:
                a = torch.relu(a - self.shrinkage) * a / ((a - self.shrinkage).abs() + 1e-12)
                a = a / a.abs().sum().clamp(min=1e-12)
            rows.append(a)
        attention = torch.stack(rows)
        return self.decode(attention @ self.memory), attention

    def twin_weights(self, ensemble: EnsembleAutoencoder, k: int) -> list[tuple[Tensor, Tensor]]:
        """Each of its tensors beside the ensemble's."""
        return [
            (own, other)
            for (name, own), other in zip(
                self.state_dict().items(),
                PlainAutoencoder(ensemble, k).state_dict().values(),
                strict=True,
            )
            if not name.endswith("num_batches_tracked")
        ]


def alone(ensemble: EnsembleAutoencoder, k: int) -> EnsembleAutoencoder:
    """Member ``k`` as an ensemble of one."""
    one = copy.deepcopy(ensemble)
    one.members = 1
    for module in one.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, _copy(parameter[k : k + 1]))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer[k : k + 1].clone())
    return one


def _copy(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone())


def _norm(
    norm: MemberNorm | None, k: int, kind: type[nn.BatchNorm1d | nn.BatchNorm2d]
) -> list[nn.Module]:
    if norm is None:
        return []
    twin = kind(norm.weight.shape[1]).to(norm.weight.dtype)
    twin.weight, twin.bias = _copy(norm.weight[k]), _copy(norm.bias[k])
    twin.running_mean, twin.running_var = norm.running_mean[k].clone(), norm.running_var[k].clone()
    return [twin, nn.ReLU()]


def _convolution(layer: nn.Module, k: int) -> list[nn.Module]:
    assert isinstance(layer, MemberConvolution)
    first, second = layer.weight.shape[1:3]
    twin: nn.Conv2d | nn.ConvTranspose2d
    if layer.transposed:
        twin = nn.ConvTranspose2d(first, second, 4, 2, 1, bias=False)
    else:
        twin = nn.Conv2d(second, first, 4, 2, 1, bias=False)
    twin.weight = _copy(layer.weight[k])
    return [twin, *_norm(layer.norm, k, nn.BatchNorm2d)]


def _linear(layer: MemberLinear, k: int) -> list[nn.Module]:
    twin = nn.Linear(*layer.weight.shape[1:])
    twin.weight, twin.bias = _copy(layer.weight[k].T), _copy(layer.bias[k])
    return [twin, *_norm(layer.norm, k, nn.BatchNorm1d)]
