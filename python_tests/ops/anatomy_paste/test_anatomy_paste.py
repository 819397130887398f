"""Anatomy paste on every device: plain torch, by hand, its laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medad_fast import _C
from medad_fast.ops import AnatomyPasteParams, anatomy_paste, anatomy_paste_reference, backend
from python_tests.close import assert_as_accurate_as

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LEVELS = ["baseline", "avx2", "avx512"]


def make_masks(batch, height, width):
    """Two lungs; the last image has none."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = (y - 0.5 * height) / (0.35 * height), x / width
    lungs = (y**2 + ((x - 0.3) / 0.17) ** 2 < 1) | (y**2 + ((x - 0.7) / 0.17) ** 2 < 1)
    masks = lungs[None].repeat(batch, 1, 1)
    if batch:
        masks[-1] = False
    return masks


def make_call(
    batch=3, channels=1, side=(96, 80), dtype=torch.uint8, kind="anatpaste", seed=0, black=0.0
):
    rng = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 256, (batch, channels, *side), generator=rng)
    images = levels.to(torch.uint8) if dtype == torch.uint8 else (levels / 255).to(dtype)
    sources = None if batch > 1 else 1
    params = AnatomyPasteParams.sample(
        batch, side, generator=rng, kind=kind, sources=sources, black=black
    )
    if min(side) < 200:
        params.integers[:, 2].clamp_(max=1)  # 10 pixels would leave nothing of most shapes
    return images, make_masks(batch, *side), params


def on(device, images, masks, params):
    return images.to(device), None if masks is None else masks.to(device), params.to(device)


def params_of(batch=1, **changes):
    """Plain parameters: a rectangle of 5 x 7 (height x width) at row 10, column 8."""
    values = {
        "width": 7,
        "height": 5,
        "source_corner": (0, 0),
        "centre": (10, 8),
        "sigma": 0.0,
        "opacity": 1.0,
    } | changes
    tensors = {
        name: torch.as_tensor(value).repeat(batch, *[1] * torch.as_tensor(value).dim())
        for name, value in values.items()
        if value is not None
    }
    return AnatomyPasteParams(**tensors)


def assert_accurate(fused, reference):
    """No worse than plain torch; in float64, where that is the truth, up to its own error."""
    if fused.dtype != torch.float64:
        assert_as_accurate_as(fused, reference)
        return
    torch.testing.assert_close(fused, reference(torch.float64), rtol=0, atol=1e-14)


@pytest.fixture(params=LEVELS)
def level(request):
    before = _C.cpu_level()
    _C.set_cpu_level(request.param)
    if _C.cpu_level() != request.param:
        _C.set_cpu_level(before)
        pytest.skip(f"this CPU has no {request.param}")
    yield request.param
    _C.set_cpu_level(before)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("kind", ["anatpaste", "foreign_patch"])
def test_exact_matches_reference(kind, channels, device):
    call = on(device, *make_call(6, channels, (70, 83), kind=kind))
    result = anatomy_paste(*call, exact=True)
    expected = anatomy_paste_reference(*call, exact=True)
    assert torch.equal(result.gate, expected.gate)
    assert torch.equal(result.images, expected.images)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["anatpaste", "foreign_patch"])
def test_matches_reference(kind, channels, dtype, device):
    images, masks, params = on(
        device, *make_call(4, channels, (70, 83), dtype, kind=kind, black=-0.5)
    )
    result = anatomy_paste(images, masks, params)
    assert result.images.dtype == dtype
    assert result.gate.dtype == torch.promote_types(dtype, torch.float32)
    for field in (0, 1):
        assert_accurate(
            result[field],
            lambda d, field=field: anatomy_paste_reference(images.to(d), masks, params)[field],
        )


@pytest.mark.parametrize("dtype", [torch.uint8, *DTYPES])
def test_every_instruction_set_gives_the_same_bits(level, dtype):
    call = make_call(4, 2, (61, 77), dtype)
    _C.set_cpu_level("baseline")
    for exact in {False, dtype == torch.uint8}:
        _C.set_cpu_level("baseline")
        expected = anatomy_paste(*call, exact=exact)
        _C.set_cpu_level(level)
        result = anatomy_paste(*call, exact=exact)
        assert torch.equal(result.gate, expected.gate)
        assert torch.equal(result.images, expected.images)


