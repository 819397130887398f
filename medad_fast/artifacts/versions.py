"""Versions of what a result depends on."""

from __future__ import annotations

import platform
from importlib import metadata


def own_version() -> str:
    """Of the installed medad-fast."""
    try:
        return metadata.version("medad-fast")
    except metadata.PackageNotFoundError:
        return "0+uninstalled"


def versions() -> dict[str, str]:
    """Of medad-fast, torch, numpy and Python."""
    import numpy as np
    import torch

    return {
        "medad_fast": own_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
