"""The CUDA kernels of anatomy paste, run on the host in several orders, with bounds checked."""

from __future__ import annotations

import pytest
import torch

from medad_fast import _C
from medad_fast.ops import AnatomyPasteParams, anatomy_paste
from python_tests.emulation import CSRC, ORDERS, load
from python_tests.ops.anatomy_paste.test_anatomy_paste import DTYPES, make_call, params_of

# The checks come along: the calls go through the function that Python calls.
SOURCE = f"""
#define MEDAD_WITH_CUDA
{(CSRC / "ops" / "anatomy_paste" / "bind.cpp").read_text()}
#include "ops/anatomy_paste/gpu.cu"
namespace medad::baseline {{
void anatomy_paste_cpu(const PasteJob&) {{}}
}}
"""


@pytest.fixture(scope="module")
def kernels():
    return load(SOURCE, ("anatomy_paste",))


def _emulated(kernels, images, masks, params, sources=None, exact=False):
    batch, _, height, width = images.shape
    wide = images.dtype == torch.float64
    gate_type = torch.uint8 if exact else torch.promote_types(torch.float32, images.dtype)
    out = torch.full_like(images, 77)
    gate = torch.full((batch, 1, height, width), 77, dtype=gate_type)
    size = _C.anatomy_paste_scratch(batch, height, width, wide)
    scratch = torch.full((size,), 255, dtype=torch.uint8)
    kernels.call(
        "anatomy_paste",
        images,
        masks,
        sources,
        params.integers,
        params.reals,
        exact,
        scratch,
        out,
        gate,
        None,
    )
    return out, gate


def _assert_same_as_cpu(kernels, images, masks, params, sources=None, exact=False):
    out, gate = _emulated(kernels, images, masks, params, sources, exact)
    expected = anatomy_paste(images, masks, params, sources=sources, exact=exact)
    assert torch.equal(gate, expected.gate)
    if images.dtype == torch.uint8:
        assert (out.int() - expected.images.int()).abs().max() <= (0 if exact else 1)
    else:  # the mean of a crop is summed in another order
        eps = torch.finfo(images.dtype).eps
        torch.testing.assert_close(out, expected.images, rtol=2 * eps, atol=4 * eps)


@pytest.mark.parametrize("dtype", [torch.uint8, *DTYPES])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["anatpaste", "foreign_patch"])
def test_gives_what_the_cpu_gives(kernels, kind, channels, dtype):
    for side in ((40, 52), (37, 43)):  # four pixels at a time, and one
        call = make_call(3, channels, side, dtype, kind=kind)
        for exact in {False, dtype == torch.uint8}:
            _assert_same_as_cpu(kernels, *call, exact=exact)


@pytest.mark.parametrize("exact", [False, True])
def test_papers_size(kernels, exact):
    images, masks, params = make_call(3, 1, (256, 256), seed=4)
    params.integers[:, 3] = torch.tensor([0, 1, 1])
    params.reals[:, 0] = torch.tensor([5, 14, 1])
    _assert_same_as_cpu(kernels, images, masks, params, exact=exact)


# Strips of 16 and 8 columns, then values in global memory; rows of lines there too.
@pytest.mark.parametrize(
    ("height", "width", "dtype"),
    [
        (300, 50, torch.float32),
        (600, 20, torch.float32),
        (1100, 9, torch.float32),
        (600, 9, torch.float64),
        (5, 6500, torch.float32),
        (6, 1700, torch.float32),
    ],
)
def test_any_size_finds_its_memory(kernels, height, width, dtype):
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(1, 1, height, width, generator=rng).to(dtype)
    params = params_of(
        height=height // 2 + 1,
        width=width // 2 + 1,
        centre=(height // 2, width // 3),
        shape=1,
        sigma=6.0,
        opacity=0.8,
        contrast=1.1,
    )
    _assert_same_as_cpu(kernels, images, None, params)


@pytest.mark.parametrize("side", [1, 2, 3, 7, 31, 33])
def test_odd_sizes(kernels, side):
    for height, width in ((side, 5), (5, side)):
        images = torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(side))
        masks = torch.ones(2, height, width, dtype=torch.bool)
        params = params_of(
            2, height=(height + 1) // 2, width=(width + 1) // 2, centre=None, centre_rank=0.6
        )
        for sigma in (0.0, 0.4, 9.0):
            params.reals[:, 0] = sigma
            _assert_same_as_cpu(kernels, images, masks, params)


def test_sources_ranks_and_masks_without_pixels(kernels):
    rng = torch.Generator().manual_seed(0)
    images, _, params = make_call(6, 2, (32, 48), torch.float32)
    params.integers[:, 12] = torch.tensor([2, -1, 0, 1, -1, 2])
    sources = torch.rand(3, 2, 50, 49, generator=rng)
    for share in (0.0, 0.01, 0.5, 1.0):
        masks = torch.rand(6, 32, 48, generator=rng) < share
        params.reals[:, 5] = torch.tensor([0, 0.2, 0.5, 0.7, 0.99, 1 - 2**-53])
        _assert_same_as_cpu(kernels, images, masks, params, sources)
    odd = images[:, :, :31, 1:].contiguous()  # masks that no 16-byte load fits
    params = AnatomyPasteParams.sample(6, (31, 47), generator=rng)
    _assert_same_as_cpu(kernels, odd, torch.rand(6, 31, 47, generator=rng) < 0.3, params)


def test_values_that_only_the_device_has_seen_stay_inside(kernels):
    images, masks, params = make_call(4, 1, (32, 40), torch.float32)
    rng = torch.Generator().manual_seed(0)
    for _ in range(8):
        wild = params.to("cpu")
        wild.integers = torch.randint(-(2**62), 2**62, wild.integers.shape, generator=rng)
        wild.integers[:2, :12] %= 200
        wild.reals = torch.randn(wild.reals.shape, generator=rng, dtype=torch.float64) * 50
        wild.reals[0, 0] = torch.nan
        wild.reals[1] = torch.inf
        out, gate = _emulated(kernels, images, masks, wild)
        assert gate.isfinite().all()
        outside = gate == 0
        assert torch.equal(out[outside], images[outside])


def test_order_of_threads_and_blocks_does_not_change_a_bit(kernels):
    for dtype, exact in ((torch.float32, False), (torch.uint8, True)):
        call = make_call(2, 3, (70, 60), dtype, seed=3)
        results = []
        for order, seed in ORDERS:
            with kernels.order(order, seed):
                results.append(_emulated(kernels, *call, exact=exact))
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_batch_takes_two_launches(kernels):
    before = kernels.launches
    _emulated(kernels, *make_call(5, 2, (30, 30), torch.float32))
    assert kernels.launches - before == 2


def test_memory_that_does_not_start_where_four_pixels_do(kernels):
    images, masks, params = make_call(2, 1, (32, 40), torch.float32)
    expected = _emulated(kernels, images, masks, params)
    moved = torch.cat([images.new_zeros(1), images.flatten()])[1:].view_as(images)
    shifted = torch.cat([masks.new_zeros(3), masks.flatten()])[3:].view_as(masks)
    for call in ((moved, masks), (images, shifted)):
        result = _emulated(kernels, *call, params)
        assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
