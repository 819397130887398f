"""SSIM: how it is known to torch, and what it refuses beyond ``cases/ssim.py``."""

from __future__ import annotations

import pytest
import torch

from medad_fast import _C
from medad_fast.ops import backend
from medad_fast.ops.ssim import ssim, ssim_reference
from python_tests.ops.ssim.test_ssim import make_images

OPTIONS = (1.0, 11, 1.5)


def _view(tensor, **changes):
    view = dict(data=tensor.data_ptr(), dtype=_C.dtypes["float32"])
    view |= dict(shape=tuple(tensor.shape), strides=tensor.stride()) | changes
    return tuple(view.values())


@pytest.mark.parametrize(
    ("place", "changes", "named"),
    [
        (0, {"shape": (2, 16, 16)}, "x"),
        (0, {"shape": (2, 1, 10, 16)}, "x"),
        (0, {"shape": (2, 1, 16, 0)}, "x"),
        (0, {"dtype": _C.dtypes["int64"]}, "x"),
        (1, {"shape": (2, 1, 16, 17)}, "y"),
        (1, {"shape": (1, 1, 16, 16)}, "y"),
        (1, {"dtype": _C.dtypes["float64"]}, "y"),
        (1, {"shape": (0,), "strides": (1,)}, "y"),
        (1, {"data": 0}, "y"),
        (2, {"shape": (2, 1, 7, 6)}, "map"),
        (2, {"strides": (36, 36, 7, 1)}, "map"),
        (2, {"dtype": _C.dtypes["float64"]}, "map"),
        (3, {"shape": (1,), "strides": (1,)}, "total"),
        (3, {"dtype": _C.dtypes["float16"]}, "total"),
        (4, {"shape": (2, 1, 6, 5)}, "upstream"),
        (5, {"shape": (2, 1, 15, 16)}, "grad_x"),
        (6, {"dtype": _C.dtypes["bfloat16"]}, "grad_y"),
    ],
)
def test_the_extension_checks_again(place, changes, named):
    image, map_, total = torch.ones(2, 1, 16, 16), torch.ones(2, 1, 6, 6), torch.ones(())
    tensors = [image, image, map_, total, map_, image.clone(), image.clone()]

    def run(views):
        x, y, out, sum_, upstream, grad_x, grad_y = views
        tail = (upstream, 1.0, grad_x, grad_y, None, (-1, 0, 1))
        _C.ssim(x, y, *OPTIONS, False, out, sum_, 1.0, *tail)

    run([_view(tensor) for tensor in tensors])
    views = [_view(t, **changes) if i == place else _view(t) for i, t in enumerate(tensors)]
    with pytest.raises((ValueError, TypeError), match=named):
        run(views)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ((0.0, 11, 1.5), "data_range"),
        ((float("nan"), 11, 1.5), "data_range"),
        ((1.0, 10, 1.5), "window_size"),
        ((1.0, -1, 1.5), "window_size"),
        ((1.0, 11, 0.0), "sigma"),
        ((1.0, 11, float("nan")), "sigma"),
    ],
)
def test_the_extension_checks_options_again(options, named):
    image = _view(torch.ones(2, 1, 16, 16))
    with pytest.raises(ValueError, match=named):
        _C.ssim(image, image, *options, False, None, None, 1.0, None, 1.0, None, None, None,
                (-1, 0, 1))  # fmt: skip


@pytest.mark.parametrize("same", [False, True])
def test_registration(same, device):
    x, y = make_images((2, 1, 13, 14), device=device)
    leaves = [x.clone().requires_grad_(), y.clone().requires_grad_()]
    op = torch.ops.medad_fast.ssim.default
    for wanted in ((True, True), (True, False), (False, True)):
        inputs = [leaf if w else leaf.detach() for leaf, w in zip(leaves, wanted, strict=True)]
        torch.library.opcheck(op, (*inputs, *OPTIONS, same, True, *wanted))
    torch.library.opcheck(op, (x, y, *OPTIONS, same, False, False, False))
    torch.library.opcheck(torch.ops.medad_fast.ssim_map.default, (*leaves, *OPTIONS, same))
    upstream = torch.ones_like(ssim(x, y, data_range=1.0, padding="same", reduction="none"))
    torch.library.opcheck(
        torch.ops.medad_fast.ssim_map_backward.default,
        (upstream if same else upstream[..., 5:-5, 5:-5], x, y, *OPTIONS, same, True, False),
    )
    torch.library.opcheck(
        torch.ops.medad_fast.ssim_scale.default, ([x, y], torch.full((), 2.0, device=device), x, y)
    )


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiles_without_a_break(reduction, device):
    x, y = make_images((2, 1, 20, 24), device=device)
    weight = torch.ones(1, 1, 1, 1, device=device, requires_grad=True)

    def loss(weight):
        ours = torch.nn.functional.conv2d(x, weight)
        return 1 - 2 * ssim(ours, y, data_range=1.0, reduction=reduction).mean()

    expected = torch.autograd.grad(loss(weight), weight)[0]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(weight), weight)[0], expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_second_derivative_raises(reduction, device):
    x, y = make_images((1, 1, 12, 12), device=device)
    leaf = x.requires_grad_()
    out = ssim(leaf, y, data_range=1.0, reduction=reduction).sum()
    (grad,) = torch.autograd.grad(out, leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="no gradient"):
        grad.sum().backward()


