"""More than 2^31 elements: that many in one call (slow), and so far apart (the CUDA kernels).

Inputs are memory that is asked for and hardly touched, so that they cost little.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from math import log, prod

import pytest
import torch
from torch import Tensor

from medad_fast.ops import (
    AnatomyPasteParams,
    anatomy_paste,
    ensemble_discrepancy,
    patch_discrepancy,
    patch_nce_loss,
    smooth_saliency,
    ssim,
)
from python_tests.emulation import load
from python_tests.ops import test_ensemble_discrepancy_emulated as ensemble_on_host
from python_tests.ops import test_patch_discrepancy_emulated as discrepancy_on_host
from python_tests.ops import test_ssim_emulated as ssim_on_host
from python_tests.ops.cases import lung_mask as lung_cases
from python_tests.ops.run_case import far_apart
from python_tests.ops.test_every_op import OPS


def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
    """Zeros that take no memory until they are written to."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    memory = mmap.mmap(-1, prod(shape) * dtype.itemsize, flags=flags)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def large_patch_discrepancy() -> None:
    channels, side = 2**15 + 8, 2**8
    both = zeros(1, channels + 1, side, side, dtype=torch.float16)
    assert both[:, 1:].numel() > 2**31
    both[0, -2, -1, -1], both[0, -1, -1, -1] = 3, 4
    out = patch_discrepancy([both[:, :-1]], [both[:, 1:]], size=side)
    # The last vectors are (..., 0, 3) and (..., 3, 4): a cosine of 4 / 5.
    assert out[0, 0, -1, -1].item() == pytest.approx(0.2, rel=1e-5)
    assert out.count_nonzero() == 1


def large_patch_nce_loss() -> None:
    # float32, since 16-bit tensors are widened on the CPU: 17 GB.
    images, depth = 2**20 + 8, 1024
    rows = zeros(images, 2, depth, dtype=torch.float32)
    assert rows.numel() > 2**31
    rows[-1, 1, -1] = 1
    losses = patch_nce_loss(rows, rows, temperature=1.0, reduction="none")
    assert losses[-1, 1].item() == pytest.approx(log(1 + 2.718281828459045) - 1, rel=1e-5)
    assert (losses.flatten()[:-1] - log(2)).abs().max() < 1e-6


def large_ensemble_discrepancy() -> None:
    members, side = 64, 2**12
    normal = zeros(members, 2, 1, side, side + 1, dtype=torch.float16)
    assert normal.numel() > 2**31
    normal[-1, -1, -1, -1, -1] = 64
    found = ensemble_discrepancy(normal[:2], normal)
    for value, wanted in ((found.inter, 1.0), (found.intra, 8.0)):
        assert value[-1, -1, -1, -1].item() == pytest.approx(wanted, rel=1e-5)
        assert value.count_nonzero() == 1


def large_lung_mask() -> None:
    (images,) = lung_cases.CASES[0].tensors()
    _, height, width = images.shape
    many = zeros(2**31 // (height * width) + 2, height, width, dtype=torch.uint8)
    assert many.numel() > 2**31
    many[-1] = images[0]
    assert torch.equal(lung_cases.CASES[0].call(many)[-1], lung_cases.CASES[0].call(images[:1])[0])


def large_anatomy_paste() -> None:
    count, side = 2**9 + 1, 2**8
    images = zeros(count, 2**6, side, side, dtype=torch.uint8)
    assert images.numel() > 2**31
    images[-1, :, 1::2] = 200
    rng = torch.Generator().manual_seed(0)
    params = AnatomyPasteParams.sample(count, (side, side), generator=rng)
    last = AnatomyPasteParams.packed(params.integers[-1:], params.reals[-1:])
    masks = torch.ones(1, side, side, dtype=torch.bool)
    many = anatomy_paste(images, masks.expand(count, -1, -1), params)
    alone = anatomy_paste(images[-1:].clone(), masks, last)
    assert torch.equal(many.images[-1:], alone.images)
    assert torch.equal(many.gate[-1:], alone.gate)


def large_smooth_saliency() -> None:
    count, side = 2**9 + 1, 2**8
    gradient = zeros(count, 2**6, side, side, dtype=torch.float16)
    assert gradient.numel() > 2**31
    gradient[-1, -1] = torch.rand(side, side, generator=torch.Generator().manual_seed(0)).half()
    many = smooth_saliency(gradient, gradient)
    last = gradient[-1:].clone()
    assert torch.equal(many[-1:], smooth_saliency(last, last))
    assert many[-1].amax() > 0.2
    assert many[:-1].count_nonzero() == 0


def large_ssim() -> None:
    count, side = 2**9 + 1, 2**8
    both = zeros(count + 1, 2**6, side, side, dtype=torch.float16)
    assert both[1:].numel() > 2**31
    both[-1, -1] = torch.rand(side, side, generator=torch.Generator().manual_seed(0)).half()
    many = both[1:].requires_grad_()
    (grad,) = torch.autograd.grad(ssim(both[:-1], many, data_range=1.0, reduction="sum"), many)
    last = both[-1:].clone().requires_grad_()
    alone = ssim(both[:1].clone(), last, data_range=1.0, reduction="sum")
    assert torch.equal(grad[-1:], torch.autograd.grad(alone, last)[0])
    assert grad[-1, -1].count_nonzero() > side * side / 2  # a corner underflows
    assert grad[:-1].count_nonzero() == 0


# Their indices are 64-bit, but nothing here has memory for such a call.
TOO_LARGE = {"nt_xent_loss": "its unit vectors, packed along either side, would take 26 GB"}
LARGE: dict[str, Callable[[], None]] = {
    name.removeprefix("large_"): function
    for name, function in list(globals().items())
    if name.startswith("large_")
}


def test_every_op_has_a_large_call():
    assert set(LARGE) | set(TOO_LARGE) == set(OPS)


@pytest.mark.slow
@pytest.mark.parametrize("op", LARGE)
def test_the_last_of_two_to_the_31_elements_is_right(op):
    LARGE[op]()


def test_cuda_patch_discrepancy_reaches_far():
    kernels = load(
        discrepancy_on_host.SOURCE,
        ("patch_discrepancy", "patch_discrepancy_backward"),
        ("-Wno-unknown-pragmas",),
    )
    features, reconstructed = discrepancy_on_host.make_maps([(5, 3, 4)], 3, dtype=torch.float16)
    far = [far_apart(m) for m in (*features, *reconstructed)]
    wanted = discrepancy_on_host._emulated(kernels, features, reconstructed, (5, 6))
    found = discrepancy_on_host._emulated(kernels, far[:1], far[1:], (5, 6))
    assert torch.equal(found, wanted)


def test_cuda_ensemble_discrepancy_reaches_far():
    kernels = load(ensemble_on_host.SOURCE, ("ensemble_discrepancy",))
    inputs = ensemble_on_host.make_inputs(3, 3, (3, 1, 4, 4), dtype=torch.float16)
    wanted = ensemble_on_host._emulated(kernels, inputs)
    found = ensemble_on_host._emulated(kernels, [far_apart(t) for t in inputs])
    assert torch.equal(found, wanted)


def test_cuda_ssim_reaches_far():
    kernels = load(ssim_on_host.SOURCE, ("ssim",))
    near = ssim_on_host.make_images((2, 2, 14, 13), torch.float16)
    far = [far_apart(t) for t in near]
    wanted, found = (ssim_on_host.emulated(kernels, *pair) for pair in (near, far))
    assert torch.equal(found, wanted)
