"""Patch discrepancy: what the extension refuses, and how it is known to torch."""

from __future__ import annotations

import pytest
import torch

from medad_fast import _C
from medad_fast.ops.patch_discrepancy import patch_discrepancy, patch_discrepancy_reference
from python_tests.ops.patch_discrepancy.test_patch_discrepancy import LAYERS, make_heads, make_maps

MAP = torch.ones(2, 3, 4, 5)


def _raw_view(tensor, **changes):
    view = dict(data=tensor.data_ptr(), dtype=_C.dtypes["float32"])
    view |= dict(shape=tuple(tensor.shape), strides=tensor.stride()) | changes
    return tuple(view.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (2, 3, 4)},
        {"shape": (2, 3, 0, 5)},
        {"shape": (3, 3, 4, 5)},
        {"dtype": _C.dtypes["int64"]},
        {"shape": (2, 3, 4), "strides": (60, 20, 5)},
    ],
)
def test_the_extension_checks_again(changes):
    out = torch.zeros(2, 1, 4, 4)
    good, none = _raw_view(MAP), _raw_view(torch.zeros(0))
    where = (-1, 0, 1)
    _C.patch_discrepancy([good], [good], [], 0, none, _raw_view(out), where)
    bad = _raw_view(MAP, **changes)
    for features, reconstructed in (([bad], [good]), ([good], [bad]), ([good, bad], [good])):
        with pytest.raises((ValueError, TypeError)):
            _C.patch_discrepancy(features, reconstructed, [], 0, none, _raw_view(out), where)
    with pytest.raises(ValueError, match="reduction"):
        _C.patch_discrepancy([good], [good], [], 3, none, _raw_view(out), where)
    with pytest.raises(ValueError, match="heads"):
        _C.patch_discrepancy([good], [good], [good] * 4, 0, none, _raw_view(out), where)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_registration(reduction, device):
    features, reconstructed = make_maps(LAYERS[1], 2, device)
    leaves = [m.clone().requires_grad_() for m in features + reconstructed]
    op = torch.ops.medad_fast.patch_discrepancy.default
    torch.library.opcheck(op, (leaves[:2], leaves[2:], [], 6, 7, reduction))
    torch.library.opcheck(op, (features, leaves[2:], [], 6, 7, reduction))
    heads = [part for head in make_heads(LAYERS[1], device) for part in head]
    torch.library.opcheck(op, (features, reconstructed, heads, 6, 7, reduction))
    upstream = torch.ones((2, 2, 1, 6, 7) if reduction == "none" else (2, 1, 6, 7), device=device)
    torch.library.opcheck(
        torch.ops.medad_fast.patch_discrepancy_backward.default,
        (upstream, features, reconstructed, reduction, True, False),
    )


def test_compiles_without_a_break(device):
    features, reconstructed = make_maps(LAYERS[1], 2, device)
    weight = torch.ones(3, 3, 1, 1, device=device, requires_grad=True)

    def loss(weight):
        ours = [torch.nn.functional.conv2d(reconstructed[0], weight), reconstructed[1]]
        return patch_discrepancy(features, ours, size=9).mean()

    expected = torch.autograd.grad(loss(weight), weight)[0]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(weight), weight)[0], expected)


def test_gradient_with_heads_raises(device):
    features, reconstructed = make_maps(LAYERS[1], 2, device)
    heads = make_heads(LAYERS[1], device)
    leaf = reconstructed[0].requires_grad_()
    out = patch_discrepancy(features, [leaf, reconstructed[1]], size=4, heads=heads).sum()
    with pytest.raises(RuntimeError, match="no gradient with heads"):
        out.backward()


def test_autocast_casts_to_the_widest_and_nothing_down(device):
    features, reconstructed = make_maps(LAYERS[1], 2, device)
    heads = make_heads(LAYERS[1], device)
    half = [f.bfloat16() for f in features]
    for own in (None, heads):
        with torch.autocast(device.type, dtype=torch.bfloat16):
            same = patch_discrepancy(features, reconstructed, size=8, heads=own)
            mixed = patch_discrepancy(half, reconstructed, size=8, heads=own)
        assert torch.equal(same, patch_discrepancy(features, reconstructed, size=8, heads=own))
        wide = [f.float() for f in half]
        assert torch.equal(mixed, patch_discrepancy(wide, reconstructed, size=8, heads=own))


@pytest.mark.parametrize("upstream", [0.0, float("nan")])
def test_upstream_gradients_of_any_kind(upstream, device):
    features, reconstructed = make_maps(LAYERS[1], 2, device)
    leaf = reconstructed[0].requires_grad_()
    out = patch_discrepancy(features, [leaf, reconstructed[1]], size=6)
    out.backward(torch.full((1,), upstream, device=device).expand(out.shape))
    assert leaf.grad.isnan().all() if upstream != 0 else leaf.grad.eq(0).all()


def test_heads_need_little_memory_beyond_the_inputs():
    """The workspace is bounded by the block, not by the batch: what a call may add is counted."""
    layers = [(64, 28, 28)]
    features, reconstructed = make_maps(layers, 4)
    heads = make_heads(layers, hidden=64, projected=64)
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        patch_discrepancy(features, reconstructed, size=28, heads=heads)
    allocated = sum(
        max(e.self_device_memory_usage, e.self_cpu_memory_usage, 0) for e in profile.key_averages()
    )
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        patch_discrepancy_reference(features, reconstructed, size=28, heads=heads)
    plain = sum(
        max(e.self_device_memory_usage, e.self_cpu_memory_usage, 0) for e in profile.key_averages()
    )
    assert allocated * 20 <= plain
