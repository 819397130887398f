"""Patch discrepancy on every device: plain torch, by hand, its laws, layouts, gradients."""

from __future__ import annotations

import pytest
import torch

from medad_fast import _C
from medad_fast.ops import backend
from medad_fast.ops.patch_discrepancy import patch_discrepancy, patch_discrepancy_reference
from python_tests.close import assert_as_accurate_as

LAYERS = [
    [(1, 1, 1)],
    [(3, 7, 5), (16, 4, 9)],
    [(64, 28, 28), (37, 14, 13), (5, 7, 1), (130, 3, 33)],
]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LEVELS = ["baseline", "avx2", "avx512"]


def make_maps(layers, batch=2, device="cpu", dtype=torch.float32, apart=0.3):
    rng = torch.Generator().manual_seed(0)
    features = [torch.randn(batch, *s, generator=rng, dtype=torch.float64) for s in layers]
    noise = [torch.randn(batch, *s, generator=rng, dtype=torch.float64) for s in layers]
    reconstructed = [f + apart * n for f, n in zip(features, noise, strict=True)]
    return [[m.to(device, dtype) for m in side] for side in (features, reconstructed)]


def make_heads(layers, device="cpu", dtype=torch.float32, hidden=40, projected=33):
    rng = torch.Generator().manual_seed(1)

    def draw(*shape):
        values = torch.randn(shape, generator=rng, dtype=torch.float64)
        return (values / max(shape[-1], 1) ** 0.5).to(device, dtype)

    return [
        (draw(hidden, s[0]), draw(hidden), draw(projected, hidden), draw(projected)) for s in layers
    ]


def assert_accurate(fused, reference):
    """HOUSE's rule; in float64, where plain torch is the truth, up to the error of the truth.

    Torch forms a bilinear weight as ``(x + 0.5) * scale - 0.5``: off by a few eps of the width.
    """
    if fused.dtype != torch.float64:
        assert_as_accurate_as(fused, reference)
        return
    truth = reference(torch.float64)
    bound = 64 * torch.finfo(torch.float64).eps * truth.abs().max().item()
    torch.testing.assert_close(fused, truth, rtol=0, atol=bound)


def cast(maps, dtype):
    return [m.to(dtype) for m in maps]


def cast_heads(heads, dtype):
    return [tuple(cast(head, dtype)) for head in heads]


@pytest.fixture(params=LEVELS)
def level(request):
    before = _C.cpu_level()
    _C.set_cpu_level(request.param)
    if _C.cpu_level() != request.param:
        _C.set_cpu_level(before)
        pytest.skip(f"this CPU has no {request.param}")
    yield request.param
    _C.set_cpu_level(before)


