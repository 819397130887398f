from typing import Any

version: str
with_cuda: bool
cuda_archs: str
cuda_reason: str
openmp: bool
dtypes: dict[str, int]
nt_xent_row_values: int

def cpu_level() -> str: ...
def best_cpu_level() -> str: ...
def set_cpu_level(level: str) -> None: ...
def anatomy_paste(
    images: Any,
    masks: Any,
    sources: Any,
    integers: Any,
    reals: Any,
    exact: bool,
    scratch: Any,
    out: Any,
    gate: Any,
    launch: Any,
) -> None: ...
def anatomy_paste_scratch(batch: int, height: int, width: int, wide: bool) -> int: ...
def ensemble_discrepancy(
    unknown: Any, normal: Any, image: Any, log_variance: Any, out: Any, launch: Any
) -> None: ...
def nt_xent_loss(
    z1: Any,
    z2: Any,
    loss: Any,
    gradient: Any,
    units: Any,
    sums: Any,
    rows: Any,
    temperature: float,
    where: tuple[int, int, int],
) -> None: ...
def lung_mask(images: Any, mode: int, scratch: Any, out: Any, launch: Any) -> None: ...
def lung_mask_scratch_bytes(batch: int, height: int, width: int) -> int: ...
def patch_discrepancy(
    features: Any,
    reconstructed: Any,
    heads: Any,
    reduction: int,
    distances: Any,
    out: Any,
    launch: Any,
) -> None: ...
def patch_discrepancy_backward(
    grad: Any,
    features: Any,
    reconstructed: Any,
    reduction: int,
    distances: Any,
    grad_features: Any,
    grad_reconstructed: Any,
    launch: Any,
) -> None: ...
def patch_nce_loss(
    query: list[Any],
    key: list[Any],
    weight: list[Any],
    rows: list[Any],
    log_sum_exp: list[Any],
    query_gradient: list[Any],
    key_gradient: list[Any],
    temperature: float,
    batch_negatives: bool,
    exact_cut: bool,
    mean: bool,
    where: tuple[int, int, int],
) -> None: ...
def smooth_saliency(gradient: Any, image: Any, out: Any, launch: Any) -> None: ...
def ssim(
    x: Any,
    y: Any,
    data_range: float,
    window_size: int,
    sigma: float,
    same: bool,
    map: Any,
    total: Any,
    scale: float,
    upstream: Any,
    weight: float,
    grad_x: Any,
    grad_y: Any,
    scratch: Any,
    launch: Any,
) -> None: ...
