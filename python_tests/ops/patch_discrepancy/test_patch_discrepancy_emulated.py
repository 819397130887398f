"""The CUDA kernels of patch discrepancy, run on the host in several orders, with bounds checked."""

from __future__ import annotations

import pytest
import torch

from medad_fast.ops.patch_discrepancy import patch_discrepancy, patch_discrepancy_reference
from python_tests.emulation import CSRC, ORDERS, load
from python_tests.ops.patch_discrepancy.test_patch_discrepancy import (
    DTYPES,
    LAYERS,
    assert_accurate,
    cast,
    cast_heads,
    make_heads,
    make_maps,
)
from python_tests.ops.run_case import far_apart

# The checks come along: the calls go through the function that Python calls.
SOURCE = f"""
#define MEDAD_WITH_CUDA
{(CSRC / "ops" / "patch_discrepancy" / "bind.cpp").read_text()}
#include "ops/patch_discrepancy/gpu.cu"
namespace medad::baseline {{
void patch_discrepancy_cpu(const DiscrepancyJob&) {{}}
void patch_discrepancy_backward_cpu(const DiscrepancyJob&) {{}}
}}
"""
REDUCTIONS = ["sum", "mean", "none"]
# Widths that are and are not multiples of four, channels that leave warps idle and that do not.
SMALL = [(8, 4, 4), (37, 3, 5), (1, 1, 1)]


@pytest.fixture(scope="module")
def kernels():
    return load(
        SOURCE,
        ("patch_discrepancy", "patch_discrepancy_backward"),
        ("-Wno-unknown-pragmas",),  # `#pragma unroll` is nvcc's
    )


def _scratch(features, dtype):
    return torch.full((sum(f.shape[0] * f.shape[2] * f.shape[3] for f in features),), torch.nan).to(
        dtype
    )


def _emulated(kernels, features, reconstructed, size, heads=None, reduction="sum"):
    dtype = torch.float64 if features[0].dtype == torch.float64 else torch.float32
    shape = (features[0].shape[0], 1, *size)
    shape = (len(features), *shape) if reduction == "none" else shape
    out = torch.full(shape, torch.nan, dtype=dtype)
    flat = [part for head in heads or [] for part in head]
    code = REDUCTIONS.index(reduction)
    scratch = _scratch(features, dtype)
    kernels.call("patch_discrepancy", features, reconstructed, flat, code, scratch, out, None)
    return out


def _emulated_gradient(kernels, upstream, features, reconstructed, reduction, both=True):
    grads = [torch.full_like(m, torch.nan) for m in features + reconstructed]
    count = len(features)
    kernels.call(
        "patch_discrepancy_backward",
        upstream,
        features,
        reconstructed,
        REDUCTIONS.index(reduction),
        _scratch(features, upstream.dtype),
        grads[:count] if both else [],
        grads[count:],
        None,
    )
    return grads if both else grads[count:]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layers", [SMALL, LAYERS[2]])
def test_matches_reference(kernels, layers, dtype):
    features, reconstructed = make_maps(layers, 2, dtype=dtype)
    assert_accurate(
        _emulated(kernels, features, reconstructed, (9, 13)),
        lambda d: patch_discrepancy_reference(
            cast(features, d), cast(reconstructed, d), size=(9, 13)
        ),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("hidden", "projected"), [(5, 3), (70, 65)])
def test_heads_match_reference(kernels, hidden, projected, dtype):
    features, reconstructed = make_maps(SMALL, 2, dtype=dtype)
    heads = make_heads(SMALL, dtype=dtype, hidden=hidden, projected=projected)
    assert_accurate(
        _emulated(kernels, features, reconstructed, (9, 13), heads),
        lambda d: patch_discrepancy_reference(
            cast(features, d), cast(reconstructed, d), size=(9, 13), heads=cast_heads(heads, d)
        ),
    )


def test_wide_heads_take_fewer_positions_a_block(kernels):
    layers = [(6, 5, 7)]
    features, reconstructed = make_maps(layers, 1)
    for hidden in (500, 1000):  # 32 and 16 positions
        heads = make_heads(layers, hidden=hidden, projected=3)
        expected = patch_discrepancy(features, reconstructed, size=(5, 7), heads=heads)
        result = _emulated(kernels, features, reconstructed, (5, 7), heads)
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-6)
    heads = make_heads(layers, hidden=4000, projected=3)
    with pytest.raises(RuntimeError, match="hidden layer of 4000"):
        _emulated(kernels, features, reconstructed, (5, 7), heads)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_matches_the_cpu_kernel(kernels, dtype, reduction):
    features, reconstructed = make_maps(SMALL, 2, dtype=dtype)
    leaves = [m.clone().requires_grad_() for m in features + reconstructed]
    out = patch_discrepancy(leaves[:3], leaves[3:], size=(9, 6), reduction=reduction)
    out = torch.stack(out) if reduction == "none" else out
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out.dtype)
    expected = torch.autograd.grad(out, leaves, upstream)
    grads = _emulated_gradient(kernels, upstream, features, reconstructed, reduction)
    for mine, cpu in zip(grads, expected, strict=True):
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(mine, cpu, rtol=4 * eps, atol=8 * eps * cpu.abs().max().item())
    one_side = _emulated_gradient(kernels, upstream, features, reconstructed, reduction, False)
    assert all(torch.equal(a, b) for a, b in zip(one_side, grads[3:], strict=True))


