"""Ensemble discrepancy on every device: plain torch, by hand, its laws, extreme inputs."""

from __future__ import annotations

import math

import pytest
import torch

from medad_fast import _C
from medad_fast.ops import backend
from medad_fast.ops.ensemble_discrepancy import ensemble_discrepancy, ensemble_discrepancy_reference
from python_tests.close import assert_as_accurate_as

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LEVELS = ["baseline", "avx2", "avx512"]
# Members of each ensemble, then (B, C, H, W): three is a case of its own, and so is one, and many.
SHAPES = [
    (3, 3, (2, 1, 64, 64)),
    (3, 3, (3, 3, 5, 7)),
    (1, 2, (1, 1, 1, 1)),
    (5, 2, (5, 1, 33, 31)),
    (16, 4, (1, 2, 9, 13)),
    (17, 40, (1, 1, 21, 17)),
]
NAMES = ("inter", "intra", "reconstruction")


def make_inputs(unknown, normal, shape, device="cpu", dtype=torch.float32, spread=3.0):
    rng = torch.Generator().manual_seed(0)

    def draw(*size):
        return torch.randn(size, generator=rng, dtype=torch.float64).to(device, dtype)

    return [
        draw(unknown, *shape),
        draw(normal, *shape),
        draw(*shape),
        spread * draw(normal, *shape),
    ]


def both(op, inputs, log_variance=True, dtype=None):
    unknown, normal, image, predicted = (t if dtype is None else t.to(dtype) for t in inputs)
    return op(unknown, normal, image=image, log_variance=predicted if log_variance else None)


def check_against_reference(inputs, log_variance, slack=2.0):
    fused = both(ensemble_discrepancy, inputs, log_variance)
    for name in NAMES:
        assert_as_accurate_as(
            getattr(fused, name),
            lambda d, name=name: getattr(
                both(ensemble_discrepancy_reference, inputs, log_variance, d), name
            ),
            slack=slack,
        )


@pytest.fixture(params=LEVELS)
def level(request):
    before = _C.cpu_level()
    _C.set_cpu_level(request.param)
    if _C.cpu_level() != request.param:
        _C.set_cpu_level(before)
        pytest.skip(f"this CPU has no {request.param}")
    yield request.param
    _C.set_cpu_level(before)


@pytest.mark.parametrize("log_variance", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("unknown", "normal", "shape"), SHAPES)
def test_matches_reference(unknown, normal, shape, dtype, log_variance, device):
    check_against_reference(make_inputs(unknown, normal, shape, device, dtype), log_variance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_instruction_set_matches_reference(level, dtype):
    for unknown, normal, shape in SHAPES:
        for log_variance in (False, True):
            check_against_reference(make_inputs(unknown, normal, shape, "cpu", dtype), log_variance)


@pytest.mark.parametrize("side", [1, 2, 3, 7, 31, 33, 127, 129])
def test_odd_sizes(side, level):
    for shape in ((1, 1, 1, side), (2, 1, side, 3), (1, side, 2, 2)):
        check_against_reference(make_inputs(3, 3, shape), False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_worked_by_hand(dtype, device):
    def pixels(*members):
        return torch.tensor(members, dtype=dtype, device=device).reshape(len(members), 1, 1, 1, -1)

    unknown = pixels([1.0, 0.0], [3.0, 0.0])  # means 2 and 0
    normal = pixels([4.0, -1.0], [8.0, 1.0], [6.0, 3.0])  # means 6 and 1, deviations 2 and 2
    image = pixels([9.0, 1.5])[0]  # 3 and 0.5 away
    maps = ensemble_discrepancy(unknown, normal, image=image)
    assert maps.inter.flatten().tolist() == [4, 1]
    assert maps.intra.flatten().tolist() == pytest.approx([2, 2], rel=1e-7)
    assert maps.reconstruction.flatten().tolist() == [9, 0.25]
    # Variances of 4 and of (1/2 + 1 + 9/2) / 3 = 2.
    predicted = pixels(*([math.log(4), math.log(v)] for v in (0.5, 1.0, 4.5)))
    scaled = ensemble_discrepancy(unknown, normal, image=image, log_variance=predicted)
    tolerance = 4 * torch.finfo(dtype).eps
    assert scaled.inter.flatten().tolist() == pytest.approx([2, 0.5**0.5], rel=tolerance)
    assert scaled.intra.flatten().tolist() == pytest.approx([1, 2**0.5], rel=tolerance)
    assert scaled.reconstruction.flatten().tolist() == pytest.approx([2.25, 0.125], rel=tolerance)


def test_equals_the_published_form(device):
    """The released code's steps: squared error, unbiased deviation, exp of the log-variance."""
    unknown, normal, image, predicted = make_inputs(
        3, 3, (4, 1, 16, 16), device, torch.float64, spread=1.0
    )
    mean_unknown, mean_normal = unknown.sum(0) / 3, normal.sum(0) / 3
    deviation = (((normal - mean_normal) ** 2).sum(0) / 2).sqrt()
    variance = predicted.exp().sum(0) / 3
    maps = ensemble_discrepancy(unknown, normal, image=image)
    scaled = ensemble_discrepancy(unknown, normal, image=image, log_variance=predicted)
    for got, expected in (
        (maps.inter, (mean_unknown - mean_normal).abs()),
        (maps.intra, deviation),
        (maps.reconstruction, (image - mean_normal) ** 2),
        (scaled.inter, (mean_unknown - mean_normal).abs() / variance.sqrt()),
        (scaled.intra, (deviation**2 / variance).sqrt()),
        (scaled.reconstruction, (image - mean_normal) ** 2 / variance),
    ):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("members", [2, 3, 7, 20])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 + 0.3, -1e38, 1e-45])
