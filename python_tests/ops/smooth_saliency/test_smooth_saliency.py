"""Smoothed saliency on every device: plain torch, by hand, its laws, extreme inputs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch.nn import functional as F

from medad_fast import _C
from medad_fast.ops import backend
from medad_fast.ops.smooth_saliency import smooth_saliency, smooth_saliency_reference
from python_tests.close import assert_as_accurate_as

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LEVELS = ["baseline", "avx2", "avx512"]
SHAPES = [
    (1, 1, 1, 1),
    (2, 1, 2, 5),
    (1, 3, 3, 3),
    (3, 1, 7, 31),
    (2, 2, 33, 40),  # a band of rows and one more
    (17, 1, 38, 17),  # enough images for one task each
    (1, 1, 129, 127),
]


def make_inputs(shape, device="cpu", dtype=torch.float32):
    rng = torch.Generator().manual_seed(0)
    gradient = torch.randn(shape, generator=rng, dtype=torch.float64)
    image = torch.rand(shape, generator=rng, dtype=torch.float64)
    return [t.to(device, dtype) for t in (gradient, image * (image > 0.3))]


def check_against_reference(gradient, image):
    assert_as_accurate_as(
        smooth_saliency(gradient, image),
        lambda d: smooth_saliency_reference(gradient.to(d), image.to(d)),
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_reference(shape, dtype, device):
    check_against_reference(*make_inputs(shape, device, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_instruction_set_matches_reference(level, dtype):
    for shape in SHAPES:
        check_against_reference(*make_inputs(shape, "cpu", dtype))


@pytest.mark.parametrize(
    ("height", "width"), list(itertools.product([1, 2, 3, 4, 5, 6, 7, 9], [1, 2, 3, 5, 7, 16, 19]))
)
def test_small_and_odd_sizes(height, width, level):
    check_against_reference(*make_inputs((1, 1, height, width)))


@pytest.mark.parametrize("shape", [(1, 1, 12, 15), (2, 1, 31, 33)], ids=str)
def test_equals_the_published_steps(shape, device):
    """Reflecting pad, unfold, median, a two-dimensional kernel: as such code is usually written."""
    gradient, image = make_inputs(shape, device, torch.float64)
    saliency = gradient.abs() * (image != 0)
    windows = F.unfold(F.pad(saliency, (2, 2, 2, 2), mode="reflect"), 5)
    median = windows.median(1).values.view(shape)
    place = torch.arange(-3, 4, dtype=torch.float64, device=device)
    kernel = torch.exp(-(place[:, None] ** 2 + place**2) / (2 * 3.0**2))
    expected = F.conv2d(median, (kernel / kernel.sum())[None, None], padding=3)
    torch.testing.assert_close(smooth_saliency(gradient, image), expected, rtol=1e-12, atol=1e-14)


def test_equals_scipy(device):
    gradient, image = make_inputs((1, 1, 40, 37), device, torch.float64)
    saliency = (gradient.abs() * (image != 0))[0, 0].cpu().numpy()
    median = scipy.ndimage.median_filter(saliency, size=5, mode="mirror")
    taps = np.exp(-(np.arange(-3, 4) ** 2) / 18)
    smooth = median
    for axis in (0, 1):
        smooth = scipy.ndimage.correlate1d(smooth, taps / taps.sum(), axis, mode="constant")
    result = smooth_saliency(gradient, image)[0, 0].cpu()
    torch.testing.assert_close(result, torch.from_numpy(smooth), rtol=1e-12, atol=1e-14)


def test_worked_by_hand(device):
    """A corner of ones: medians by counting; then the Gaussian's taps."""
    taps = [math.exp(-(k**2) / 18) for k in range(-3, 4)]
    one = torch.ones(1, 1, 9, 9, device=device)
    flat = smooth_saliency(one, one)[0, 0]
    assert flat[4, 4].item() == pytest.approx(1, rel=1e-6)
    edge = sum(taps[3:]) / sum(taps)  # beyond the border lies 0
    assert flat[0, 4].item() == pytest.approx(edge, rel=1e-6)
    assert flat[0, 0].item() == pytest.approx(edge**2, rel=1e-6)
    # A row of three: every window has three ones in its middle row at most, never 13 of 25.
    line = torch.zeros_like(one)
    line[..., 4, 3:6] = 1
    assert smooth_saliency(line, one).eq(0).all()
    # A block of 4x4 alone has its 13 ones in the windows of 3 x 4 (12 ones or more)... by counting:
    block = torch.zeros_like(one)
    block[..., 2:6, 2:6] = 1
    counts = F.conv2d(block, torch.ones(1, 1, 5, 5, device=device), padding=2)
    median = (counts >= 13).float()  # the reflected border adds none: the block is 2 away
    kernel = torch.tensor(taps, device=device) / sum(taps)
    expected = F.conv2d(median, (kernel[:, None] * kernel)[None, None], padding=3)
    assert median.sum() == 4
    torch.testing.assert_close(smooth_saliency(block, one), expected, rtol=1e-6, atol=1e-7)