def test_uint8_is_rounded_to_the_nearest_level(device):
    images, masks, params = on(device, *make_call(6, 3, (70, 83)))
    images = images.clamp(40, 210)  # so that no jittered level leaves 0 to 255
    truth = anatomy_paste_reference(images.double(), masks, params).images
    result = anatomy_paste(images, masks, params).images
    assert (result - truth).abs().max() <= 0.5 + 1e-4
    expected = anatomy_paste_reference(images, masks, params).images
    assert (result.int() - expected.int()).abs().max() <= 1


def test_worked_by_hand(device):
    images = torch.arange(400.0).reshape(1, 1, 20, 20).to(device)
    params = params_of(opacity=0.25, brightness=2.0).to(device)
    result = anatomy_paste(images, None, params)
    expected = images.clone()
    # The patch's first pixel goes to row 10 - 5 // 2, column 8 - 7 // 2.
    expected[0, 0, 8:13, 5:12] *= 0.75
    expected[0, 0, 8:13, 5:12] += 0.25 * 2 * images[0, 0, :5, :7]
    torch.testing.assert_close(result.images, expected)
    gate = torch.zeros_like(images)
    gate[0, 0, 8:13, 5:12] = 0.25
    assert torch.equal(result.gate, gate)


def test_shape_lies_margin_pixels_inside_and_black_fills_the_rest(device):
    images = torch.ones(1, 1, 30, 30).to(device)
    params = params_of(width=4, height=4, margin=1, centre=(15, 15)).to(device)
    rows = anatomy_paste(images, None, params).gate[0, 0].any(1).nonzero().flatten()
    assert rows.tolist() == [14, 15, 16]
    # An even patch ends one row before its shape where the margin is 0: there it is black.
    params = params_of(width=4, height=4, centre=(15, 15), black=-3.0).to(device)
    result = anatomy_paste(images, None, params)
    assert result.gate[0, 0, 17, 15] == 1
    assert result.images[0, 0, 17, 15] == -3


def test_centre_is_the_ranked_pixel_of_the_mask(device):
    masks = torch.zeros(5, 20, 20, dtype=torch.bool)
    masks[:, 3, 7] = masks[:, 3, 9] = masks[:, 11, 2] = masks[:, 19, 19] = True
    params = params_of(5, width=1, height=1, centre=None, centre_rank=0.0)
    params.reals[:, 5] = torch.tensor([0, 0.24999, 0.25, 0.5, np.nextafter(1, 0)])
    images = torch.zeros(5, 1, 20, 20)
    gate = anatomy_paste(*on(device, images, masks, params)).gate.cpu()
    found = [tuple(g[0].nonzero()[0].tolist()) for g in gate]
    assert found == [(3, 7), (3, 7), (3, 9), (11, 2), (19, 19)]


def test_centre_wins_over_rank_and_an_empty_mask_does_not_gate(device):
    images = torch.zeros(2, 1, 20, 20)
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[0, 4, 4] = True
    params = params_of(2, width=3, height=3, centre_rank=0.0, fallback_centre=(1, 1))
    gate = anatomy_paste(*on(device, images, masks, params)).gate
    assert gate[0].sum() == 0  # centred on (10, 8), where there is no mask
    assert gate[1, 0, 9:12, 7:10].all()
    params = params_of(2, width=3, height=3, centre=None, centre_rank=0.5, fallback_centre=(1, 1))
    gate = anatomy_paste(*on(device, images, masks, params)).gate
    assert gate[0].sum() == 1
    assert gate[1, 0, :3, :3].all()
    assert gate[1].sum() == 9


def test_gate_is_0_where_the_mask_is(device):
    images, masks, params = on(device, *make_call(8, 1, (96, 80), torch.float32))
    result = anatomy_paste(images, masks, params)
    outside = ~masks[:-1, None]
    assert result.gate[:-1][outside].eq(0).all()
    assert torch.equal(result.images[:-1][outside], images[:-1][outside])
    assert result.gate[-1].any()


def test_an_inverted_box_is_an_empty_shape(device):
    images, masks, params = make_call(4, 1, (64, 64))
    params.integers[:, 2] = 40
    for exact in (False, True):
        result = anatomy_paste(*on(device, images, masks, params), exact=exact)
        assert result.gate.eq(0).all()
        assert torch.equal(result.images.cpu(), images)


def test_opacity_0_copies_and_opacity_1_replaces(device):
    images, masks, params = on(device, *make_call(3, 1, (40, 40), torch.float32))
    params.reals[:, 1] = 0
    result = anatomy_paste(images, masks, params)
    assert torch.equal(result.images, images)
    assert result.gate.eq(0).all()
    params = params_of(3, source_corner=(20, 20)).to(device)
    result = anatomy_paste(images, None, params).images
    assert torch.equal(result[..., 8:13, 5:12], images[..., 20:25, 20:27])