@pytest.mark.parametrize("size", [1, (14, 31), (28, 28), (5, 90)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layers", LAYERS)
def test_matches_reference(layers, dtype, size, device):
    features, reconstructed = make_maps(layers, 2, device, dtype)
    assert_accurate(
        patch_discrepancy(features, reconstructed, size=size),
        lambda d: patch_discrepancy_reference(cast(features, d), cast(reconstructed, d), size=size),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_instruction_set_matches_reference(level, dtype):
    features, reconstructed = make_maps(LAYERS[2], 2, "cpu", dtype)
    heads = make_heads(LAYERS[2], "cpu", dtype)
    for own in (None, heads):
        assert_accurate(
            patch_discrepancy(features, reconstructed, size=40, heads=own),
            lambda d, own=own: patch_discrepancy_reference(
                cast(features, d),
                cast(reconstructed, d),
                size=40,
                heads=own and cast_heads(own, d),
            ),
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("hidden", "projected"), [(8, 3), (40, 33), (13, 100)])
def test_heads_match_reference(hidden, projected, dtype, device):
    layers = LAYERS[2]
    features, reconstructed = make_maps(layers, 2, device, dtype)
    heads = make_heads(layers, device, dtype, hidden, projected)
    assert_accurate(
        patch_discrepancy(features, reconstructed, size=20, heads=heads),
        lambda d: patch_discrepancy_reference(
            cast(features, d), cast(reconstructed, d), size=20, heads=cast_heads(heads, d)
        ),
    )


def test_worked_by_hand(device):
    features = torch.tensor([[3.0, 4.0], [1.0, 0.0]], device=device).T.reshape(1, 2, 1, 2)
    other = torch.tensor([[4.0, -3.0], [2.0, 0.0]], device=device).T.reshape(1, 2, 1, 2)
    result = patch_discrepancy([features], [other], size=(1, 4))
    assert result.flatten().tolist() == pytest.approx([1, 0.75, 0.25, 0], abs=1e-7)


def test_mean_and_none_agree_with_sum(device):
    features, reconstructed = make_maps(LAYERS[2], 2, device)
    maps = patch_discrepancy(features, reconstructed, size=17, reduction="none")
    assert [m.shape for m in maps] == [(2, 1, 17, 17)] * 4
    total = patch_discrepancy(features, reconstructed, size=17)
    torch.testing.assert_close(sum(maps), total, rtol=1e-6, atol=1e-7)
    mean = patch_discrepancy(features, reconstructed, size=17, reduction="mean")
    torch.testing.assert_close(mean, total / 4, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_features_are_exactly_0_apart(dtype, device):
    features, _ = make_maps(LAYERS[2], 2, device, dtype)
    for heads in (None, make_heads(LAYERS[2], device, dtype)):
        same = patch_discrepancy(features, [f.clone() for f in features], size=30, heads=heads)
        assert same.eq(0).all()


def test_opposite_features_are_exactly_2_apart(device):
    features, _ = make_maps(LAYERS[1], 2, device)
    result = patch_discrepancy(features, [-f for f in features], size=9, reduction="none")
    assert all(m.eq(2).all() for m in result)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_vectors(dtype, device):
    zero = torch.zeros(1, 3, 2, 2, device=device, dtype=dtype)
    one = torch.ones_like(zero)
    for a, b, apart in ((zero, zero, 0), (zero, one, 1), (one, zero, 1), (one, one, 0)):
        assert patch_discrepancy([a], [b], size=4).eq(apart).all()
        assert patch_discrepancy_reference([a], [b], size=4).eq(apart).all()


def test_no_channels_are_equal(device):
    empty = torch.zeros(2, 0, 3, 3, device=device)
    assert patch_discrepancy([empty], [empty], size=4).eq(0).all()


@pytest.mark.parametrize("apart", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("gain", [1, 2.7])
def test_nearly_equal_features_keep_their_digits(apart, gain, device):
    features, reconstructed = make_maps([(64, 8, 8)], 2, device, torch.float32, apart)
    reconstructed = [gain * r for r in reconstructed]
    truth = patch_discrepancy_reference(
        cast(features, torch.float64), cast(reconstructed, torch.float64), size=8
    )
    error = (patch_discrepancy(features, reconstructed, size=8) / truth - 1).abs().max()
    # One float32 rounding; where the lengths differ too, the doubles' own 1e-16 against the truth.
    assert error <= 1e-7 + (0 if gain == 1 else 4e-15 / apart**2)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e30, 1e38])
def test_scale_does_not_matter(scale, device):
    rng = torch.Generator().manual_seed(0)
    # A few bits each, so that the tiny ones stay exact when they become subnormal.
    a, b = torch.randint(1, 3, (2, 1, 16, 5, 5), generator=rng).to(device, torch.float32).unbind()
    expected = patch_discrepancy([a], [b], size=5)
    unit = torch.tensor(scale / 2, dtype=torch.float32, device=device)
    result = patch_discrepancy([a * unit], [b * unit], size=5)
    torch.testing.assert_close(result, expected, rtol=2e-7, atol=0)


def test_scale_does_not_matter_in_float64(device):
    features, reconstructed = make_maps(LAYERS[1], 2, device, torch.float64)
    expected = patch_discrepancy(features, reconstructed, size=5)
    for scale in (2.0**-600, 2.0**700):
        scaled = patch_discrepancy([f * scale for f in features], reconstructed, size=5)
        torch.testing.assert_close(scaled, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_becomes_nan_where_the_reference_says(bad, side, dtype, device):
    maps = make_maps([(20, 6, 7), (3, 3, 3)], 2, device, dtype)
    maps[side][0][1, 13, 2, 4] = bad
    maps[1 - side][0][1, :, 2, 4] = 0
    result = patch_discrepancy(*maps, size=(12, 14))
    expected = patch_discrepancy_reference(*maps, size=(12, 14))
    assert result.isnan().any()
    assert torch.equal(result.isnan(), expected.isnan())


def _layouts(t):
    """The same values in twelve layouts."""
    wide = torch.zeros(*t.shape[:3], 2 * t.shape[3] + 3, dtype=t.dtype, device=t.device)
    padded = torch.zeros(
        t.shape[0], t.shape[1] + 2, t.shape[2] + 1, t.shape[3], dtype=t.dtype, device=t.device
    )
    padded[:, 1:-1, 1:] = t
    wide[..., 1 : 2 * t.shape[3] : 2] = t
    return {
        "contiguous": t.clone(),
        "channels_last": t.to(memory_format=torch.channels_last),
        "transposed": t.mT.contiguous().mT,
        "batch inside": t.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
        "channels before batch": t.transpose(0, 1).contiguous().transpose(0, 1),
        "width outside": t.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0),
        "every second column": wide[..., 1 : 2 * t.shape[3] : 2],
        "slice of channels and rows": padded[:, 1:-1, 1:],
        "flipped twice": t.flip(3).flip(3),
        "expanded batch of one": t[:1].expand(t.shape),
        "channels_last, slice": padded.to(memory_format=torch.channels_last)[:, 1:-1, 1:],
        "offset": torch.cat([t.new_zeros(5), t.flatten()])[5:].view(t.shape),
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_agree_to_the_last_bit(dtype, device):
    features, reconstructed = make_maps([(33, 12, 20)], 2, device, dtype)
    features[0][1:] = features[0][:1]
    expected = patch_discrepancy(features, reconstructed, size=25)
    layouts = _layouts(features[0])
    assert len(layouts) == 12
    for name, same in layouts.items():
        before = same.clone()
        assert torch.equal(patch_discrepancy([same], reconstructed, size=25), expected), name
        assert torch.equal(same, before), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_any_offset_gives_the_same_bits(dtype, device):
    features, reconstructed = make_maps([(12, 8, 8)], 1, device, dtype)
    expected = patch_discrepancy(features, reconstructed, size=9)
    for offset in range(1, 16):
        moved = torch.cat([features[0].new_zeros(offset), features[0].flatten()])[offset:]
        assert torch.equal(
            patch_discrepancy([moved.view_as(features[0])], reconstructed, size=9), expected
        )


@pytest.mark.parametrize("side", [1, 2, 3, 7, 31, 33, 127, 129])
def test_odd_sizes(side, device):
    features, reconstructed = make_maps([(3, side, 2), (side, 1, 3)], 1, device)
    assert_accurate(
        patch_discrepancy(features, reconstructed, size=(side, 5)),
        lambda d: patch_discrepancy_reference(
            cast(features, d), cast(reconstructed, d), size=(side, 5)
        ),
    )


def test_empty_batch(device):
    features, reconstructed = make_maps(LAYERS[1], 0, device)
    assert patch_discrepancy(features, reconstructed, size=4).shape == (0, 1, 4, 4)


def test_an_image_does_not_see_its_batch(device):
    features, reconstructed = make_maps(LAYERS[2], 7, device)
    heads = make_heads(LAYERS[2], device)
    for own in (None, heads):
        whole = patch_discrepancy(features, reconstructed, size=40, heads=own)
        for image in range(7):
            alone = patch_discrepancy(
                [f[image : image + 1] for f in features],
                [r[image : image + 1] for r in reconstructed],
                size=40,
                heads=own,
            )
            assert torch.equal(alone, whole[image : image + 1])


def test_threads_do_not_change_a_bit():
    features, reconstructed = make_maps(LAYERS[2], 5)
    upstream = torch.randn(5, 1, 40, 40, generator=torch.Generator().manual_seed(3))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            leaves = [m.clone().requires_grad_() for m in features + reconstructed]
            out = patch_discrepancy(leaves[:4], leaves[4:], size=40)
            headed = patch_discrepancy(
                features, reconstructed, size=40, heads=make_heads(LAYERS[2])
            )
            results.append([out, headed, *torch.autograd.grad(out, leaves, upstream)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_backends_agree(device):
    features, reconstructed = make_maps(LAYERS[1], 2, device)
    native = patch_discrepancy(features, reconstructed, size=6)
    with backend("reference"):
        plain = patch_discrepancy(features, reconstructed, size=6)
    torch.testing.assert_close(native, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@pytest.mark.parametrize("layers", LAYERS[1:])
def test_gradient_matches_reference(layers, reduction, dtype, device):
    features, reconstructed = make_maps(layers, 2, device, dtype)
    rng = torch.Generator().manual_seed(5)
    shape = (len(layers), 2, 1, 19, 26) if reduction == "none" else (2, 1, 19, 26)
    upstream = torch.randn(shape, generator=rng, dtype=torch.float64).to(device)

    def gradients(op, maps, place):
        leaves = [m.clone().requires_grad_() for m in maps]
        half = len(layers)
        out = op(leaves[:half], leaves[half:], size=(19, 26), reduction=reduction)
        out = torch.stack(out) if reduction == "none" else out
        return torch.autograd.grad(out, leaves, upstream.to(out.dtype))[place]

    maps = features + reconstructed
    for place in range(len(maps)):
        assert_accurate(
            gradients(patch_discrepancy, maps, place),
            lambda d, place=place: gradients(patch_discrepancy_reference, cast(maps, d), place),
        )


def test_gradient_of_each_layout_and_side(device):
    features, reconstructed = make_maps([(33, 12, 20)], 2, device)
    features[0][1:] = features[0][:1]
    upstream = torch.randn(2, 1, 9, 31, generator=torch.Generator().manual_seed(0)).to(device)

    def gradient(*sides):
        leaves = [s for s in sides if s.requires_grad]
        out = patch_discrepancy([sides[0]], [sides[1]], size=(9, 31))
        return torch.autograd.grad(out, leaves, upstream)

    a, b = features[0].clone().requires_grad_(), reconstructed[0].clone().requires_grad_()
    both = gradient(a, b)
    assert torch.equal(gradient(a, b.detach())[0], both[0])
    assert torch.equal(gradient(a.detach(), b)[0], both[1])
    for name, same in _layouts(features[0]).items():
        leaf = same.detach().requires_grad_()
        assert torch.equal(gradient(leaf, b)[0], both[0]), name


def test_gradient_is_0_for_equal_and_for_zero_features(device):
    features, _ = make_maps([(8, 4, 4)], 1, device)
    features[0][0, :, 0, 0] = 0
    a = features[0].clone().requires_grad_()
    b = features[0].clone().requires_grad_()
    patch_discrepancy([a], [b], size=9).sum().backward()
    assert a.grad.eq(0).all()
    assert b.grad.eq(0).all()
    other = torch.ones_like(features[0]).requires_grad_()
    a.grad = None
    patch_discrepancy([a], [other], size=4).sum().backward()
    assert a.grad[0, :, 0, 0].eq(0).all()
    assert other.grad[0, :, 0, 0].eq(0).all()
    assert a.grad.isfinite().all()


def test_gradcheck(device):
    layers = [(3, 4, 5), (2, 1, 2)]
    features, reconstructed = make_maps(layers, 2, device, torch.float64)
    leaves = [m.requires_grad_() for m in features + reconstructed]
    for size in ((7, 3), (4, 5)):
        assert torch.autograd.gradcheck(
            lambda *m, size=size: patch_discrepancy(m[:2], m[2:], size=size), leaves
        )