def test_any_order_of_a_window_has_its_median(level):
    """Zeros and ones in all arrangements that matter: sorted columns of every count of ones."""
    counts = torch.tensor(list(itertools.product(range(6), repeat=5)))
    rng = torch.Generator().manual_seed(0)
    order = torch.rand(len(counts), 5, 5, generator=rng).argsort(1)
    windows = (order < counts[:, None, :]).float()[:, None]
    # The window's own centre; the Gaussian of a picture of one pixel keeps its middle tap twice.
    picture = F.pad(windows, (3, 3, 3, 3))
    body = torch.ones_like(picture)
    result = smooth_saliency(picture, body)
    expected = smooth_saliency_reference(picture.double(), body.double())
    torch.testing.assert_close(result.double(), expected, rtol=1e-6, atol=1e-7)
    assert (counts.sum(1) >= 13).any()


def test_the_median_takes_any_values(level):
    """Against a full sort, before the Gaussian can hide a wrong rank: powers far apart."""
    rng = torch.Generator().manual_seed(0)
    exponents = torch.randint(-100, 100, (20, 1, 5, 5), generator=rng)
    gradient = torch.pow(2.0, exponents.float())
    ones = torch.ones_like(gradient)
    result = smooth_saliency(gradient, ones)
    truth = smooth_saliency_reference(gradient.double(), ones.double())
    torch.testing.assert_close(result.double(), truth, rtol=1e-6, atol=0)


def test_sign_does_not_matter_and_scale_passes_through(device):
    gradient, image = make_inputs((2, 1, 20, 20), device)
    expected = smooth_saliency(gradient, image)
    assert torch.equal(smooth_saliency(-gradient, image), expected)
    assert torch.equal(smooth_saliency(gradient * 2.0**-90, image), expected * 2.0**-90)
    assert torch.equal(smooth_saliency(gradient, image * 1e-30), expected)


def test_turned_images_have_turned_saliency(device):
    gradient, image = make_inputs((2, 1, 24, 33), device, torch.float64)
    expected = smooth_saliency(gradient, image)
    turned = smooth_saliency(gradient.mT, image.mT)
    torch.testing.assert_close(turned, expected.mT, rtol=1e-13, atol=1e-15)
    flipped = smooth_saliency(gradient.flip(2, 3), image.flip(2, 3))
    torch.testing.assert_close(flipped, expected.flip(2, 3), rtol=1e-13, atol=1e-15)


def test_no_saliency_outside_the_body(device):
    gradient, image = make_inputs((1, 1, 40, 40), device)
    image[:, :, :, 20:] = 0
    gradient[:, :, :, 20:] = 1e30
    result = smooth_saliency(gradient, image)
    assert result[..., 26:].eq(0).all()
    assert result.max() < 10


