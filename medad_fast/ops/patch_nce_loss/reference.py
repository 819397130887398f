"""``patch_nce_loss`` in plain torch, for arguments that have been checked."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

Layers = list[Tensor]

_CUT_FILL = -10.0  # what CUT writes over the diagonal, before dividing by the temperature


def loss(
    query: Layers, key: Layers, temperature: float, batch: bool, exact_cut: bool, mean: bool
) -> Tensor:
    """The sum over layers of the rows' means or sums."""
    layers = rows(query, key, temperature, batch, exact_cut)
    return torch.stack([r.mean() if mean else r.sum() for r in layers]).sum()


def rows(query: Layers, key: Layers, temperature: float, batch: bool, exact_cut: bool) -> Layers:
    """``(B, S)`` for each layer; ``batch`` for negatives of the whole batch."""
    options = (temperature, batch, exact_cut)
    return [_layer(q, k, *options) for q, k in zip(query, key, strict=True)]


def _layer(query: Tensor, key: Tensor, temperature: float, batch: bool, exact_cut: bool) -> Tensor:
    if query.dtype in (torch.float16, torch.bfloat16):
        query, key = query.float(), key.float()
    shape = query.shape[:2]
    if batch:
        query, key = query.flatten(0, 1)[None], key.flatten(0, 1)[None]
    groups, size = query.shape[:2]
    logits = torch.bmm(query, key.mT)
    target = torch.arange(size, device=query.device)
    if exact_cut:
        diagonal = torch.eye(size, dtype=torch.bool, device=query.device)
        positive = logits.diagonal(dim1=1, dim2=2)[..., None]
        logits = torch.cat([positive, logits.masked_fill(diagonal, _CUT_FILL)], 2)
        target = torch.zeros_like(target)
    logits = logits / temperature
    losses = F.cross_entropy(logits.flatten(0, 1), target.repeat(groups), reduction="none")
    return losses.reshape(shape)
