"""Methods small enough to train in a test, and images for them."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from medad_fast.methods import PLACES, create, list_methods
from medad_fast.methods.base import Method


def told(name: str, constant: str, default: Any) -> Any:
    """What a method's own folder of tests says of it."""
    module = f"python_tests.methods.{PLACES[name][0]}.settings"
    return getattr(importlib.import_module(module), constant, default)


SMALL: dict[str, dict[str, Any]] = {name: told(name, "SMALL", {}) for name in list_methods()}
"""Settings with which a method trains in a test; one without is tested at its full size."""
LESION: dict[str, dict[str, Any]] = {name: told(name, "LESION", {}) for name in list_methods()}
"""Further ones, where the lesion of the contract needs them."""
SLOW_LEARNERS = {name for name in list_methods() if told(name, "SLOW_LEARNER", False)}
"""Twelve steps teach them nothing; that they score lesions higher, the contract shows."""


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
