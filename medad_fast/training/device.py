"""On a GPU: float32 that is float32, and the same bits each time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """Compute without TF32 and with deterministic algorithms, where ``device`` is a GPU.

    By default cuDNN rounds the factors of float32 convolutions to TF32, and some gradients add in
    no fixed order. An op that has no deterministic form warns and goes on. Afterwards everything is
    as it was. The settings are those of the process, so they hold for other threads meanwhile. On a
    CPU, where nothing of that happens, they stay as they are.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    # Read by the newer of torch's two sets of names: the older raises where the user mixed them.
    # Set by the older, which sets both: what reads the older one within the block can do so.
    kinds = (cudnn.conv, cudnn.rnn, matmul)  # type: ignore[attr-defined]
    precisions = [kind.fp32_precision for kind in kinds]
    choices = cudnn.deterministic, cudnn.benchmark
    algorithms = torch.get_deterministic_debug_mode()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    workspace = os.environ.get(WORKSPACE)
    try:
        cudnn.allow_tf32 = matmul.allow_tf32 = False
        cudnn.deterministic, cudnn.benchmark = True, False
        # Asked for by torch, or its matrix products count as not deterministic.
        os.environ.setdefault(WORKSPACE, ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # It finds bugs, and costs a launch for each new tensor.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        yield
    finally:
        torch.set_deterministic_debug_mode(algorithms)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        if workspace is None:
            del os.environ[WORKSPACE]
        cudnn.deterministic, cudnn.benchmark = choices
        cudnn.allow_tf32, matmul.allow_tf32 = precisions[0] == "tf32", precisions[2] == "tf32"
        for kind, precision in zip(kinds, precisions, strict=True):
            kind.fp32_precision = precision
