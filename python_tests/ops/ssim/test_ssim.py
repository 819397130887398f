"""SSIM: values and gradients, against the reference, by hand, by its laws and at the extremes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from medad_fast import _C
from medad_fast.ops.ssim import ssim, ssim_reference
from python_tests.close import assert_as_accurate_as

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SHAPES = [
    (1, 1, 11, 11),  # one place of the map
    (2, 3, 12, 31),
    (1, 2, 33, 11),
    (3, 1, 127, 129),
    (1, 1, 150, 700),  # three strips of columns, two runs of rows
    (20, 1, 16, 13),
]


def make_images(shape, dtype=torch.float32, device="cpu", seed=0, noise=0.2):
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=rng)
    y = x + noise * torch.randn(shape, generator=rng)
    return x.to(device, dtype), y.to(device, dtype)


def textbook(x, y, data_range=1.0, window_size=11, sigma=1.5, padding="valid"):
    """Wang et al., equation 13, with a square window in float64: nothing shared with the op."""
    x, y = x.double(), y.double()
    channels = x.shape[1]
    at = torch.arange(window_size, dtype=torch.float64, device=x.device) - window_size // 2
    window = torch.exp(-(at[:, None] ** 2 + at**2) / (2 * sigma**2))
    window = (window / window.sum()).expand(channels, 1, -1, -1)
    edge = window_size // 2 if padding == "same" else 0

    def blur(image):
        return F.conv2d(image, window, padding=edge, groups=channels)

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, mean_y = blur(x), blur(y)
    variance = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance * (2 * covariance + c2) / (variance + c2)


def assert_accurate(result, reference):
    """No further from float64 than twice plain torch; float64 itself to the truth's own digits."""
    if result.dtype != torch.float64:
        return assert_as_accurate_as(result, reference)
    truth = reference(torch.float64)
    bound = 1e-12 * truth.abs().max().item()
    return torch.testing.assert_close(result, truth, rtol=0, atol=bound)


def assert_value(result, x, y, **options):
    assert_accurate(result, lambda d: ssim_reference(x.to(d), y.to(d), **options))


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("window_size", [1, 7, 11])
def test_reference_is_the_textbook_form(window_size, padding):
    x, y = make_images((2, 3, 17, 23), torch.float64)
    options = dict(data_range=2.0, window_size=window_size, padding=padding)
    ours = ssim_reference(x, y, **options, reduction="none")
    torch.testing.assert_close(ours, textbook(x, y, **options), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_reference(shape, dtype, padding, device):
    x, y = make_images(shape, dtype, device)
    options = dict(data_range=1.0, padding=padding)
    result = ssim(x, y, **options, reduction="none")
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_value(result, x, y, **options, reduction="none")
    for reduction in ("mean", "sum"):
        assert_value(
            ssim(x, y, **options, reduction=reduction), x, y, **options, reduction=reduction
        )


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("window_size", "sigma"), [(1, 1.5), (3, 0.5), (5, 1e30), (11, 0.3), (13, 2.0), (33, 5.0)]
)
def test_any_window(window_size, sigma, padding, device):
    x, y = make_images((2, 1, 40, 35), device=device)
    options = dict(data_range=1.0, window_size=window_size, sigma=sigma, padding=padding)
    assert_value(ssim(x, y, **options, reduction="none"), x, y, **options, reduction="none")
    leaf = y.clone().requires_grad_()
    (grad,) = torch.autograd.grad(ssim(x, leaf, **options), leaf)
    assert_gradient(grad, x, y, 1, **options)


def assert_gradient(grad, x, y, side, upstream=None, **options):
    def exact(dtype):
        leaves = [t.to(dtype).requires_grad_() for t in (x, y)]
        out = ssim_reference(*leaves, **options)
        weight = None if upstream is None else upstream.to(out.dtype)
        return torch.autograd.grad(out, leaves[side], weight)[0]

    if grad.dtype in (torch.float16, torch.bfloat16):
        truth = exact(torch.float64)
        bound = 2 * torch.finfo(grad.dtype).eps * truth.abs().max()
        tiny = torch.finfo(grad.dtype).tiny
        assert ((grad.double() - truth).abs() <= bound + tiny).all()
    else:
        assert_accurate(grad, exact)


