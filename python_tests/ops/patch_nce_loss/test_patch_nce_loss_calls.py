"""patch_nce_loss: how it can be called, differentiated and compiled, and how not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medad_fast import _C
from medad_fast.ops import patch_nce_loss
from python_tests.ops.patch_nce_loss.test_patch_nce_loss import unit_rows

X = torch.rand(2, 5, 3)


def test_a_layer_without_gradient_is_left_alone():
    query, key = unit_rows((1, 5, 3))
    learned = query.clone().requires_grad_()
    patch_nce_loss([query, learned], [key, key]).backward()
    rows = patch_nce_loss([query, learned], [key, key], reduction="none")
    (gradient,) = torch.autograd.grad(rows[1].mean(), learned)
    torch.testing.assert_close(learned.grad, gradient)


def test_keys_are_constants_unless_asked():
    query, key = (t.requires_grad_() for t in unit_rows((1, 5, 3)))
    patch_nce_loss(query, key).backward()
    assert query.grad is not None
    assert key.grad is None


def test_gradients_scale_with_what_comes_from_above():
    query, key = (t.requires_grad_() for t in unit_rows((1, 5, 3)))
    loss = patch_nce_loss(query, key, detach_key=False)
    plain = torch.autograd.grad(loss, (query, key), retain_graph=True)
    scaled = torch.autograd.grad(-3 * loss, (query, key), retain_graph=True)
    again = torch.autograd.grad(loss, (query, key))
    for one, three, same in zip(plain, scaled, again, strict=True):
        torch.testing.assert_close(three, -3 * one)
        assert torch.equal(one, same)


def test_a_changed_gradient_is_not_handed_out_again():
    query, key = unit_rows((1, 5, 3))
    query.requires_grad_()
    loss = patch_nce_loss(query, key)
    torch.autograd.grad(loss, query, retain_graph=True)[0].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, query)


def _view(tensor: Tensor) -> tuple[Any, ...]:
    code = _C.dtypes[str(tensor.dtype).removeprefix("torch.")]
    return (tensor.data_ptr(), code, tuple(tensor.shape), tensor.stride())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": []}, "query: at least one"),
        ({"key": []}, "key: one tensor a layer"),
        ({"key": [X[:1]]}, "key: wrong shape"),
        ({"key": [X.mT.contiguous().mT]}, "key: contiguous"),
        ({"key": [X.double()]}, "key: wrong dtype"),
        ({"rows": [torch.empty(2, 4)]}, "rows: wrong shape"),
        ({"rows": [torch.empty(2, 5, 1)]}, "rows: wrong number of axes"),
        ({"query_gradient": [torch.empty(2, 5, 2)]}, "query_gradient: wrong shape"),
        ({"key_gradient": [X, X]}, "key_gradient: one tensor a layer"),
        ({"weight": [torch.empty(2, 5, dtype=torch.float64)]}, "weight: wrong dtype"),
        ({"query": [X.half()], "key": [X.half()]}, "query: floating dtype"),
        ({"temperature": 0.0}, "temperature: positive"),
    ],
)
def test_the_extension_checks_for_itself(change, message):
    arguments: dict[str, Any] = {
        "query": [X], "key": [X], "weight": [], "rows": [torch.empty(2, 5)], "log_sum_exp": [],
        "query_gradient": [], "key_gradient": [], "temperature": 1.0, "batch_negatives": False,
        "exact_cut": False, "mean": True,
    } | change  # fmt: skip
    views = [[_view(t) for t in v] if isinstance(v, list) else v for v in arguments.values()]
    with pytest.raises(ValueError, match=message):
        _C.patch_nce_loss(*views, (-1, 0, 1))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("negatives", ["image", "batch"])
@pytest.mark.parametrize("shape", [(2, 5, 3), (1, 1, 2), (0, 4, 2)])
def test_gradcheck(reduction, negatives, shape, device):
    query, key = (t.requires_grad_() for t in unit_rows(shape, torch.float64, device))
    assert (
        torch.autograd.gradcheck(
            lambda q, k: patch_nce_loss(
                q.mT.contiguous().mT,
                k,
                temperature=0.5,
                negatives=negatives,
                detach_key=False,
                reduction=reduction,
                exact_cut=True,
            ),
            (query, key),
            check_batched_grad=reduction == "sum",
        )
        or shape[0] == 0
    )


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_second_derivative_raises(reduction):
    query, key = (t.requires_grad_() for t in unit_rows((1, 4, 3)))
    loss = patch_nce_loss(query, key, reduction=reduction).sum()
    (gradient,) = torch.autograd.grad(loss, query, create_graph=True)
    with pytest.raises(RuntimeError, match="has no gradient"):
        torch.autograd.grad((gradient**2).sum() + query.sum(), query)


# torch warns of its own use of torch.jit where vmap is loaded.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_transforms_are_refused_not_ignored():
    query, key = unit_rows((2, 4, 3))
    with pytest.raises(RuntimeError, match="Batching rule"):
        torch.func.vmap(lambda q: patch_nce_loss(q, key))(query[None])
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(lambda q: patch_nce_loss(q, key))(query)
    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.jvp(lambda q: patch_nce_loss(q, key), (query,), (query,))


def test_registration(device):
    query, key = (t.requires_grad_() for t in unit_rows((2, 4, 3), torch.float32, device))
    ops = torch.ops.medad_fast
    options = (0.5, False, True)
    weight = torch.rand(2, 4, device=device)
    for wanted in ((True, True), (True, False), (False, False)):
        torch.library.opcheck(
            ops.patch_nce_loss.default, ([query, query], [key, key], *options, True, *wanted)
        )
    torch.library.opcheck(ops.patch_nce_loss_rows.default, ([query], [key], *options))
    inputs = [query.detach()], [key.detach()]
    torch.library.opcheck(
        ops.patch_nce_loss_backward.default, (*inputs, [weight], *options, True, True)
    )
    torch.library.opcheck(
        ops.patch_nce_loss_scale.default, (inputs[0], weight[0, 0].clone(), *inputs)
    )


def test_compiles_into_one_graph():
    query, key = (t.requires_grad_() for t in unit_rows((2, 9, 4), torch.float32))

    def step(q: Tensor, k: Tensor) -> Tensor:
        layers = patch_nce_loss([2 * q, q], [k, k], detach_key=False)
        rows = patch_nce_loss(q, k, reduction="none", negatives="batch")
        return layers + (rows**2).mean()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(step(query, key), (query, key))
    for got, wanted in zip(
        torch.autograd.grad(compiled(query, key), (query, key)), expected, strict=True
    ):
        torch.testing.assert_close(got, wanted)


def test_fake_tensors_never_reach_the_kernel():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        query = torch.rand(2, 9, 4, requires_grad=True)
        loss = patch_nce_loss([query], [query], detach_key=False)
        (gradient,) = torch.autograd.grad(loss, query)
        assert loss.shape == ()
        assert gradient.shape == query.shape
