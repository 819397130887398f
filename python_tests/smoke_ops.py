"""Every op forward and backward, with nothing installed beside torch and numpy.

    python python_tests/smoke_ops.py

Run in an environment where medad-fast was installed without extras. Ends with what was called; a
value or gradient that is not finite ends it with an error, and so does a package that came along.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from importlib.metadata import distribution

import torch
from torch import Tensor

from medad_fast import ops

_randn = torch.Generator().manual_seed(0)


def images(*shape: int, grad: bool = True) -> Tensor:
    """Numbers in [-1, 1]."""
    drawn = torch.rand(*shape, generator=_randn) * 2 - 1
    return drawn.requires_grad_(grad)


def paste() -> Iterable[Tensor]:
    params = ops.AnatomyPasteParams.sample(2, (32, 32), generator=_randn)
    batch = images(2, 1, 32, 32, grad=False)
    result = ops.anatomy_paste(batch, torch.ones(2, 32, 32, dtype=torch.bool), params)
    return result.images, result.gate


def discrepancy() -> Iterable[Tensor]:
    features = [images(2, 8, side, side) for side in (16, 8)]
    return [
        ops.patch_discrepancy(features, [images(*f.shape) for f in features], size=(32, 32)),
    ]


def ensembles() -> Iterable[Tensor]:
    unknown, normal = (images(3, 2, 1, 32, 32, grad=False) for _ in range(2))
    found = ops.ensemble_discrepancy(unknown, normal, image=images(2, 1, 32, 32, grad=False))
    return found.inter, found.intra, found.reconstruction


def masks() -> Iterable[Tensor]:
    grey = torch.randint(0, 256, (2, 64, 64), dtype=torch.uint8, generator=_randn)
    return [ops.lung_mask(grey)]


CALLS: dict[str, Callable[[], Iterable[Tensor]]] = {
    "anatomy_paste": paste,
    "ensemble_discrepancy": ensembles,
    "lung_mask": masks,
    "nt_xent_loss": lambda: [ops.nt_xent_loss(images(8, 16), images(8, 16))],
    "patch_discrepancy": discrepancy,
    "patch_nce_loss": lambda: [ops.patch_nce_loss(images(2, 8, 16), images(2, 8, 16))],
    "smooth_saliency": lambda: [
        ops.smooth_saliency(images(2, 1, 32, 32, grad=False), images(2, 1, 32, 32, grad=False))
    ],
    "ssim": lambda: [ops.ssim(images(2, 1, 32, 32), images(2, 1, 32, 32), data_range=2.0)],
}


def call_every_op() -> None:
    wanted = {name for name in ops.__all__ if hasattr(ops, f"{name}_reference")}
    assert wanted == set(CALLS), wanted ^ set(CALLS)
    for name, call in CALLS.items():
        results = [each for each in call() if each is not None]
        assert all(bool(each.isfinite().all()) for each in results), name
        differentiable = [each.sum() for each in results if each.requires_grad]
        if differentiable:
            torch.stack(differentiable).sum().backward()
        print(f"{name}: forward{' and backward' if differentiable else ''}")
    came = {"scipy", "skimage", "pydantic", "yaml", "safetensors", "PIL"} & set(sys.modules)
    assert not came, came


def main() -> None:
    call_every_op()
    needed = [each for each in distribution("medad-fast").requires or [] if "extra ==" not in each]
    assert sorted(needed) == ["numpy>=1.26", "torch>=2.10"], needed


if __name__ == "__main__":
    main()