def test_the_window_may_be_larger_than_the_image_with_padding(device):
    for shape in [(1, 1, 1, 1), (1, 2, 2, 3), (1, 1, 7, 1), (1, 1, 1, 40)]:
        x, y = make_images(shape, device=device)
        options = dict(data_range=1.0, padding="same")
        assert_value(ssim(x, y, **options, reduction="none"), x, y, **options, reduction="none")
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(ssim(leaf, y, **options), leaf)
        assert_gradient(grad, x, y, 0, **options)


def test_a_wide_window_over_several_strips():
    x, y = make_images((1, 1, 110, 900))
    options = dict(data_range=1.0, window_size=101, sigma=20.0)
    assert_value(ssim(x, y, **options, reduction="none"), x, y, **options, reduction="none")
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(ssim(leaf, y, **options), leaf)
    assert_gradient(grad, x, y, 0, **options)


def test_worked_by_hand(device):
    # Alone in its window a pixel has no variance: only the luminance is left.
    x = torch.tensor([[[[0.5, 0.0, 1.0]]]], device=device)
    y = torch.tensor([[[[0.25, 0.5, 1.0]]]], device=device)
    expected = [(0.25 + 1e-4) / (0.3125 + 1e-4), 1e-4 / (0.25 + 1e-4), 1.0]
    result = ssim(x, y, data_range=1.0, window_size=1, reduction="none")
    torch.testing.assert_close(result.flatten().cpu(), torch.tensor(expected))
    # Nine equal weights: means 5/9 and 4/9, variances 20/81, covariance -20/81.
    x = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]], device=device)[None, None]
    y = 1 - x
    luminance = (40 / 81 + 1e-4) / (41 / 81 + 1e-4)
    structure = (-40 / 81 + 9e-4) / (40 / 81 + 9e-4)
    result = ssim(x, y, data_range=1.0, window_size=3, sigma=1e30)
    assert result.item() == pytest.approx(luminance * structure, rel=1e-6)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_images_are_exactly_one_and_do_not_pull(dtype, padding, device):
    for scale, offset in ((1, 0), (1e-3, 0.9), (255, 0), (3, 1000), (0, 0.5), (0, 0)):
        x = make_images((3, 2, 19, 33), device=device)[0] * scale + offset
        x = x.to(dtype)
        for data_range in (1e-30, 1.0, 255.0, 1e30):
            options = dict(data_range=data_range, padding=padding)
            assert ssim(x, x.clone(), **options, reduction="none").eq(1).all()
            leaves = [x.clone().requires_grad_(), x.clone().requires_grad_()]
            value = ssim(*leaves, **options)
            assert value.item() == 1.0
            for grad in torch.autograd.grad(value, leaves):
                assert grad.eq(0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_never_leaves_its_range(dtype, device):
    rng = torch.Generator().manual_seed(3)
    flat = torch.ones(1, 1, 24, 40)
    board = (torch.arange(24)[:, None] + torch.arange(40)).remainder(2)[None, None].float()
    random = torch.rand(1, 1, 24, 40, generator=rng)
    images = [flat, -flat, board, 1 - board, random, -random, 1e4 + random, 1e4 - random, 0 * flat]
    for data_range in (1e-6, 1.0, 1e6):
        for x in images:
            for y in images:
                pair = x.to(device, dtype), y.to(device, dtype)
                values = ssim(*pair, data_range=data_range, padding="same", reduction="none")
                assert values.abs().le(1).all()


@pytest.mark.parametrize("noise", [0.0, 0.002, 0.04])
@pytest.mark.parametrize("background", [None, 0.0, 1.0])
def test_flat_bright_patches_keep_their_digits(background, noise, device):
    rng = torch.Generator().manual_seed(4)
    x, y = 0.9 + noise * (2 * torch.rand(2, 2, 1, 128, 128, generator=rng) - 1)
    if background is not None:
        x[..., :80], y[..., :80] = background, background
        x[..., 20:40, :], y[..., 60:90, :] = background, background
    x, y = x.to(device), y.to(device)
    error = ssim(x, y, data_range=1.0, reduction="none") - textbook(x, y)
    assert error.abs().max() < (2e-6 if background is None else 1e-4)


def test_a_large_offset_costs_little(device):
    x, y = make_images((1, 1, 64, 64), device=device)
    x, y = (x * 4096).round() - 1024 + 1e5, (y * 4096).round() - 1024 + 1e5
    error = ssim(x, y, data_range=4096.0, reduction="none") - textbook(x, y, 4096.0)
    assert error.abs().max() < 1e-5


def test_is_symmetric(device):
    x, y = make_images((2, 1, 30, 40), device=device)
    one, other = (ssim(*p, data_range=1.0, reduction="none") for p in ((x, y), (y, x)))
    assert torch.equal(one, other)


def test_follows_the_unit_of_the_images(device):
    x, y = make_images((2, 1, 30, 40), device=device)
    expected = ssim(x, y, data_range=1.0, reduction="none")
    for power in (-20, 20):  # computed in float32: the same bits
        scale = 2.0**power
        result = ssim(x * scale, y * scale, data_range=scale, reduction="none")
        assert torch.equal(result, expected)
    for power in (-100, -60, 60, 100):
        scale = 2.0**power
        result = ssim(x * scale, y * scale, data_range=scale, reduction="none")
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


SPECIAL = {
    "all NaN": lambda x: x.fill_(math.nan),
    "one NaN": lambda x: x.index_put_((torch.tensor(0),) * 2 + (torch.tensor(9),) * 2, NAN),
    "inf": lambda x: x[0, 0, 14].fill_(math.inf),
    "-inf": lambda x: x[0, 0, 14, 3:5].fill_(-math.inf),
    "denormal": lambda x: x.fill_(1e-45),
    "1e38": lambda x: x.mul_(1e38),
    "one 1e38": lambda x: x[0, 0, 20, 20].fill_(1e38),
    "one 1e19": lambda x: x[0, 0, 20, 20].fill_(-1e19),
    "-0.0": lambda x: x.fill_(-0.0),
    "flat": lambda x: x.fill_(0.7),
}
NAN = torch.tensor(math.nan)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", SPECIAL)
def test_extreme_pixels(kind, both, dtype, device):
    """The NaN mask of the definition in float64, and elsewhere its values."""
    x, y = make_images((2, 1, 31, 37))
    SPECIAL[kind](x)
    if both:
        SPECIAL[kind](y)
    x, y = x.to(device, dtype), y.to(device, dtype)
    for padding in ("valid", "same"):
        options = dict(data_range=1.0, padding=padding)
        result = ssim(x, y, **options, reduction="none")
        truth = ssim_reference(x.double(), y.double(), **options, reduction="none")
        assert torch.equal(result.isnan(), truth.isnan())
        torch.testing.assert_close(
            result.double(), truth, rtol=0, atol=1e-5, equal_nan=True, check_dtype=False
        )
        leaves = [x.clone().requires_grad_(), y.clone().requires_grad_()]
        exact = [x.double().requires_grad_(), y.double().requires_grad_()]
        grads = torch.autograd.grad(ssim(*leaves, **options, reduction="sum"), leaves)
        truths = torch.autograd.grad(ssim_reference(*exact, **options, reduction="sum"), exact)
        for grad, wanted in zip(grads, truths, strict=True):
            assert torch.equal(grad.isnan(), wanted.isnan())
            if wanted.isfinite().any():
                bound = 1e-3 * wanted[wanted.isfinite()].abs().max().item() + 1e-30
                torch.testing.assert_close(
                    grad.double(), wanted, rtol=0, atol=bound, equal_nan=True, check_dtype=False
                )


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_instruction_set(level, dtype):
    best = _C.best_cpu_level()
    levels = ["baseline", "avx2", "avx512"]
    if levels.index(level) > levels.index(best):
        pytest.skip(f"{level}: not on this processor")
    x, y = make_images((2, 1, 70, 345), dtype)
    options = dict(data_range=1.0, padding="same")
    _C.set_cpu_level(level)
    try:
        for window_size in (5, 11):
            own = dict(options, window_size=window_size)
            result = ssim(x, y, **own, reduction="none")
            leaves = [x.clone().requires_grad_(), y.clone().requires_grad_()]
            grads = torch.autograd.grad(ssim(*leaves, **own), leaves)
            assert_value(result, x, y, **own, reduction="none")
            for side, grad in enumerate(grads):
                assert_gradient(grad, x, y, side, **own)
    finally:
        _C.set_cpu_level(best)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 2, 13, 31), (1, 1, 150, 400)])
