"""``medad benchmark``."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from medad_fast.errors import InputError

__all__ = ["benchmark"]


def benchmark(
    select: str = "",
    /,
    *,
    json: Path | None = None,
    seconds: float = 2.0,
    device: str = "cpu",
    threads: int | None = None,
) -> int:
    """Time every fused op against plain PyTorch and its best peers, from a source checkout.

    Prints a line for each size and a table of ratios with their intervals against the targets. The
    benchmarks and what they compare with are not part of the installed package: run this in the
    folder of the source, with the `bench` extra installed, on a machine with nothing else to do.

    Parameters
    ----------
    select:
        Only ops with this in their name, for example patch_nce_loss.
    json:
        Put the records into this file (one JSON line each), or into a file of this folder that
        is named by the machine and the date.
    seconds:
        Length of one attempt at a size; what does not settle is continued, up to four times.
    device:
        cpu, or cuda.
    threads:
        CPU threads; all of them where not given.
    """
    if not any(Path("bench").glob("bench_*.py")):
        raise InputError(
            "medad benchmark runs in a source checkout of medad_fast: there is no "
            f"bench/bench_*.py in {Path.cwd()}"
        )
    if find_spec("pytest_benchmark") is None:
        raise InputError(
            "medad benchmark needs the bench extra: pip install -c constraints.txt '.[bench]'"
        )
    command = [sys.executable, "-m", "bench", select, "--seconds", str(seconds), "--device", device]
    command += ["--threads", str(threads)] if threads else []
    command += ["--json", str(json)] if json else []
    return subprocess.run(command, check=False).returncode
