"""patch_nce_loss: the CUDA kernels, run on the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medad_fast.ops import patch_nce_loss_reference
from python_tests.close import assert_as_accurate_as
from python_tests.emulation import CSRC, ORDERS, EmulatedKernels, load
from python_tests.ops.patch_nce_loss.test_patch_nce_loss import unit_rows

# The checks come along: the calls go through the function that Python calls.
SOURCE = f"""
#define MEDAD_WITH_CUDA
{(CSRC / "ops" / "patch_nce_loss" / "bind.cpp").read_text()}
#include "ops/patch_nce_loss/gpu.cu"
namespace medad::baseline {{
void patch_nce_loss_cpu(const PatchNceJob&) {{}}
}}
"""
GPUS = {
    "hopper": (),
    "turing": ("-DMEDAD_EMULATION_NO_TENSOR_CORES", "-DMEDAD_EMULATION_SHARED_KIB=64"),
}


@pytest.fixture(params=GPUS)
def kernels(request: pytest.FixtureRequest) -> EmulatedKernels:
    """The CUDA kernels on the host: a GPU with tensor cores, and one with little of anything."""
    return load(SOURCE, ("patch_nce_loss",), GPUS[request.param])


def run_on_host(
    kernels: EmulatedKernels,
    query: list[Tensor],
    key: list[Tensor],
    weight: list[Tensor],
    *,
    sides: tuple[bool, bool] = (True, True),
    negatives: str = "image",
    exact_cut: bool = False,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Rows and gradients, written over NaN."""
    compute = torch.float64 if query[0].dtype == torch.float64 else torch.float32
    rows, lse = ([q.new_full(q.shape[:2], np.nan, dtype=compute) for q in query] for _ in range(2))
    gradients = [[torch.full_like(q, np.nan) for q in query] if side else [] for side in sides]
    options = (0.5, negatives == "batch", exact_cut, not weight)
    kernels.call("patch_nce_loss", query, key, weight, rows, lse, *gradients, *options, None)
    return rows, gradients[0], gradients[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("negatives", ["image", "batch"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (2, 7, 3), (2, 33, 37), (1, 140, 12), (1, 9, 261)], ids=str
)
def test_cuda_kernels_on_the_host(kernels, shape, negatives, dtype):
    query, key = unit_rows(shape, dtype)
    results = []
    for order, seed in ORDERS:
        with kernels.order(order, seed):
            results.append(run_on_host(kernels, [query], [key], [], negatives=negatives))
    for other in results[1:]:
        assert all(torch.equal(a[0], b[0]) for a, b in zip(results[0], other, strict=True))

    def reference(dtype: torch.dtype) -> list[Tensor]:
        q, k = (t.detach().to(dtype).requires_grad_() for t in (query, key))
        rows = patch_nce_loss_reference(
            q, k, temperature=0.5, negatives=negatives, reduction="none", detach_key=False
        )
        rows.mean().backward()
        return [rows.detach(), q.grad, k.grad]

    # TF32 rounds the softmax to 11 bits: twice plain torch's error in float16, which keeps them.
    slack = 4.0 if dtype == torch.float16 else 2.0
    for i, (fused,) in enumerate(results[0]):
        assert_as_accurate_as(fused, lambda dtype, i=i: reference(dtype)[i], slack=slack)


def test_cuda_layers_share_a_launch(kernels):
    pairs = [unit_rows(shape, torch.float32) for shape in [(2, 5, 3), (0, 4, 4), (1, 140, 16)]]
    query, key = [q for q, _ in pairs], [k for _, k in pairs]
    weight = [torch.rand(q.shape[:2], generator=torch.Generator().manual_seed(0)) for q in query]
    before = kernels.launches
    together = run_on_host(kernels, query, key, weight, exact_cut=True)
    assert kernels.launches == before + 2
    for layer in range(3):
        part = slice(layer, layer + 1)
        apart = run_on_host(kernels, query[part], key[part], weight[part], exact_cut=True)
        for many, one in zip(together, apart, strict=True):
            assert torch.equal(many[layer], one[0])
        inputs = [t[layer].double().requires_grad_() for t in (query, key)]
        rows = patch_nce_loss_reference(
            *inputs, temperature=0.5, reduction="none", exact_cut=True, detach_key=False
        )
        expected = torch.autograd.grad(rows, inputs, weight[layer].double())
        for got, wanted in zip([t[layer] for t in together], [rows, *expected], strict=True):
            torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-6)


def test_cuda_forms_only_the_gradients_that_are_wanted(kernels):
    query, key = unit_rows((1, 9, 4), torch.float32)
    both = run_on_host(kernels, [query], [key], [])
    for sides in [(True, False), (False, True), (False, False)]:
        some = run_on_host(kernels, [query], [key], [], sides=sides)
        assert torch.equal(some[0][0], both[0][0])
        for got, wanted, side in zip(some[1:], both[1:], sides, strict=True):
            assert len(got) == side
            if side:
                torch.testing.assert_close(got[0], wanted[0], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_cuda_kernels_never_hide_a_bad_number(kernels, value):
    query, key = unit_rows((1, 12, 4), torch.float32)
    query[0, 3, 2] = value
    rows, (gradient,), _ = run_on_host(kernels, [query], [key], [])
    assert rows[0].isfinite().sum() == 11
    assert gradient[0].isfinite().all(1).sum() == 11
    assert not rows[0][0, 3].isfinite()
