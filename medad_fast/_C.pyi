from typing import Any

version: str
with_cuda: bool
cuda_archs: str
cuda_reason: str
openmp: bool
dtypes: dict[str, int]

def cpu_level() -> str: ...
def best_cpu_level() -> str: ...
def set_cpu_level(level: str) -> None: ...
def patch_discrepancy(
    features: Any, reconstructed: Any, heads: Any, reduction: str, out: Any, launch: Any
) -> None: ...
def patch_discrepancy_backward(
    grad: Any,
    features: Any,
    reconstructed: Any,
    reduction: str,
    grad_features: Any,
    grad_reconstructed: Any,
    launch: Any,
) -> None: ...
