"""The CUDA kernels of SSIM, run on the host in several orders, with bounds checked."""

from __future__ import annotations

import math

import pytest
import torch

from medad_fast.ops.ssim import ssim, ssim_reference
from python_tests.emulation import CSRC, ORDERS, load
from python_tests.ops.run_case import far_apart
from python_tests.ops.ssim.test_ssim import (
    DTYPES,
    SPECIAL,
    assert_gradient,
    assert_value,
    make_images,
    textbook,
)

# The checks come along: the calls go through the function that Python calls.
SOURCE = f"""
#define MEDAD_WITH_CUDA
{(CSRC / "ops" / "ssim" / "bind.cpp").read_text()}
#include "ops/ssim/gpu.cu"
namespace medad::baseline {{
void ssim_cpu(const SsimJob&) {{}}
}}
"""


@pytest.fixture(scope="module")
def kernels():
    return load(SOURCE, ("ssim",))


def emulated(
    kernels,
    x,
    y,
    *,
    data_range=1.0,
    window_size=11,
    sigma=1.5,
    padding="valid",
    reduction="none",
    upstream=None,
    sides=(),
):
    """The map or the value; with ``sides`` the gradients of its sum, or of it times upstream.

    A value that is formed with gradients comes behind them.
    """
    same = padding == "same"
    less = 0 if same else window_size - 1
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    shape = (*x.shape[:2], x.shape[2] - less, x.shape[3] - less)
    value = torch.full(shape if reduction == "none" else (), math.nan, dtype=compute)
    grads = [torch.full_like(t, math.nan) for t in (x, y)]
    edge = window_size - 1 if same else 0
    tiles = math.prod((size + edge + 7) // 8 for size in x.shape[2:]) * shape[0] * shape[1]
    scale = 1 / math.prod(shape) if reduction == "mean" else 1.0
    kernels.call(
        "ssim",
        x,
        y,
        float(data_range),
        window_size,
        float(sigma),
        same,
        value if reduction == "none" and not sides else None,
        value if reduction != "none" else None,
        float(scale),
        upstream,
        float(scale),
        grads[0] if 0 in sides else None,
        grads[1] if 1 in sides else None,
        torch.full((tiles,), math.nan, dtype=torch.float64),
        None,
    )
    if not sides:
        return value
    return [grads[side] for side in sides] + ([] if reduction == "none" else [value])


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 11, 11), (2, 2, 43, 33)])
def test_matches_reference(kernels, shape, dtype, padding):
    x, y = make_images(shape, dtype)
    options = dict(data_range=1.0, padding=padding)
    for reduction in ("none", "mean"):
        own = dict(options, reduction=reduction)
        assert_value(emulated(kernels, x, y, **own), x, y, **own)
    for side, grad in enumerate(emulated(kernels, x, y, **options, sides=(0, 1))):
        assert_gradient(grad, x, y, side, **options, reduction="sum")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("window_size", "padding"), [(1, "valid"), (7, "same"), (21, "same")])
def test_any_window(kernels, window_size, padding, dtype):
    x, y = make_images((1, 2, 21, 37), dtype)
    options = dict(data_range=1.0, padding=padding, window_size=window_size)
    values = emulated(kernels, x, y, **options)
    if window_size == 1:  # nothing averages the rounding of a dark pixel out
        assert (values - textbook(x, y, window_size=1)).abs().max() < 1e-5
        return
    assert_value(values, x, y, **options, reduction="none")
    for side in (0, 1):
        (grad,) = emulated(kernels, x, y, **options, sides=(side,))
        assert_gradient(grad, x, y, side, **options, reduction="sum")


def test_what_does_not_fit_in_shared_memory_is_refused(kernels):
    x, y = make_images((1, 1, 8, 8))
    for window_size in (101, 201):
        with pytest.raises(RuntimeError, match="window_size"):
            emulated(kernels, x, y, padding="same", window_size=window_size, sides=(0,))