def test_pasting_commutes_with_affine_changes_of_grey(device):
    images, masks, params = on(device, *make_call(5, 3, (70, 60), torch.float64))
    changed = params.to(device)
    changed.reals = params.reals.clone()
    changed.reals[:, 4] = -7.0
    result = anatomy_paste(images * 3 - 7, masks, changed)
    plain = anatomy_paste(images, masks, params)
    torch.testing.assert_close(result.images, plain.images * 3 - 7)
    assert torch.equal(result.gate, plain.gate)


def test_sources_of_their_own_size(device):
    images, masks, params = make_call(4, 2, (50, 60), torch.float32)
    rng = torch.Generator().manual_seed(5)
    sources = torch.rand(3, 2, 90, 70, generator=rng)
    params.integers[:, 12] = torch.tensor([2, -1, 0, 1])
    images, masks, params = on(device, images, masks, params)
    result = anatomy_paste(images, masks, params, sources=sources.to(device))
    expected = anatomy_paste_reference(images, masks, params, sources=sources.to(device))
    torch.testing.assert_close(result.images, expected.images)
    one = anatomy_paste(images[2:3], masks[2:3], params[2:3], sources=sources[:1].to(device))
    assert torch.equal(one.images, result.images[2:3])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_stays_where_the_reference_says(bad, dtype, device):
    images, masks, params = make_call(3, 1, (60, 60), dtype)
    images[0, 0, 30, 18] = bad  # in the mask
    images[1, 0, 0, 0] = bad  # outside
    call = on(device, images, masks, params)
    result, expected = anatomy_paste(*call).images, anatomy_paste_reference(*call).images
    assert torch.equal(result.isnan(), expected.isnan())
    assert torch.equal(result.isinf(), expected.isinf())
    assert not result[1, 0, 0, 0].isfinite()


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e30, 1e38, -0.0])
def test_extreme_levels(scale, device):
    images, masks, params = on(device, *make_call(3, 1, (60, 60), torch.float32))
    images = images * scale
    assert_as_accurate_as(
        anatomy_paste(images, masks, params).images,
        lambda d: anatomy_paste_reference(images.to(d), masks, params).images,
    )


@pytest.mark.parametrize("side", [1, 2, 3, 7, 31, 33, 127, 129])
def test_odd_sizes(side, device):
    for height, width in ((side, 5), (5, side), (side, side)):
        rng = torch.Generator().manual_seed(side)
        images = torch.rand(2, 1, height, width, generator=rng)
        params = params_of(
            2,
            height=max(height // 2, 1),
            width=max(width // 2, 1),
            centre=(height // 2, width - 1),
            shape=1,
            sigma=3.0,
            opacity=0.7,
        )
        call = on(device, images, None, params)
        assert_as_accurate_as(
            anatomy_paste(*call).images,
            lambda d, call=call: anatomy_paste_reference(call[0].to(d), None, call[2]).images,
        )
        levels = ((images * 255).to(torch.uint8).to(device), None, call[2])
        expected = anatomy_paste_reference(*levels, exact=True)
        assert torch.equal(anatomy_paste(*levels, exact=True).images, expected.images)


def test_empty_batch(device):
    call = on(device, *make_call(0, 1, (32, 32), torch.float32))
    for op in (anatomy_paste, anatomy_paste_reference):
        result = op(*call)
        assert result.images.shape == (0, 1, 32, 32)
        assert result.gate.shape == (0, 1, 32, 32)


def test_shapes_far_outside_the_image(device):
    images = torch.rand(1, 1, 30, 30)
    for centre in ((-(2**40), 2**40), (2**62, -(2**62)), (-20, 15), (15, 49)):
        params = params_of(centre=centre, width=30, height=30, shape=1, sigma=4.0)
        call = on(device, images, None, params)
        torch.testing.assert_close(
            anatomy_paste(*call).images, anatomy_paste_reference(*call).images
        )


def test_backends_agree(device):
    call = on(device, *make_call(3, 1, (40, 50), torch.float32))
    native = anatomy_paste(*call)
    with backend("reference"):
        plain = anatomy_paste(*call)
    torch.testing.assert_close(native.images, plain.images)
    torch.testing.assert_close(native.gate, plain.gate)
