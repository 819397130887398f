"""Checks of an installation: versions, compiled kernels, GPU, decoders, disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path

from medad_fast.data.formats import formats
from medad_fast.doctor.finding import Finding, State

FREE_GIB = 2.0


def check_installation() -> list[Finding]:
    """Versions, compiled kernels, GPU, DICOM decoders, disk."""
    return [finding for check in INSTALLATION_CHECKS for finding in check()]


def _versions() -> Iterator[Finding]:
    readers = [package for each in formats().values() for package in each.packages]
    for name in ("medad-fast", "torch", "numpy", "scikit-image", *readers):
        try:
            yield Finding("ok", name, metadata.version(name))
        except metadata.PackageNotFoundError:
            if name == "medad-fast":
                yield Finding("note", name, "runs from a source folder, it is not installed")
            else:
                yield Finding("wrong", name, f"is not installed: pip install {name}")


def _kernels() -> Iterator[Finding]:
    try:
        import medad_fast

        info = medad_fast.build_info()
    except ImportError as error:
        yield Finding("wrong", "compiled kernels", " ".join(str(error).split()))
        return
    yield Finding("ok", "CPU kernels", f"{info['cpu']}, OpenMP {info['openmp'] or 'no'}")
    if info["cuda"]:
        yield Finding("ok", "CUDA kernels", f"for {info['cuda_archs']}")
    else:
        yield Finding("note", "CUDA kernels", f"none: {info['cuda_reason']}")


def _torch() -> Iterator[Finding]:
    import torch

    yield Finding("ok", "torch threads", str(torch.get_num_threads()))
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        yield Finding("ok", "GPU", f"{torch.cuda.device_count()}: {', '.join(sorted(names))}")
    else:
        yield Finding("note", "GPU", "none that torch can use; everything runs on the CPU")


def _op_runs() -> Iterator[Finding]:
    """A kernel that gives other numbers than plain torch is worse than none."""
    import torch

    from medad_fast.ops import patch_discrepancy
    from medad_fast.ops.patch_discrepancy import patch_discrepancy_reference

    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 1, 8, 16, 16, generator=generator).unbind()
    arguments = [maps[0]], [maps[1]]
    fused = torch.stack([*patch_discrepancy(*arguments, size=(16, 16))])
    plain = torch.stack([*patch_discrepancy_reference(*arguments, size=(16, 16))])
    error = float((fused - plain).abs().max())
    state: State = "ok" if error < 1e-5 else "wrong"
    yield Finding(state, "kernel against plain torch", f"largest difference {error:.1e}")


def _decoders() -> Iterator[Finding]:
    for each in formats().values():
        if each.decoders is None:
            continue
        check, can = f"{each.kinds[0]} decoders", each.decoders()
        yield Finding("ok", check, ", ".join(name for name in can if can[name]))
        missing = ", ".join(name for name in can if not can[name])
        if missing:
            text = f"none for {missing}: pip install 'medad-fast[{each.extra}]'"
            yield Finding("note", check, text)


def _demo_data() -> Iterator[Finding]:
    try:
        yield Finding("ok", "nilearn (medad demo)", metadata.version("nilearn"))
    except metadata.PackageNotFoundError:
        yield Finding("note", "nilearn (medad demo)", "missing: pip install 'medad-fast[demo]'")


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    state: State = "ok" if free >= FREE_GIB else "note"
    yield Finding(state, "disk", f"{free:.1f} GiB free in {Path.cwd()}")


INSTALLATION_CHECKS: tuple[Callable[[], Iterable[Finding]], ...] = (
    _versions,
    _kernels,
    _op_runs,
    _torch,
    _decoders,
    _demo_data,
    _disk,
)