def test_gradient_of_the_map(kernels):
    x, y = make_images((2, 1, 27, 46))
    out = ssim_reference(x, y, data_range=1.0, reduction="none")
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    for side in (0, 1):
        (grad,) = emulated(kernels, x, y, upstream=upstream, sides=(side,))
        assert_gradient(grad, x, y, side, upstream, data_range=1.0, reduction="none")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_equal_images_are_exactly_one_and_do_not_pull(kernels, dtype):
    x = make_images((1, 1, 20, 36), dtype)[0] * 3 + 100
    for data_range in (1e-30, 1.0, 255.0):
        assert emulated(kernels, x, x, data_range=data_range).eq(1).all()
        assert emulated(kernels, x, x, data_range=data_range, reduction="mean") == 1
        for grad in emulated(kernels, x, x, data_range=data_range, sides=(0, 1)):
            assert grad.eq(0).all()


@pytest.mark.parametrize("kind", SPECIAL)
def test_extreme_pixels(kernels, kind):
    """Tiles that leave the range of float32 are done again in float64; the NaN mask is exact."""
    x, y = make_images((1, 1, 37, 45))
    SPECIAL[kind](x)
    result = emulated(kernels, x, y, padding="same")
    expected = ssim(x, y, data_range=1.0, padding="same", reduction="none")
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5, equal_nan=True)
    leaf = y.clone().requires_grad_()
    out = ssim(x, leaf, data_range=1.0, padding="same", reduction="sum")
    (wanted,) = torch.autograd.grad(out, leaf)
    (grad,) = emulated(kernels, x, y, padding="same", sides=(1,))
    bound = wanted[wanted.isfinite()].abs().max().item() if wanted.isfinite().any() else 0
    torch.testing.assert_close(grad, wanted, rtol=0, atol=1e-3 * bound + 1e-30, equal_nan=True)


@pytest.mark.parametrize("data_range", [1e-30, 1e30])
def test_any_data_range(kernels, data_range):
    x, y = make_images((1, 1, 14, 40))
    expected = emulated(kernels, x, y)
    result = emulated(kernels, x * data_range, y * data_range, data_range=data_range)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_strides(kernels, dtype):
    x, y = make_images((2, 3, 15, 40), dtype)
    expected = emulated(kernels, x, y)
    strided = [
        x.to(memory_format=torch.channels_last),
        torch.stack([y, y], -1)[..., 1],
    ]
    assert torch.equal(emulated(kernels, *strided), expected)
    grads = emulated(kernels, x, y, sides=(0, 1))
    for grad, other in zip(emulated(kernels, *strided, sides=(0, 1)), grads, strict=True):
        assert torch.equal(grad, other)
    wide = x[:1, :, :1, :1].expand(1, 3, 15, 40)
    assert emulated(kernels, wide, wide).eq(1).all()


def test_no_images(kernels):
    for shape in ((0, 1, 12, 12), (2, 0, 12, 12)):
        x = torch.ones(shape)
        assert emulated(kernels, x, x, reduction="sum") == 0


@pytest.mark.parametrize(("order", "seed"), ORDERS)
def test_any_order_of_threads_gives_the_same_bits(kernels, order, seed):
    x, y = make_images((1, 2, 43, 40))
    x[0, 1, 20, 20] = 1e30
    options = dict(padding="same")
    expected = emulated(kernels, x, y, **options)
    mean = emulated(kernels, x, y, **options, reduction="mean")
    grads = emulated(kernels, x, y, **options, sides=(0, 1))
    with kernels.order(order, seed):
        assert torch.equal(emulated(kernels, x, y, **options), expected)
        assert torch.equal(emulated(kernels, x, y, **options, reduction="mean"), mean)
        for a, b in zip(emulated(kernels, x, y, **options, sides=(0, 1)), grads, strict=True):
            assert torch.equal(a, b)


def test_value_does_not_depend_on_the_gradient(kernels):
    x, y = make_images((2, 1, 40, 50))
    x[1, 0, 35, 5] = 1e30
    for padding in ("valid", "same"):
        alone = emulated(kernels, x, y, padding=padding, reduction="mean")
        for sides in ((0,), (1,), (0, 1)):
            before = kernels.launches
            *_, value = emulated(kernels, x, y, padding=padding, reduction="mean", sides=sides)
            assert torch.equal(value, alone)
            assert kernels.launches - before == 3  # tiles, exceptions, total
        expected = ssim(x, y, data_range=1.0, padding=padding).item()
        assert alone.item() == pytest.approx(expected, rel=1e-6)


def test_it_reaches_far(kernels):
    near = make_images((2, 2, 14, 13), torch.float16)
    far = [far_apart(t) for t in near]
    wanted, found = (emulated(kernels, *pair) for pair in (near, far))
    assert torch.equal(found, wanted)
