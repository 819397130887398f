"""The CUDA kernels of ensemble discrepancy, run on the host in several orders, bounds checked."""

from __future__ import annotations

import pytest
import torch

from medad_fast.ops.ensemble_discrepancy import ensemble_discrepancy_reference
from python_tests.close import assert_as_accurate_as
from python_tests.emulation import CSRC, ORDERS, load
from python_tests.ops.ensemble_discrepancy.test_ensemble_discrepancy import (
    DTYPES,
    NAMES,
    both,
    make_inputs,
)
from python_tests.ops.run_case import far_apart

# The checks come along: the calls go through the function that Python calls.
SOURCE = f"""
#define MEDAD_WITH_CUDA
{(CSRC / "ops" / "ensemble_discrepancy" / "bind.cpp").read_text()}
#include "ops/ensemble_discrepancy/gpu.cu"
namespace medad::baseline {{
void ensemble_discrepancy_cpu(const EnsembleJob&) {{}}
}}
"""
# Four pixels a thread, one a thread, one member, and more than float32 sums; a block's end.
SHAPES = [
    (3, 3, (2, 1, 8, 6)),
    (3, 3, (1, 1, 33, 32)),
    (3, 3, (2, 1, 5, 7)),
    (2, 5, (2, 2, 3, 3)),
    (2, 1, (1, 1, 3, 3)),
    (20, 18, (1, 1, 5, 4)),
]


@pytest.fixture(scope="module")
def kernels():
    return load(SOURCE, ("ensemble_discrepancy",))


def _emulated(kernels, inputs, log_variance=True, image=True):
    dtype = torch.float64 if inputs[0].dtype == torch.float64 else torch.float32
    out = torch.full((3 if image else 2, *inputs[2].shape), torch.nan, dtype=dtype)
    kernels.call(
        "ensemble_discrepancy",
        inputs[0],
        inputs[1],
        inputs[2] if image else None,
        inputs[3] if log_variance else None,
        out,
        None,
    )
    return out


@pytest.mark.parametrize("log_variance", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("unknown", "normal", "shape"), SHAPES)
def test_matches_reference(kernels, unknown, normal, shape, dtype, log_variance):
    inputs = make_inputs(unknown, normal, shape, "cpu", dtype)
    out = _emulated(kernels, inputs, log_variance)
    for i, name in enumerate(NAMES):
        assert_as_accurate_as(
            out[i],
            lambda d, name=name: getattr(
                both(ensemble_discrepancy_reference, inputs, log_variance, d), name
            ),
        )
    assert torch.equal(
        _emulated(kernels, inputs, log_variance, image=False).nan_to_num(7), out[:2].nan_to_num(7)
    )


def test_layouts_and_alignment_do_not_change_a_bit(kernels):
    inputs = make_inputs(3, 3, (4, 2, 8, 6))
    expected = _emulated(kernels, inputs)
    wide = [torch.cat([t, t], dim=-3)[..., :2, :, :] for t in inputs]
    moved = [torch.cat([t.new_zeros(1), t.flatten()])[1:].view_as(t) for t in inputs]
    turned = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in inputs[:2]] + inputs[2:]
    for same in (wide, moved, turned):
        torch.testing.assert_close(_emulated(kernels, same), expected, rtol=0, atol=0)


def test_pixels_beyond_float32_are_computed_again(kernels):
    for shape in ((1, 1, 8, 8), (1, 1, 7, 7)):
        inputs = make_inputs(3, 3, shape)
        for i, scale in enumerate((1e-30, 1e30, 1e38, float("nan"), float("inf"))):
            for tensor in inputs[:3]:
                tensor[..., i, i::3] *= scale
        inputs[3][..., 6, :] = -400.0
        out = _emulated(kernels, inputs)
        truth = both(ensemble_discrepancy_reference, inputs, True, torch.float64)
        for got, exact in zip(out, truth, strict=True):
            torch.testing.assert_close(got, exact.float(), rtol=2e-6, atol=1e-6, equal_nan=True)


def test_pixels_too_small_for_float32_keep_their_digits(kernels):
    for shape in ((1, 1, 8, 8), (1, 1, 7, 7)):
        inputs = [1e-30 * t for t in make_inputs(3, 3, shape)]
        out = _emulated(kernels, inputs, log_variance=False)
        truth = both(ensemble_discrepancy_reference, inputs, False, torch.float64)
        torch.testing.assert_close(out[1], truth.intra.float(), rtol=1e-6, atol=0)


def test_order_of_threads_and_blocks_does_not_change_a_bit(kernels):
    for shape in ((2, 1, 33, 32), (1, 1, 31, 17)):
        inputs = make_inputs(3, 3, shape)
        results = []
        for order, seed in ORDERS:
            with kernels.order(order, seed):
                results.append(_emulated(kernels, inputs))
        assert all(torch.equal(results[0], other) for other in results[1:])


def test_one_launch(kernels):
    before = kernels.launches
    _emulated(kernels, make_inputs(3, 3, (2, 1, 8, 8)))
    assert kernels.launches - before == 1


def test_empty(kernels):
    before = kernels.launches
    _emulated(kernels, make_inputs(3, 3, (0, 1, 8, 8)))
    assert kernels.launches == before


def test_it_reaches_far(kernels):
    inputs = make_inputs(3, 3, (3, 1, 4, 4), dtype=torch.float16)
    wanted = _emulated(kernels, inputs)
    found = _emulated(kernels, [far_apart(t) for t in inputs])
    assert torch.equal(found, wanted)