@pytest.mark.parametrize("size", [(2, 3), (40, 3), (200, 150)])
def test_gradient_of_any_resize(kernels, size):
    features, reconstructed = make_maps([(4, 7, 9)], 1, dtype=torch.float64)
    leaves = [m.clone().requires_grad_() for m in features + reconstructed]
    out = patch_discrepancy_reference(leaves[:1], leaves[1:], size=size)
    upstream = torch.randn(
        out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    expected = torch.autograd.grad(out, leaves, upstream)
    grads = _emulated_gradient(kernels, upstream, features, reconstructed, "sum")
    for mine, truth in zip(grads, expected, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layouts_and_alignment_do_not_change_a_bit(kernels, dtype):
    features, reconstructed = make_maps([(36, 4, 8)], 2, dtype=dtype)
    expected = _emulated(kernels, features, reconstructed, (5, 5))
    upstream = torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(2))
    gradient = _emulated_gradient(kernels, upstream, features, reconstructed, "sum")
    last = [[m.to(memory_format=torch.channels_last) for m in s] for s in (features, reconstructed)]
    moved = [torch.cat([m.new_zeros(1), m.flatten()])[1:].view_as(m) for m in features]
    strided = [m.mT.contiguous().mT for m in features]
    for a, b in (last, (moved, reconstructed), (strided, reconstructed)):
        assert torch.equal(_emulated(kernels, a, b, (5, 5)), expected)
        grads = _emulated_gradient(kernels, upstream, a, b, "sum")
        assert all(torch.equal(x, y) for x, y in zip(grads, gradient, strict=True))


def test_order_of_threads_and_blocks_does_not_change_a_bit(kernels):
    features, reconstructed = make_maps(SMALL, 2)
    heads = make_heads(SMALL, hidden=20, projected=9)
    upstream = torch.randn(2, 1, 9, 6, generator=torch.Generator().manual_seed(2))
    results = []
    for order, seed in ORDERS:
        with kernels.order(order, seed):
            results.append(
                [
                    _emulated(kernels, features, reconstructed, (9, 13)),
                    _emulated(kernels, features, reconstructed, (9, 13), heads),
                    *_emulated_gradient(kernels, upstream, features, reconstructed, "sum"),
                ]
            )
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_all_layers_go_in_one_launch_each(kernels):
    features, reconstructed = make_maps([(4, 3, 3)] * 11, 1)
    before = kernels.launches
    _emulated(kernels, features[:8], reconstructed[:8], (4, 4))
    assert kernels.launches - before == 2
    for reduction in REDUCTIONS:  # more layers than one launch holds
        out = _emulated(kernels, features, reconstructed, (4, 4), reduction=reduction)
        expected = patch_discrepancy(features, reconstructed, size=4, reduction=reduction)
        expected = torch.stack(expected) if reduction == "none" else expected
        torch.testing.assert_close(out, expected)


def test_what_is_not_finite_becomes_nan(kernels):
    features, reconstructed = make_maps([(20, 6, 7)], 1)
    features[0][0, 13, 2, 4] = float("inf")
    reconstructed[0][0, 3, 5, 6] = float("nan")
    out = _emulated(kernels, features, reconstructed, (12, 14))
    expected = patch_discrepancy(features, reconstructed, size=(12, 14))
    assert torch.equal(out.isnan(), expected.isnan())
    heads = make_heads([(20, 6, 7)])
    out = _emulated(kernels, features, reconstructed, (12, 14), heads)
    expected = patch_discrepancy(features, reconstructed, size=(12, 14), heads=heads)
    assert torch.equal(out.isnan(), expected.isnan())


def test_no_channels(kernels):
    empty = [torch.zeros(2, 0, 3, 3)]
    assert _emulated(kernels, empty, empty, (4, 4)).eq(0).all()


def test_it_reaches_far(kernels):
    features, reconstructed = make_maps([(5, 3, 4)], 3, dtype=torch.float16)
    far = [far_apart(m) for m in (*features, *reconstructed)]
    wanted = _emulated(kernels, features, reconstructed, (5, 6))
    found = _emulated(kernels, far[:1], far[1:], (5, 6))
    assert torch.equal(found, wanted)
