"""The CUDA kernel of smoothed saliency, run on the host in several orders, with bounds checked."""

from __future__ import annotations

import pytest
import torch

from medad_fast.ops.smooth_saliency import smooth_saliency_reference
from python_tests.close import assert_as_accurate_as
from python_tests.emulation import CSRC, ORDERS, load
from python_tests.ops.smooth_saliency.test_smooth_saliency import DTYPES, make_inputs

# The checks come along: the calls go through the function that Python calls.
SOURCE = f"""
#define MEDAD_WITH_CUDA
{(CSRC / "ops" / "smooth_saliency" / "bind.cpp").read_text()}
#include "ops/smooth_saliency/gpu.cu"
namespace medad::baseline {{
void smooth_saliency_cpu(const SaliencyJob&) {{}}
}}
"""
# One tile and several, whole and cut short, and images smaller than the windows.
SHAPES = [(1, 1, 32, 32), (2, 3, 33, 70), (1, 1, 16, 5), (3, 1, 1, 2), (1, 1, 3, 40)]


@pytest.fixture(scope="module")
def kernels():
    return load(SOURCE, ("smooth_saliency",))


def _emulated(kernels, gradient, image):
    dtype = torch.float64 if gradient.dtype == torch.float64 else torch.float32
    batch, _, height, width = gradient.shape
    out = torch.full((batch, 1, height, width), -1.0, dtype=dtype)
    kernels.call("smooth_saliency", gradient, image, out, None)
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_reference(kernels, shape, dtype):
    gradient, image = make_inputs(shape, "cpu", dtype)
    assert_as_accurate_as(
        _emulated(kernels, gradient, image),
        lambda d: smooth_saliency_reference(gradient.to(d), image.to(d)),
    )


def test_what_is_not_finite_goes_where_the_reference_says(kernels):
    gradient, image = make_inputs((2, 2, 40, 40))
    image[1] = 1
    gradient[0, 1, 3, 31] = gradient[0, 0, 39, 39] = gradient[1, 0, 0, 0] = float("nan")
    gradient[1, 0, 20:26, 20:26] = float("inf")
    result = _emulated(kernels, gradient, image)
    truth = smooth_saliency_reference(gradient.double(), image.double())
    assert torch.equal(result.isnan(), truth.isnan())
    assert torch.equal(result.isinf(), truth.isinf())
    assert truth.isinf().any()


def test_layouts_do_not_change_a_bit(kernels):
    gradient, image = make_inputs((3, 2, 20, 35))
    expected = _emulated(kernels, gradient, image)
    wide = torch.cat([gradient, gradient], dim=3)[..., 3:38]
    turned = image.transpose(0, 2).contiguous().transpose(0, 2)
    assert torch.equal(_emulated(kernels, gradient, turned), expected)
    assert torch.equal(_emulated(kernels, wide, image), _emulated(kernels, wide.clone(), image))


def test_order_of_threads_and_blocks_does_not_change_a_bit(kernels):
    gradient, image = make_inputs((2, 1, 40, 50))
    results = []
    for order, seed in ORDERS:
        with kernels.order(order, seed):
            results.append(_emulated(kernels, gradient, image))
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_one_launch_and_none_for_nothing(kernels):
    before = kernels.launches
    _emulated(kernels, *make_inputs((2, 1, 40, 50)))
    assert kernels.launches - before == 1
    _emulated(kernels, *make_inputs((0, 1, 8, 8)))
    assert kernels.launches - before == 1