def test_gradient_matches_reference(shape, dtype, padding, device):
    x, y = make_images(shape, dtype, device)
    options = dict(data_range=1.0, padding=padding)
    leaves = [x.clone().requires_grad_(), y.clone().requires_grad_()]
    both = torch.autograd.grad(ssim(*leaves, **options, reduction="sum"), leaves)
    for side, grad in enumerate(both):
        assert grad.dtype == dtype
        assert_gradient(grad, x, y, side, **options, reduction="sum")
    for side in (0, 1):
        pair = [x.clone(), y.clone()]
        pair[side].requires_grad_()
        (alone,) = torch.autograd.grad(ssim(*pair, **options, reduction="sum"), pair[side])
        assert_gradient(alone, x, y, side, **options, reduction="sum")
    (scaled,) = torch.autograd.grad(3 * ssim(*leaves, **options, reduction="sum"), leaves[1])
    torch.testing.assert_close(scaled, 3 * both[1])


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gradient_of_the_map(dtype, padding, device):
    x, y = make_images((2, 2, 25, 360), dtype, device)
    options = dict(data_range=1.0, padding=padding, reduction="none")
    leaves = [x.clone().requires_grad_(), y.clone().requires_grad_()]
    out = ssim(*leaves, **options)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    for side, grad in enumerate(torch.autograd.grad(out, leaves, upstream)):
        assert_gradient(grad, x, y, side, upstream, **options)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_gradcheck(padding, reduction, device):
    for seed, (shape, window_size) in enumerate(
        [((1, 1, 11, 11), 11), ((2, 1, 4, 5), 3), ((1, 2, 3, 4), 1), ((0, 1, 5, 5), 3)]
    ):
        x, y = make_images(shape, torch.float64, device, seed)
        options = dict(
            data_range=1.0, window_size=window_size, padding=padding, reduction=reduction
        )
        if x.numel() == 0 and reduction == "mean":
            assert ssim(x, y, **options).isnan()
            continue
        pair = (x.requires_grad_(), y.requires_grad_())
        assert torch.autograd.gradcheck(lambda a, b, o=options: ssim(a, b, **o), pair)