def test_agreeing_members_have_no_spread_even_far_from_zero(value, members, device):
    same = torch.full((members, 1, 1, 3, 9), value, device=device)
    maps = ensemble_discrepancy(same, same, image=same[0])
    assert maps.inter.eq(0).all()
    assert maps.intra.eq(0).all()
    assert maps.reconstruction.max() <= (abs(value) * 1e-15) ** 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("offset", [1.0, 1000.0])
def test_nearly_agreeing_members_keep_their_digits(offset, dtype, device):
    """Members a unit in the last place apart: their spread to a few parts in ten million."""
    step = torch.finfo(dtype).eps * offset
    rng = torch.Generator().manual_seed(0)
    steps = torch.randint(0, 4, (3, 1, 1, 8, 8), generator=rng).to(device, torch.float64)
    normal = (offset + step * steps).to(dtype)
    truth = normal.double().std(0)
    intra = ensemble_discrepancy(normal, normal).intra.double()
    torch.testing.assert_close(intra, truth, rtol=4e-7, atol=0)


@pytest.mark.parametrize("members", [3, 5, 20])
@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-15, 1e15, 1e30, 1e38])
def test_scale_does_not_matter(scale, members, device):
    rng = torch.Generator().manual_seed(0)
    # A few bits each, so that the tiny ones stay exact when they become subnormal.
    unknown, normal = torch.randint(-2, 3, (2, members, 1, 1, 5, 9), generator=rng).to(
        device, torch.float32
    )
    unit = torch.tensor(scale, dtype=torch.float32, device=device)
    maps = ensemble_discrepancy(unknown * unit, normal * unit, image=normal[0] * unit)
    truth = ensemble_discrepancy_reference(
        (unknown * unit).double(), (normal * unit).double(), image=(normal[0] * unit).double()
    )
    for got, expected in zip(maps, truth, strict=True):
        # Where the means meet, what is left is the rounding of numbers of this scale.
        smallest = max(1.5e-45, 3e-7 * expected.abs().max().item())
        torch.testing.assert_close(got, expected.float(), rtol=1e-6, atol=smallest)


