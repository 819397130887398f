"""Methods small enough to train in a test, and images for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medad_fast.methods import create
from medad_fast.methods.base import Method

SMALL: dict[str, dict[str, Any]] = {
    "patchcl-ae": {"width": 4, "units": 1, "projection_dim": 8, "patches": 32, "batch_size": 4},
    "ddad": {
        "width": 4,
        "members": 2,
        "hidden_dim": 32,
        "batch_size": 4,
        "refinement_width": 8,
        "refinement_batch_size": 4,
        "refinement_epochs": 10,
        "refinement_learning_rate": 0.003,
    },
    "cradl": {"width": 4, "latent_dim": 64, "batch_size": 8},
    "salad": {"width": 4, "latent_dim": 16, "warmup_epochs": 2, "batch_size": 4},
    "anatpaste": {"width": 4, "projection_dim": 8, "epoch_steps": None, "batch_size": 4},
    "autoencoder": {"width": 4, "units": 1, "batch_size": 4},
    "patch-knn": {"width": 8, "weights": "random", "layers": (1,), "bank_size": 512},
}

# Where the contract's lesion needs other settings.
LESION: dict[str, dict[str, Any]] = {
    # Discs differ too little for foreign patches to teach the refinement anything.
    "ddad": {"score": "A_rec"},
    # Positions of ResNet-18 see 43 pixels or more around them, and 80 steps are too few for the
    # density of its embeddings.
    "anatpaste": {
        "image_size": 64,
        "map_layers": (1,),
        "optimizer": "adam",
        "image_score": "topk",
    },
}


def small(name: str, *, seed: int = 0, image_size: int = 32, **overrides: Any) -> Method:
    """A tiny method of any name, with weights drawn from ``seed``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return create(name, **{**SMALL[name], "image_size": image_size, **overrides})


def discs(count: int, *, size: int = 32, channels: int = 1, seed: int = 0) -> Tensor:
    """Bright discs of varied place and grey level on black, ``(count, channels, size, size)``."""
    rng = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centres = size / 2 + size / 12 * torch.randn(count, 2, 1, 1, generator=rng)
    radius = ((rows - centres[:, :1, 0]) ** 2 + (columns - centres[:, 1:, 0]) ** 2).sqrt()
    level = 0.3 + 0.2 * torch.rand(count, 1, 1, generator=rng)
    texture = 0.05 * torch.randn(count, size, size, generator=rng)
    images = torch.where(radius < size / 3, level + texture, -1.0).clamp(-1, 1)
    return images[:, None].repeat(1, channels, 1, 1)