def test_an_image_does_not_depend_on_its_batch_or_on_how_it_is_cut(device):
    """One tall image is cut into runs of rows; among many, it is not."""
    x, y = make_images((20, 1, 300, 64), device=device)
    x[3, 0, 100, 30] = math.nan  # these two are computed in float64, all their rows
    x[7, 0, 290, 30] = 1e30
    options = dict(data_range=1.0, padding="same", reduction="none")
    leaf = x.clone().requires_grad_()
    together = ssim(leaf, y, **options)
    (grads,) = torch.autograd.grad(together.sum(), leaf)
    for i in (0, 3, 7, 19):
        own = x[i : i + 1].clone().requires_grad_()
        alone = ssim(own, y[i : i + 1], **options)
        (grad,) = torch.autograd.grad(alone.sum(), own)
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(grad[0], grads[i], rtol=0, atol=0, equal_nan=True)


def test_value_with_and_without_gradient_agree(device):
    x, y = make_images((2, 1, 150, 400), device=device)
    leaf = x.clone().requires_grad_()
    value = ssim(leaf, y, data_range=1.0)
    assert torch.equal(value.detach(), ssim(x, y, data_range=1.0))
    values = ssim(x, y, data_range=1.0, reduction="none")
    assert value.item() == pytest.approx(values.double().mean().item(), rel=1e-6)


def test_no_images(device):
    x = torch.ones(0, 1, 16, 16, device=device)
    assert ssim(x, x, data_range=1.0).isnan()
    assert ssim(x, x, data_range=1.0, reduction="sum") == 0
    assert ssim(x, x, data_range=1.0, reduction="none").shape == (0, 1, 6, 6)
    x = torch.ones(2, 0, 16, 16, device=device)
    assert ssim(x, x, data_range=1.0, padding="same", reduction="none").shape == (2, 0, 16, 16)
