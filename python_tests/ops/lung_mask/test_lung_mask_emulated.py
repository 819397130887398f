"""The CUDA kernels of lung masks, run on the host in several orders, with bounds checked."""

from __future__ import annotations

import pytest
import torch

from medad_fast.ops.lung_mask import lung_mask
from python_tests.emulation import CSRC, ORDERS, load
from python_tests.ops.lung_mask.test_lung_mask import awkward, shapes
from python_tests.phantoms import chest_phantoms

# The checks come along: the calls go through the function that Python calls.
SOURCE = f"""
#define MEDAD_WITH_CUDA
{(CSRC / "ops" / "lung_mask" / "bind.cpp").read_text()}
#include "ops/lung_mask/gpu.cu"
namespace medad {{
namespace baseline {{
void lung_mask_cpu(const LungJob&) {{}}
}}
void scratch_bytes(const TensorView& images, const TensorView& bytes) {{
  *bytes.ptr<int64_t>() =
      lung_mask_scratch_bytes(images.shape[0], images.shape[1], images.shape[2]);
}}
}}
"""
MODES = ["reference", "clean"]
LAUNCHERS = ("lung_mask", "scratch_bytes")


@pytest.fixture(scope="module")
def kernels():
    return load(SOURCE, LAUNCHERS)


def _emulated(kernels, images, mode):
    size = torch.zeros(1, dtype=torch.int64)
    kernels.call("scratch_bytes", images, size)
    # What was in memory before must not matter.
    scratch = torch.full((int(size),), 0xA5, dtype=torch.uint8)
    out = torch.full(images.shape, 2, dtype=torch.uint8).view(torch.bool)
    kernels.call("lung_mask", images, MODES.index(mode), scratch, out, None)
    assert out.view(torch.uint8).max() <= 1
    return out


@pytest.mark.parametrize("mode", MODES)
def test_gives_the_masks_of_the_cpu(kernels, mode):
    for images in (
        chest_phantoms(range(2)),
        chest_phantoms(range(2), 60, 52),
        chest_phantoms(range(2), 33, 130),
        awkward((96, 96)),
        awkward((50, 37)),
    ):
        assert torch.equal(_emulated(kernels, images, mode), lung_mask(images, mode=mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3), (7, 7), (15, 16), (31, 33)])
def test_any_size(kernels, size, mode):
    images = chest_phantoms(range(3), *size)
    assert torch.equal(_emulated(kernels, images, mode), lung_mask(images, mode=mode))


@pytest.mark.parametrize("mode", MODES)
def test_no_order_of_threads_changes_a_mask(kernels, mode):
    images = torch.cat([awkward((96, 96))[-6:], chest_phantoms(range(1), 96, 96)])
    expected = lung_mask(images, mode=mode)
    for order in ORDERS:
        with kernels.order(*order):
            assert torch.equal(_emulated(kernels, images, mode), expected)


def test_the_cascade_goes_in_order(kernels):
    square, small = (100, 121, 100, 121), (180, 185, 30, 35)
    after = [(130, 133, 70, 119), (104, 133, 70, 73)]
    before = [(88, 91, 70, 119), (88, 117, 70, 73)]
    second = (150, 190, 180, 200)
    images = torch.stack(
        [shapes(square, second, small, *after), shapes(square, second, small, *before)]
    )
    masks = _emulated(kernels, images, "reference")
    assert torch.equal(masks, lung_mask(images))
    assert masks[0, 100, 110]
    assert not masks[1, 110, 110]


@pytest.mark.parametrize("mode", MODES)
def test_a_gpu_with_little_shared_memory(mode):
    """There the bits and the forest lie in global memory."""
    small = load(SOURCE, LAUNCHERS, ("-DMEDAD_EMULATION_SHARED_KIB=64",))
    images = chest_phantoms(range(1))
    assert torch.equal(_emulated(small, images, mode), lung_mask(images, mode=mode))


@pytest.mark.parametrize("mode", MODES)
def test_unaligned_images(kernels, mode):
    memory = torch.zeros(2 * 64 * 64 + 5, dtype=torch.uint8)
    images = memory[5:].view(2, 64, 64)
    images.copy_(chest_phantoms(range(2), 64, 64))
    assert torch.equal(_emulated(kernels, images, mode), lung_mask(images, mode=mode))


@pytest.mark.parametrize("mode", MODES)
def test_is_one_launch(kernels, mode):
    before = kernels.launches
    _emulated(kernels, chest_phantoms(range(3), 40, 40), mode)
    assert kernels.launches == before + 1


def test_too_little_scratch_is_refused(kernels):
    images = chest_phantoms(range(1), 40, 40)
    scratch, out = torch.zeros(8, dtype=torch.uint8), torch.zeros(images.shape, dtype=torch.bool)
    with pytest.raises(RuntimeError, match="scratch"):
        kernels.call("lung_mask", images, 0, scratch, out, None)
