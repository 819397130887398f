"""nt_xent_loss: how it can be called, differentiated and compiled, and how not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medad_fast import _C
from medad_fast.ops import nt_xent_loss
from python_tests.ops.nt_xent_loss.test_nt_xent_loss import two_views


def _view(tensor: Tensor) -> tuple[Any, ...]:
    code = _C.dtypes[str(tensor.dtype).removeprefix("torch.")]
    return (tensor.data_ptr(), code, tuple(tensor.shape), tensor.stride())


X = torch.rand(5, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z1": X[0]}, "z1: .B, D."),
        ({"z1": X[:, :0], "z2": X[:, :0]}, "z1: .B, D."),
        ({"z1": X.half(), "z2": X.half()}, "z1: floating dtype"),
        ({"z1": X.mT.contiguous().mT}, "z1: contiguous"),
        ({"z2": X[:4]}, "z2: wrong shape"),
        ({"z2": X.double()}, "z2: wrong dtype"),
        ({"z2": X.mT.contiguous().mT}, "z2: contiguous"),
        ({"loss": torch.empty(1)}, "loss: wrong number of axes"),
        ({"loss": torch.empty((), dtype=torch.float64)}, "loss: wrong dtype"),
        ({"gradient": torch.empty(2, 5, 2)}, "gradient: wrong shape"),
        ({"temperature": 0.0}, "temperature: positive"),
    ],
)
def test_the_extension_checks_for_itself(change, message):
    arguments: dict[str, Any] = {
        "z1": X, "z2": X, "loss": torch.empty(()), "gradient": torch.empty(2, 5, 3),
        "units": None, "sums": None, "rows": None, "temperature": 1.0,
    } | change  # fmt: skip
    views = [_view(v) if isinstance(v, Tensor) else v for v in arguments.values()]
    with pytest.raises(ValueError, match=message):
        _C.nt_xent_loss(*views, (-1, 0, 1))


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (3, 4), (5, 3), (0, 2)])
@pytest.mark.parametrize("temperature", [0.5, 0.002])
def test_gradcheck(shape, temperature, device):
    views = tuple(z.requires_grad_() for z in two_views(shape, torch.float64, device, alike=0.1))
    assert shape[0] == 0 or torch.autograd.gradcheck(
        lambda a, b: nt_xent_loss(a.mT.contiguous().mT, b, temperature=temperature * shape[0]),
        views,
        check_batched_grad=True,
    )


def test_gradient_of_one_view_alone():
    z1, z2 = two_views((6, 3))
    both = [z.clone().requires_grad_() for z in (z1, z2)]
    expected = torch.autograd.grad(nt_xent_loss(*both), both)
    for side in (0, 1):
        views = [z1, z2]
        views[side] = views[side].clone().requires_grad_()
        nt_xent_loss(*views).backward()
        assert torch.equal(views[side].grad, expected[side])
        assert views[1 - side].grad is None
    shared = z1.clone().requires_grad_()
    nt_xent_loss(shared, shared * 1.0).backward()
    assert shared.grad is not None
    with torch.no_grad():
        assert not nt_xent_loss(*both).requires_grad


def test_gradients_scale_with_what_comes_from_above():
    views = [z.requires_grad_() for z in two_views((6, 3), torch.float32)]
    loss = nt_xent_loss(*views)
    plain = torch.autograd.grad(loss, views, retain_graph=True)
    for factor in (-3.0, 0.0, 0.25):
        scaled = torch.autograd.grad(factor * loss, views, retain_graph=True)
        for a, b in zip(plain, scaled, strict=True):
            torch.testing.assert_close(b, factor * a)
    bad = torch.autograd.grad(loss * float("nan"), views, retain_graph=True)
    assert all(g.isnan().all() for g in bad)
    again = torch.autograd.grad(loss, views)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_a_changed_gradient_is_not_handed_out_again():
    z1, z2 = two_views((4, 3))
    z1.requires_grad_()
    loss = nt_xent_loss(z1, z2)
    torch.autograd.grad(loss, z1, retain_graph=True)[0].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, z1)


# torch warns of its own use of torch.jit where vmap is loaded.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_transforms_are_right_or_refused():
    z1, z2 = two_views((4, 3))
    mapped = torch.func.vmap(lambda z: nt_xent_loss(z, z2))(torch.stack([z1, z2]))
    assert torch.equal(mapped, torch.stack([nt_xent_loss(z, z2) for z in (z1, z2)]))
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(lambda z: nt_xent_loss(z, z2))(z1)
    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.jvp(lambda z: nt_xent_loss(z, z2), (z1,), (z1,))


def test_registration(device):
    z1, z2 = (z.requires_grad_() for z in two_views((4, 3), torch.float32, device))
    ops = torch.ops.medad_fast
    for wanted in ((True, True), (True, False), (False, False)):
        views = [z if w else z.detach() for z, w in zip((z1, z2), wanted, strict=True)]
        torch.library.opcheck(ops.nt_xent_loss.default, (*views, 0.5, *wanted))
    formed, upstream = torch.rand(2, 4, 3, device=device), torch.rand((), device=device)
    torch.library.opcheck(
        ops.nt_xent_loss_scale.default, (formed, upstream, z1.detach(), z2.detach())
    )


def test_compiles_into_one_graph():
    views = [z.requires_grad_() for z in two_views((9, 4), torch.float32)]

    def step(a: Tensor, b: Tensor) -> Tensor:
        return nt_xent_loss(2 * a, b, temperature=0.2) + (a**2).mean()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(step(*views), views)
    for got, wanted in zip(torch.autograd.grad(compiled(*views), views), expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_fake_tensors_never_reach_the_kernel():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        z1 = torch.rand(9, 4, requires_grad=True)
        loss = nt_xent_loss(z1, z1.detach())
        (gradient,) = torch.autograd.grad(loss, z1)
        assert loss.shape == ()
        assert gradient.shape == z1.shape