# torch's own import of its forward-mode formulas warns.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_other_derivatives_raise(device):
    x, y = make_images((1, 1, 12, 12), device=device)
    for reduction in ("mean", "none"):
        with pytest.raises(RuntimeError, match="no forward-mode derivative"):
            torch.func.jvp(
                lambda a, r=reduction: ssim(a, y, data_range=1.0, reduction=r), (x,), (x,)
            )
        with pytest.raises(RuntimeError, match="no forward-mode derivative"):
            torch.func.jvp(
                lambda a, r=reduction: ssim(y, a, data_range=1.0, reduction=r), (x,), (x,)
            )


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_upstream_gradients_of_any_kind(reduction, device):
    x, y = make_images((2, 1, 16, 20), device=device)
    for upstream in (0.0, 1.0, -2.5, float("nan")):
        leaf = x.clone().requires_grad_()
        out = ssim(leaf, y, data_range=1.0, reduction=reduction)
        # Expanded, as .sum() and .mean() hand them on.
        out.backward(torch.full((), upstream, device=device).expand(out.shape))
        if upstream != upstream:
            assert leaf.grad.isnan().all()
        else:
            whole = ssim(leaf, y, data_range=1.0, reduction=reduction).sum()
            (one,) = torch.autograd.grad(whole, leaf)
            torch.testing.assert_close(leaf.grad, upstream * one)


def test_gradient_twice_from_one_graph(device):
    x, y = make_images((2, 1, 16, 20), device=device)
    leaf = x.requires_grad_()
    out = ssim(leaf, y, data_range=1.0)
    first, second = (torch.autograd.grad(out, leaf, retain_graph=True)[0] for _ in range(2))
    (third,) = torch.autograd.grad(3 * out, leaf)
    assert torch.equal(first, second)
    torch.testing.assert_close(third, 3 * first)


def test_autocast_casts_to_the_widest_and_nothing_down(device):
    x, y = make_images((2, 1, 16, 20), device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        same = ssim(x, y, data_range=1.0, reduction="none")
        mixed = ssim(x.bfloat16(), y, data_range=1.0, reduction="none")
        with backend("reference"):
            plain = ssim(x, y, data_range=1.0, reduction="none")
    assert torch.equal(same, ssim(x, y, data_range=1.0, reduction="none"))
    wide = x.bfloat16().float()
    assert torch.equal(mixed, ssim(wide, y, data_range=1.0, reduction="none"))
    assert plain.dtype == torch.float32


def test_the_reference_backend_agrees(device):
    x, y = make_images((2, 1, 16, 20), device=device)
    for reduction in ("mean", "sum", "none"):
        options = dict(data_range=1.0, padding="same", reduction=reduction)
        with backend("reference"):
            plain = ssim(x, y, **options)
        assert torch.equal(plain, ssim_reference(x, y, **options))
        torch.testing.assert_close(ssim(x, y, **options), plain, rtol=1e-5, atol=1e-5)


def test_gradients_keep_the_layout_of_the_images(device):
    x, y = make_images((2, 3, 16, 20), device=device)
    leaves = [t.to(memory_format=torch.channels_last).requires_grad_() for t in (x, y)]
    grads = torch.autograd.grad(ssim(*leaves, data_range=1.0), leaves)
    plain = [t.clone().requires_grad_() for t in (x, y)]
    wanted = torch.autograd.grad(ssim(*plain, data_range=1.0), plain)
    for grad, other in zip(grads, wanted, strict=True):
        assert grad.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(grad, other)
