"""The computer: what it is, how fast it is, who else is using it, and what a call needs of it."""

from __future__ import annotations

import ctypes
import datetime
import functools
import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.harness.turns import Stopwatch

PROC = Path("/proc")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_MAPPED = -3  # M_MMAP_THRESHOLD


class OtherProcesses:
    """The share of all processors' time that went to other processes, since it was made.

    Time that a virtual machine was kept waiting for its processor counts as theirs.
    """

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds of all processors: in all, not idle, and this process's own."""
        own = time.process_time()
        if not (PROC / "stat").exists():
            return time.perf_counter(), own, own
        # user nice system idle iowait irq softirq steal; what follows is counted in user already.
        ticks = [int(field) for field in (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
        tick = os.sysconf("SC_CLK_TCK")
        return sum(ticks) / tick, (sum(ticks) - ticks[3] - ticks[4]) / tick, own

    def share(self) -> float:
        total, busy, own = (now - then for now, then in zip(self._now(), self._start, strict=True))
        return max(0.0, (busy - own) / total) if total > 0 else 0.0


def extra_mib(work: Callable[[], object], device: torch.device) -> float | None:
    """Peak memory of one call beyond what was held before it; None where that cannot be seen."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return float(torch.cuda.max_memory_allocated(device) - before) / 2**20
    if platform.system() != "Linux":
        return None
    # Large blocks straight from the system and back: otherwise freed memory is reused unseen.
    libc = ctypes.CDLL(None)
    libc.mallopt(_MAPPED, 1 << 16)
    libc.malloc_trim(0)
    try:
        (PROC / "self" / "clear_refs").write_text("5")  # resets the high-water mark
        before = _status_kib("VmRSS")
        result = work()
        peak = _status_kib("VmHWM")
        del result
    except (PermissionError, FileNotFoundError):
        return None
    finally:
        libc.mallopt(_MAPPED, 32 << 20)  # and as fast as it was for the timing
    return (peak - before) / 1024


def _status_kib(name: str) -> int:
    lines = (PROC / "self" / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@functools.cache
def cache_flush(device: torch.device) -> tuple[Callable[[], object], float]:
    """A pass of writes that pushes everything else out of the cache, and its MiB."""
    if device.type == "cuda":
        size = 2 * torch.cuda.get_device_properties(device).L2_cache_size
    else:
        size = min(max(2 * _last_level_cache(), 64 << 20), 1 << 30)
    scratch = torch.zeros(size // 4, device=device)
    return functools.partial(scratch.add_, 1), size / 2**20


def _last_level_cache() -> int:
    """Bytes of the largest cache of the first processor."""
    sizes = [path.read_text().strip() for path in CACHES.glob("index*/size")]
    return max((int(size.rstrip("K")) << 10 for size in sizes if size.endswith("K")), default=0)


def describe(device: torch.device) -> dict[str, Any]:
    """What runs, on what, and how fast that is: a large product, and a pass over 256 MiB."""
    return _describe(device, torch.get_num_threads())


@functools.cache
def _describe(device: torch.device, threads: int) -> dict[str, Any]:
    import medad_fast.ops._native as native

    stopwatch = Stopwatch(device)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    sides = (1024, 1536) if device.type == "cpu" else (8192,)
    peak = 0.0
    for side in sides:
        a = torch.rand(side, side, device=device)
        fastest = min(stopwatch(functools.partial(torch.matmul, a, a)) for _ in range(12))
        peak = max(peak, 2 * side**3 / fastest / 1e6)
    wide = torch.rand(1 << 26, device=device)
    read = min(stopwatch(wide.sum) for _ in range(12))
    return {
        "device": device.type,
        "processor": processor(device),
        "threads": threads,
        "peak_gflops": peak,
        "read_gbytes": wide.nbytes / read / 1e6,
        "load_average": load,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "build": native.build_info(),
        "date": datetime.date.today().isoformat(),
    }


def processor(device: torch.device) -> str:
    """The device's name, with the number of processors where it is the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = PROC / "cpuinfo"
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {os.cpu_count()} processors"
    return platform.processor() or platform.machine()


def slug(device: torch.device) -> str:
    """The same as a part of a file's name, such as ``amd-epyc-2cpu``."""
    name = re.sub(r", (\d+) processors$", r" \1cpu", processor(device))
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
