"""Lung masks: how the op is known to torch, and what it refuses below Python."""

from __future__ import annotations

import pytest
import torch

from medad_fast import _C
from medad_fast.ops import backend
from medad_fast.ops.lung_mask import lung_mask, lung_mask_reference
from python_tests.phantoms import chest_phantoms

MODES = ["reference", "clean"]


@pytest.mark.parametrize("mode", MODES)
def test_registration(mode, device):
    images = chest_phantoms(range(2), 40, 36).to(device)
    op = torch.ops.medad_fast.lung_mask.default
    torch.library.opcheck(op, (images, mode))
    torch.library.opcheck(op, (images.mT, mode))


@pytest.mark.parametrize("mode", MODES)
def test_compiles_without_a_break(mode, device):
    images = chest_phantoms(range(2), 40, 36).to(device)

    def darker(images):
        return lung_mask(255 - images, mode=mode).float().mean((1, 2))

    compiled = torch.compile(darker, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), darker(images))


@pytest.mark.parametrize("mode", MODES)
def test_meta_tensors_have_shapes(mode):
    result = lung_mask(torch.zeros(2, 5, 7, dtype=torch.uint8, device="meta"), mode=mode)
    assert result.is_meta
    assert result.shape == (2, 5, 7)
    assert result.dtype == torch.bool


@pytest.mark.parametrize("mode", MODES)
def test_no_images_no_masks(mode, device):
    images = torch.zeros(0, 5, 7, dtype=torch.uint8, device=device)
    for result in (lung_mask(images, mode=mode), lung_mask_reference(images, mode=mode)):
        assert result.shape == (0, 5, 7)
        assert result.dtype == torch.bool


def test_a_mask_has_no_gradient(device):
    mask = lung_mask(chest_phantoms(range(1), 40, 36).to(device))
    assert mask.dtype == torch.bool
    assert not mask.requires_grad


def test_the_reference_backend_is_the_recipe(device):
    images = chest_phantoms(range(2), 40, 36).to(device)
    with backend("reference"):
        mask = lung_mask(images)
    assert mask.device == images.device
    assert torch.equal(mask, lung_mask(images))


@pytest.mark.parametrize("mode", MODES)
def test_any_layout_and_an_untouched_input(mode, device):
    images = chest_phantoms(range(3), 40, 36).to(device)
    expected = lung_mask(images, mode=mode)
    padded = torch.zeros(3, 41, 80, dtype=torch.uint8, device=device)
    padded[:, 1:, 3:75:2] = images
    before = padded.clone()
    assert torch.equal(lung_mask(padded[:, 1:, 3:75:2], mode=mode), expected)
    assert torch.equal(lung_mask(images.mT.contiguous().mT, mode=mode), expected)
    one = images[:1].expand(3, -1, -1)
    assert torch.equal(lung_mask(one, mode=mode), expected[:1].expand(3, -1, -1))
    assert torch.equal(padded, before)


def _view(tensor, **changes):
    view = {
        "data": tensor.data_ptr(),
        "dtype": _C.dtypes[str(tensor.dtype).removeprefix("torch.")],
        "shape": tuple(tensor.shape),
        "strides": tensor.stride(),
    }
    return tuple((view | changes).values())


@pytest.mark.parametrize(
    ("which", "changes"),
    [
        ("images", {"dtype": _C.dtypes["bool"]}),
        ("images", {"shape": (2, 20), "strides": (20, 1)}),
        ("images", {"shape": (2, 0, 5)}),
        ("images", {"shape": (1, 4, 5)}),
        ("images", {"strides": (40, 1, 4)}),
        ("images", {"shape": (2, 1 << 20, 1 << 20), "strides": (1 << 40, 1 << 20, 1)}),
        ("out", {"dtype": _C.dtypes["uint8"]}),
        ("out", {"shape": (2, 5, 4), "strides": (20, 4, 1)}),
        ("out", {"strides": (40, 5, 1)}),
        ("out", {"shape": (20,), "strides": (1,)}),
    ],
)
def test_the_extension_checks_again(which, changes):
    images, out = torch.zeros(2, 4, 5, dtype=torch.uint8), torch.zeros(2, 4, 5, dtype=torch.bool)
    scratch = _view(torch.zeros(0, dtype=torch.uint8))
    where = (-1, 0, 1)
    _C.lung_mask(_view(images), 0, scratch, _view(out), where)
    with pytest.raises(ValueError, match="mode"):
        _C.lung_mask(_view(images), 2, scratch, _view(out), where)
    bad = {"images": _view(images), "out": _view(out)}
    bad[which] = _view(images if which == "images" else out, **changes)
    with pytest.raises(ValueError, match=r"images|out"):
        _C.lung_mask(bad["images"], 0, scratch, bad["out"], where)
