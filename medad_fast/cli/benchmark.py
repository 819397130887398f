"""``medad benchmark``."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from medad_fast.errors import InputError

__all__ = ["benchmark"]


def benchmark(select: str = "", /) -> int:
    """Time every fused op against plain PyTorch, from a source checkout.

    The benchmarks and what they compare with are not part of the installed package: run this in
    the folder of the source, with the `bench` extra installed.

    Parameters
    ----------
    select:
        Only benchmarks whose name has this in it, for example patch_nce_loss.
    """
    if not any(Path("bench").glob("bench_*.py")):
        raise InputError(
            "medad benchmark runs in a source checkout of medad_fast: there is no "
            f"bench/bench_*.py in {Path.cwd()}"
        )
    if find_spec("pytest") is None:
        raise InputError("medad benchmark needs pytest: pip install -c constraints.txt '.[bench]'")
    command = [sys.executable, "-m", "pytest", "-q", "-s", "bench"]
    return subprocess.run([*command, *(["-k", select] if select else [])], check=False).returncode