def test_of_several_channels_the_largest_counts(device):
    gradient, image = make_inputs((2, 3, 15, 15), device)
    largest = (gradient.abs() * (image != 0)).amax(1, keepdim=True)
    expected = smooth_saliency(largest, torch.ones_like(largest))
    assert torch.equal(smooth_saliency(gradient, image), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", [0, 1])
def test_what_is_not_finite_goes_where_the_reference_says(bad, where, dtype, device):
    for channels in (1, 2):
        inputs = make_inputs((2, channels, 40, 25), device, dtype)
        inputs[1][:, :, 20:] = 0  # infinite times 0 is NaN too
        inputs[1][1, :, :20] = 1
        for place in ((0, 0), (11, 13), (30, 24)):
            inputs[where][0, channels - 1, place[0], place[1]] = bad
        inputs[0][1, 0, 4:9, 5:10] = float("inf")  # enough for an infinite median
        result = smooth_saliency(*inputs)
        truth = smooth_saliency_reference(*(t.double() for t in inputs))
        assert torch.equal(result.isnan(), truth.isnan())
        assert torch.equal(result.isinf(), truth.isinf())
        assert result[1].isinf().any()
        finite = truth.isfinite()
        torch.testing.assert_close(result[finite].double(), truth[finite], rtol=2e-6, atol=1e-6)


def test_one_nan_reaches_eleven_pixels(device):
    gradient = torch.ones(1, 1, 31, 31, device=device)
    gradient[..., 15, 15] = float("nan")
    nan = smooth_saliency(gradient, torch.ones_like(gradient)).isnan()[0, 0]
    assert nan[10:21, 10:21].all()
    assert nan.sum() == 121


@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e38])
def test_extreme_scales(scale, device):
    rng = torch.Generator().manual_seed(0)
    whole = torch.randint(-3, 4, (1, 1, 20, 20), generator=rng).to(device, torch.float32)
    gradient = whole * torch.tensor(scale, device=device)
    result = smooth_saliency(gradient, torch.ones_like(gradient))
    truth = smooth_saliency_reference(gradient.double(), torch.ones_like(gradient).double())
    torch.testing.assert_close(result.double(), truth, rtol=1e-6, atol=2e-44)


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (2, 1, 0, 8), (2, 3, 8, 0)])
def test_empty(shape, device):
    empty = torch.zeros(shape, device=device)
    expected = (shape[0], 1, *shape[2:])
    assert smooth_saliency(empty, empty).shape == expected
    assert smooth_saliency_reference(empty, empty).shape == expected


def test_backends_agree(device):
    inputs = make_inputs((2, 1, 30, 30), device)
    native = smooth_saliency(*inputs)
    with backend("reference"):
        plain = smooth_saliency(*inputs)
    torch.testing.assert_close(native, plain, rtol=1e-5, atol=1e-6)


def test_autocast_casts_to_the_wider_and_nothing_down(device):
    gradient, image = make_inputs((2, 1, 12, 12), device)
    expected = smooth_saliency(gradient, image.bfloat16().float())
    with torch.autocast(device.type, dtype=torch.bfloat16):
        mixed = smooth_saliency(gradient, image.bfloat16())
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, expected)


def test_asking_for_a_gradient_raises(device):
    gradient, image = make_inputs((1, 1, 8, 8), device)
    with pytest.raises(RuntimeError, match="no gradient"):
        smooth_saliency(gradient.requires_grad_(), image).sum().backward()


def test_compiles_without_a_break(device):
    inputs = make_inputs((2, 1, 12, 12), device)
    compiled = torch.compile(smooth_saliency, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*inputs), smooth_saliency(*inputs))


def test_registration(device):
    op = torch.ops.medad_fast.smooth_saliency.default
    for dtype in (torch.float32, torch.float16):
        gradient, image = make_inputs((2, 3, 6, 7), device, dtype)
        torch.library.opcheck(op, (gradient, image))
        torch.library.opcheck(op, (gradient.mT, image.mT))


def _raw_view(tensor, **changes):
    view = dict(data=tensor.data_ptr(), dtype=_C.dtypes["float32"])
    view |= dict(shape=tuple(tensor.shape), strides=tensor.stride()) | changes
    return tuple(view.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (2, 3, 4), "strides": (60, 20, 5)},
        {"shape": (2, 0, 4, 5)},
        {"shape": (1, 3, 4, 5)},
        {"shape": (2, 3, 5, 4)},
        {"strides": (60, 20, 1, 4)},
        {"dtype": _C.dtypes["int64"]},
        {"dtype": _C.dtypes["float64"]},
    ],
)
def test_the_extension_checks_again(changes):
    inputs, out = torch.ones(2, 3, 4, 5), torch.ones(2, 1, 4, 5)
    good, result, where = _raw_view(inputs), _raw_view(out), (-1, 0, 1)
    _C.smooth_saliency(good, good, result, where)
    bad = _raw_view(inputs, **changes)
    for arguments in ((bad, good, result), (good, bad, result), (good, good, bad)):
        with pytest.raises((ValueError, TypeError)):
            _C.smooth_saliency(*arguments, where)
