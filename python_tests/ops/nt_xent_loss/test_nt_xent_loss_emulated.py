"""nt_xent_loss: the CUDA kernels, run on the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medad_fast import _C
from python_tests.close import assert_as_accurate_as
from python_tests.emulation import CSRC, ORDERS, EmulatedKernels, load
from python_tests.ops.nt_xent_loss.test_nt_xent_loss import (
    BAD_NUMBERS,
    loss_and_gradients,
    nt_xent_loss_reference,
    two_views,
)

# The checks come along: the calls go through the function that Python calls.
SOURCE = f"""
#define MEDAD_WITH_CUDA
{(CSRC / "ops" / "nt_xent_loss" / "bind.cpp").read_text()}
#include "ops/nt_xent_loss/gpu.cu"
namespace medad::baseline {{
void nt_xent_loss_cpu(const NtXentJob&) {{}}
}}
"""
GPUS = {
    "hopper": (),
    "turing": ("-DMEDAD_EMULATION_NO_TENSOR_CORES", "-DMEDAD_EMULATION_SHARED_KIB=64"),
}


@pytest.fixture(params=GPUS)
def kernels(request: pytest.FixtureRequest) -> EmulatedKernels:
    """The CUDA kernels on the host: a GPU with tensor cores, and one with little of anything."""
    return load(SOURCE, ("nt_xent_loss",), GPUS[request.param])


def run_on_host(
    kernels: EmulatedKernels,
    z1: Tensor,
    z2: Tensor,
    temperature: float = 0.5,
    *,
    gradient: bool = True,
) -> list[Tensor]:
    """Loss and gradients, written over NaN."""
    compute = torch.float64 if z1.dtype == torch.float64 else torch.float32

    def nan(*shape: int, dtype: torch.dtype = compute) -> Tensor:
        return torch.full(shape, np.nan, dtype=dtype)

    both = (2, *z1.shape)
    loss, units, rows = nan(), nan(*both), nan(_C.nt_xent_row_values(), 2 * len(z1))
    formed = nan(*both, dtype=z1.dtype) if gradient else None
    sums = nan(*both) if gradient else None
    kernels.call("nt_xent_loss", z1, z2, loss, formed, units, sums, rows, temperature, None)
    return [loss, *formed] if gradient else [loss]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (16, 8), (17, 37), (70, 12), (5, 261)], ids=str)
def test_cuda_kernels_on_the_host(kernels, shape, dtype):
    z1, z2 = two_views(shape, dtype)
    results = []
    for order, seed in ORDERS:
        with kernels.order(order, seed):
            results.append(run_on_host(kernels, z1, z2))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))

    def reference(dtype: torch.dtype) -> list[Tensor]:
        return loss_and_gradients(nt_xent_loss_reference, z1.to(dtype), z2.to(dtype))

    for i, fused in enumerate(results[0]):
        assert_as_accurate_as(fused, lambda dtype, i=i: reference(dtype)[i])


@pytest.mark.parametrize("temperature", [0.07, 0.01, 1e-3, 10.0])
def test_cuda_kernels_at_every_temperature(kernels, temperature):
    bound = 64 * torch.finfo(torch.float32).eps * max(1.0, 1 / temperature)
    z1, z2 = two_views((40, 9), torch.float32, alike=0.3)
    got = run_on_host(kernels, z1, z2, temperature)
    truth = loss_and_gradients(nt_xent_loss_reference, z1.double(), z2.double(), temperature)
    for fused, exact in zip(got, truth, strict=True):
        assert (fused.double() - exact).abs().max() <= bound * exact.abs().max()


def test_cuda_forms_no_gradient_that_is_not_wanted(kernels):
    z1, z2 = two_views((9, 4), torch.float32)
    before = kernels.launches
    (loss,) = run_on_host(kernels, z1, z2, gradient=False)
    assert kernels.launches == before + 3
    assert torch.equal(loss, run_on_host(kernels, z1, z2)[0])
    assert kernels.launches == before + 8


def test_cuda_zero_rows_and_no_rows(kernels):
    z1, z2 = two_views((6, 4), torch.float32)
    z1[2] = 0
    truth = loss_and_gradients(nt_xent_loss_reference, z1.double(), z2.double())
    for fused, exact in zip(run_on_host(kernels, z1, z2), truth, strict=True):
        torch.testing.assert_close(fused.double(), exact, rtol=1e-5, atol=1e-7)
    assert run_on_host(kernels, z1[:0], z2[:0])[0].isnan()
    alone = run_on_host(kernels, z1[:1], z2[:1])
    assert all((t == 0).all() for t in alone)


@pytest.mark.parametrize("name", BAD_NUMBERS)
def test_cuda_kernels_never_hide_a_bad_number(kernels, name):
    z1, z2 = two_views((40, 6), torch.float32)
    loss, *gradients = run_on_host(kernels, BAD_NUMBERS[name](z1), z2, 0.01)
    assert loss.isnan()
    assert all(g.isnan().all() for g in gradients)


@pytest.mark.parametrize("factor", [1e37, 1e-42])
def test_cuda_lengths_neither_overflow_nor_vanish(kernels, factor):
    z1, z2 = two_views((20, 6), torch.float32)
    loss, _, g2 = run_on_host(kernels, z1 * factor, z2)
    truth = loss_and_gradients(nt_xent_loss_reference, (z1 * factor).double(), z2.double())
    assert loss.item() == pytest.approx(truth[0].item(), rel=1e-5)
    torch.testing.assert_close(g2.double(), truth[2], rtol=1e-4, atol=1e-6)