def test_mixed_scales_in_one_picture(device):
    """Each pixel is judged by itself, whatever its neighbours need."""
    inputs = make_inputs(3, 3, (1, 1, 40, 40), device)
    expected = both(ensemble_discrepancy, inputs, False)
    for i, scale in enumerate((1e-30, 1e30, float("nan"))):
        for tensor in inputs[:2]:
            tensor[..., i + 3, i::7] *= scale
    result = both(ensemble_discrepancy, inputs, False)
    kept = torch.ones(40, 40, dtype=torch.bool, device=device)
    for i in range(3):
        kept[i + 3, i::7] = False
    for got, plain in zip(result, expected, strict=True):
        assert torch.equal(got[..., kept], plain[..., kept])
    truth = both(ensemble_discrepancy_reference, inputs, False, torch.float64)
    for got, exact in zip(result, truth, strict=True):
        torch.testing.assert_close(got, exact.float(), rtol=2e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", range(4))
def test_what_is_not_finite_goes_where_the_reference_says(bad, where, dtype, device):
    for unknown, normal in ((3, 3), (2, 4), (20, 20)):
        inputs = make_inputs(unknown, normal, (2, 1, 6, 7), device, dtype)
        inputs[where].view(-1, 2, 1, 6, 7)[0, 1, 0, 2, 4] = bad
        inputs[where].view(-1, 2, 1, 6, 7)[-1, 0, 0, 5, 6] = bad
        fused = both(ensemble_discrepancy, inputs)
        truth = both(ensemble_discrepancy_reference, inputs, True, torch.float64)
        for got, exact in zip(fused, truth, strict=True):
            assert torch.equal(got.isnan(), exact.isnan())
            assert torch.equal(got.isinf(), exact.isinf())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "value", [-745.0, -200.0, -90.0, -1e-3, 0.0, 50.0, 90.0, 130.0, 200.0, 700.0]
)
def test_log_variances_without_bounds(value, dtype, device):
    inputs = make_inputs(3, 3, (1, 1, 8, 9), device, dtype)
    inputs[3] = value + 0.1 * inputs[3]
    fused = both(ensemble_discrepancy, inputs)
    truth = both(ensemble_discrepancy_reference, inputs, True, torch.float64)
    for got, exact in zip(fused, truth, strict=True):
        smallest = max(3e-45, 3e-7 * exact.max().item())
        torch.testing.assert_close(got, exact.to(dtype), rtol=2e-6, atol=smallest)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_log_variance_of_0_changes_nothing(dtype, device):
    inputs = make_inputs(3, 3, (2, 1, 9, 9), device, dtype, spread=0.0)
    for with_it, without in zip(
        both(ensemble_discrepancy, inputs), both(ensemble_discrepancy, inputs, False), strict=True
    ):
        torch.testing.assert_close(with_it, without, rtol=1e-6, atol=0)


def test_a_common_log_variance_scales(device):
    inputs = make_inputs(3, 3, (2, 1, 9, 9), device, torch.float64)
    before = both(ensemble_discrepancy, inputs)
    inputs[3] = inputs[3] + math.log(9.0)
    after = both(ensemble_discrepancy, inputs)
    for name, factor in zip(NAMES, (3, 3, 9), strict=True):
        torch.testing.assert_close(
            getattr(after, name) * factor, getattr(before, name), rtol=1e-13, atol=0
        )


def test_members_may_change_places(device):
    inputs = make_inputs(4, 5, (2, 1, 9, 9), device)
    turned = [inputs[0].flip(0), inputs[1].flip(0), inputs[2], inputs[3].flip(0)]
    maps, same = both(ensemble_discrepancy, inputs), both(ensemble_discrepancy, turned)
    for a, b in zip(maps, same, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-6)


def test_a_single_normal_member_has_no_deviation(device):
    inputs = make_inputs(2, 1, (2, 1, 5, 5), device)
    for log_variance in (False, True):
        maps = both(ensemble_discrepancy, inputs, log_variance)
        plain = both(ensemble_discrepancy_reference, inputs, log_variance)
        assert maps.intra.isnan().all()
        assert plain.intra.isnan().all()
        torch.testing.assert_close(maps.inter, plain.inter, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(maps.reconstruction, plain.reconstruction, rtol=1e-5, atol=1e-6)


def test_without_an_image_there_is_no_reconstruction(device):
    unknown, normal, image, _ = make_inputs(3, 3, (2, 1, 5, 5), device)
    maps = ensemble_discrepancy(unknown, normal)
    assert maps.reconstruction is None
    assert ensemble_discrepancy_reference(unknown, normal).reconstruction is None
    full = ensemble_discrepancy(unknown, normal, image=image)
    assert torch.equal(maps.inter, full.inter)
    assert torch.equal(maps.intra, full.intra)


def test_channels_of_one_output_need_no_copy(device):
    """AE-U's networks give mean and log-variance as two channels of one tensor."""
    rng = torch.Generator().manual_seed(0)
    both_channels = torch.randn(3, 4, 2, 8, 8, generator=rng).to(device)
    unknown = torch.randn(3, 4, 1, 8, 8, generator=rng).to(device)
    mean, predicted = both_channels[:, :, :1], both_channels[:, :, 1:]
    views = ensemble_discrepancy(unknown, mean, image=mean[0], log_variance=predicted)
    copies = ensemble_discrepancy(
        unknown, mean.clone(), image=mean[0].clone(), log_variance=predicted.clone()
    )
    for a, b in zip(views, copies, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (2, 0, 8, 8), (2, 1, 0, 8), (2, 1, 8, 0)])
