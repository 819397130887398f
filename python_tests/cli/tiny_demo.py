"""``medad demo`` on a smaller dataset with shorter fits."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path

import pytest

from medad_fast.cli.main import main
from medad_fast.demo import brain as simulate

RECIPE = """
max_steps: 2
methods:
  patchcl-ae: {image_size: 32, width: 4, units: 1, projection_dim: 8, patches: 16, batch_size: 4}
  autoencoder: {image_size: 32, width: 4, units: 1, batch_size: 4}
"""


def tiny_demo(out: Path, *options: str) -> int:
    """Run it with ``out`` and further words of the command line; the exit code."""
    recipe = out.with_name(f"{out.name}.yaml")
    recipe.write_text(RECIPE, encoding="utf-8")
    small = functools.partial(
        simulate.simulate_brain, train=8, validation=2, test=4, slices=3, size=48
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate, "simulate_brain", small)
        patch.setattr(importlib.import_module("medad_fast.cli.demo"), "RECIPE", str(recipe))
        return main(["demo", "--out", str(out), "--seed", "5", *options])
