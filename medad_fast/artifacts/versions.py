"""Versions of what a result depends on."""

from __future__ import annotations

import platform

import numpy as np
import torch

import medad_fast

__all__ = ["versions"]


def versions() -> dict[str, str]:
    """Of medad-fast, torch, numpy and Python."""
    return {
        "medad_fast": medad_fast.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