def test_empty(shape, device):
    for maps in (
        both(ensemble_discrepancy, make_inputs(3, 3, shape, device)),
        both(ensemble_discrepancy_reference, make_inputs(3, 3, shape, device)),
    ):
        assert [m.shape for m in maps] == [torch.Size(shape)] * 3


def test_backends_agree(device):
    inputs = make_inputs(3, 3, (2, 1, 9, 9), device)
    native = both(ensemble_discrepancy, inputs)
    with backend("reference"):
        plain = both(ensemble_discrepancy, inputs)
    for a, b in zip(native, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_autocast_casts_to_the_widest_and_nothing_down(device):
    unknown, normal, image, _ = make_inputs(3, 3, (2, 1, 9, 9), device)
    expected = ensemble_discrepancy(unknown, normal.bfloat16().float(), image=image)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        mixed = ensemble_discrepancy(unknown, normal.bfloat16(), image=image)
    for a, b in zip(mixed, expected, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


def test_asking_for_a_gradient_raises(device):
    inputs = make_inputs(3, 3, (1, 1, 4, 4), device)
    inputs[1].requires_grad_()
    with pytest.raises(RuntimeError, match="no gradient"):
        both(ensemble_discrepancy, inputs).intra.sum().backward()


def test_compiles_without_a_break(device):
    inputs = make_inputs(3, 3, (2, 1, 9, 9), device)
    compiled = torch.compile(
        lambda *t: both(ensemble_discrepancy, t), fullgraph=True, backend="aot_eager"
    )
    for a, b in zip(compiled(*inputs), both(ensemble_discrepancy, inputs), strict=True):
        assert torch.equal(a, b)


def test_registration(device):
    op = torch.ops.medad_fast.ensemble_discrepancy.default
    unknown, normal, image, predicted = make_inputs(3, 2, (2, 1, 4, 5), device)
    for arguments in (
        (unknown, normal, None, None),
        (unknown, normal, image, None),
        (unknown.half(), normal.half(), None, predicted.half()),
        (unknown.mT, normal.mT, image.mT, predicted.mT),
    ):
        torch.library.opcheck(op, arguments)


def _raw_view(tensor, **changes):
    view = dict(data=tensor.data_ptr(), dtype=_C.dtypes["float32"])
    view |= dict(shape=tuple(tensor.shape), strides=tensor.stride()) | changes
    return tuple(view.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (3, 2, 1, 4), "strides": (40, 20, 20, 5)},
        {"shape": (0, 2, 1, 4, 5)},
        {"shape": (3, 3, 1, 4, 5)},
        {"shape": (3, 2, 1, 5, 4)},
        {"strides": (40, 20, 20, 1, 4)},
        {"dtype": _C.dtypes["int64"]},
        {"dtype": _C.dtypes["float64"]},
    ],
)
def test_the_extension_checks_again(changes):
    members, image, out = torch.ones(3, 2, 1, 4, 5), torch.ones(2, 1, 4, 5), torch.ones(3, 40)
    out = out.view(3, 2, 1, 4, 5)
    good, picture, where = _raw_view(members), _raw_view(image), (-1, 0, 1)
    _C.ensemble_discrepancy(good, good, picture, good, _raw_view(out), where)
    bad = _raw_view(members, **changes)
    for arguments in (
        (bad, good, picture, None),
        (good, bad, picture, None),
        (good, good, bad, None),
        (good, good, picture, bad),
        (good, good, good, None),
        (good, good, None, None),
        (None, good, picture, None),
    ):
        with pytest.raises((ValueError, TypeError)):
            _C.ensemble_discrepancy(*arguments, _raw_view(out), where)
