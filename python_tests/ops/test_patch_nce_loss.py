"""patch_nce_loss: accuracy, laws, layouts, refusals, registration."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from medad_fast import _C
from medad_fast.errors import InputError
from medad_fast.ops import backend, patch_nce_loss, patch_nce_loss_reference
from python_tests.close import assert_as_accurate_as
from python_tests.emulation import ORDERS, EmulatedKernels, load

SHAPES = [
    (2, 1, 5),  # a patch alone: nothing to tell it from
    (3, 2, 1),
    (2, 7, 3),
    (1, 33, 64),  # one more than a panel of columns
    (2, 127, 33),  # nothing a multiple of anything
    (1, 256, 256),  # the paper's own
    (1, 300, 20),  # more keys than are packed at once
]
LEVELS = ["baseline", "avx2", "avx512"]
LEVELS = LEVELS[: LEVELS.index(_C.best_cpu_level()) + 1]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each build of the CPU kernels that this machine can run."""
    _C.set_cpu_level(request.param)
    yield request.param
    _C.set_cpu_level(_C.best_cpu_level())


def unit_rows(
    shape: tuple[int, int, int],
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    *,
    alike: float = 0.5,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Queries and keys of length one; ``alike`` is how much of its key a query holds."""
    rng = torch.Generator().manual_seed(seed)
    key = F.normalize(torch.randn(shape, generator=rng, dtype=torch.float64), dim=2)
    noise = F.normalize(torch.randn(shape, generator=rng, dtype=torch.float64), dim=2)
    query = F.normalize(alike * key + (1 - alike) * noise, dim=2)
    return query.to(device, dtype), key.to(device, dtype)


def cut_rows(query: Tensor, key: Tensor, temperature: float, groups: int) -> Tensor:
    """CUT's models/patchnce.py, step for step, on rows ``(B * S, D)``."""
    rows, depth = query.shape
    positive = torch.bmm(query.view(rows, 1, depth), key.view(rows, depth, 1)).view(rows, 1)
    query, key = query.view(groups, -1, depth), key.view(groups, -1, depth)
    negative = torch.bmm(query, key.transpose(2, 1))
    size = query.shape[1]
    negative = negative.masked_fill(torch.eye(size, dtype=torch.bool)[None], -10.0)
    logits = torch.cat((positive, negative.view(-1, size)), dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(rows, dtype=torch.long), reduction="none")


def loss_and_gradients(
    loss: Callable[..., Any], query: Tensor, key: Tensor, **options: Any
) -> list[Tensor]:
    """The loss, and its gradients to both sides."""
    query, key = query.detach().requires_grad_(), key.detach().requires_grad_()
    value = loss(query, key, detach_key=False, **options)
    weight = torch.linspace(0.5, 2, value.numel(), dtype=value.dtype, device=value.device)
    (value * weight.reshape(value.shape)).sum().backward()
    assert query.grad is not None
    assert key.grad is not None
    return [value.detach(), query.grad, key.grad]


def check_against_reference(query: Tensor, key: Tensor, **options: Any) -> None:
    def reference(dtype: torch.dtype, i: int) -> Tensor:
        return loss_and_gradients(
            patch_nce_loss_reference, query.to(dtype), key.to(dtype), **options
        )[i]

    for i, fused in enumerate(loss_and_gradients(patch_nce_loss, query, key, **options)):
        assert_as_accurate_as(fused, lambda dtype, i=i: reference(dtype, i))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_reference(shape, dtype, device):
    check_against_reference(*unit_rows(shape, dtype, device), temperature=0.5)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("negatives", ["image", "batch"])
@pytest.mark.parametrize("exact_cut", [False, True])
def test_matches_reference_with_every_option(reduction, negatives, exact_cut, device):
    check_against_reference(
        *unit_rows((3, 37, 19), torch.float32, device),
        temperature=0.8,
        reduction=reduction,
        negatives=negatives,
        exact_cut=exact_cut,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference_on_every_instruction_set(level, dtype):
    assert _C.cpu_level() == level
    for shape in SHAPES:
        check_against_reference(*unit_rows(shape, dtype), temperature=0.5, negatives="batch")
        check_against_reference(*unit_rows(shape, dtype), temperature=0.5, reduction="none")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 13, 14, 15, 31, 32, 33, 64, 127, 129, 256, 257, 1031])
def test_equals_cut(size, level):
    check_equals_cut((2 if size < 1000 else 1, size, 64), "image")


@pytest.mark.parametrize("shape", [(2, 3, 8), (16, 64, 32), (3, 257, 16), (16, 256, 16)])
def test_equals_cut_with_negatives_of_the_batch(shape):
    check_equals_cut(shape, "batch")


def check_equals_cut(shape: tuple[int, int, int], negatives: str) -> None:
    groups = shape[0] if negatives == "image" else 1
    query, key = unit_rows(shape, alike=0.2)
    flat = query.flatten(0, 1).requires_grad_()
    expected_rows = cut_rows(flat, key.flatten(0, 1), 0.07, groups)
    expected_rows.mean().backward()
    assert flat.grad is not None
    for dtype, close, rows_close in ((torch.float32, 1e-6, 4e-6), (torch.float64, 1e-12, 1e-12)):
        q, k = query.to(dtype).requires_grad_(), key.to(dtype)
        # The inputs' own rounding is not the kernel's: the truth is that of the rounded inputs.
        exact = q.detach().double().flatten(0, 1).requires_grad_()
        exact_rows = cut_rows(exact, k.double().flatten(0, 1), 0.07, groups)
        exact_rows.mean().backward()
        assert exact.grad is not None
        rows = patch_nce_loss(q, k, negatives=negatives, reduction="none")
        assert (rows.flatten().double() - exact_rows).abs().max() <= rows_close
        loss = patch_nce_loss(q, k, negatives=negatives)
        loss.backward()
        assert q.grad is not None
        assert abs(loss.item() - exact_rows.mean().item()) <= close * exact_rows.mean().item()
        error = (q.grad.flatten(0, 1).double() - exact.grad).abs().max()
        assert error <= close * exact.grad.abs().max()


@pytest.mark.parametrize("size", [1, 2, 40])
def test_exact_cut_equals_cut_at_temperature_one(size):
    query, key = unit_rows((2, size, 16))
    expected = cut_rows(query.flatten(0, 1), key.flatten(0, 1), 1.0, 2)
    exact = patch_nce_loss(query, key, temperature=1.0, exact_cut=True, reduction="none")
    torch.testing.assert_close(exact.flatten(), expected, rtol=1e-12, atol=1e-15)
    plain = patch_nce_loss(query, key, temperature=1.0, reduction="none")
    assert (plain.flatten() < expected).all()


def test_worked_by_hand(device):
    query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], device=device)
    key = torch.tensor([[[2.0, 0.0], [1.0, 1.0]]], device=device)
    # Logits [[2, 1], [0, 1]]: both rows lose by one, log(1 + 1/e).
    expected = torch.full((1, 2), np.log1p(np.exp(-1.0)), dtype=torch.float32, device=device)
    rows = patch_nce_loss(query, key, temperature=1.0, reduction="none")
    torch.testing.assert_close(rows, expected, rtol=1e-6, atol=0)


def test_equal_keys_cannot_be_told_apart(device):
    query = torch.randn(2, 50, 8, device=device)
    key = torch.ones(2, 50, 8, device=device)
    rows = patch_nce_loss(query, key, reduction="none")
    torch.testing.assert_close(rows, torch.full_like(rows, np.log(50)), rtol=1e-5, atol=0)


def test_a_patch_alone_costs_exactly_nothing(device):
    query, key = torch.randn(3, 1, 8, device=device), torch.randn(3, 1, 8, device=device)
    loss, *gradients = loss_and_gradients(patch_nce_loss, query, key)
    assert loss == 0
    assert all((g == 0).all() for g in gradients)


def test_a_certain_match_keeps_its_digits():
    """Where the positive wins by far, the loss is small and still right relative to itself."""
    query, key = unit_rows((1, 64, 32), torch.float32, alike=0.9)
    truth = loss_and_gradients(patch_nce_loss_reference, query.double(), key.double())
    assert truth[0] < 1e-3
    for fused, exact in zip(loss_and_gradients(patch_nce_loss, query, key), truth, strict=True):
        assert (fused.double() - exact).abs().max() < 1e-5 * exact.abs().max()


def test_order_of_patches_does_not_matter():
    query, key = unit_rows((2, 65, 16))
    order = torch.randperm(65, generator=torch.Generator().manual_seed(1))
    rows = patch_nce_loss(query, key, reduction="none")
    permuted = patch_nce_loss(query[:, order], key[:, order], reduction="none")
    torch.testing.assert_close(permuted, rows[:, order], rtol=1e-12, atol=1e-14)


def test_layers_add_up(device):
    pairs = [
        unit_rows(shape, torch.float64, device) for shape in [(2, 5, 3), (2, 33, 16), (1, 8, 4)]
    ]
    queries = [q.requires_grad_() for q, _ in pairs]
    keys = [k.requires_grad_() for _, k in pairs]
    for reduction in ("mean", "sum"):
        together = patch_nce_loss(queries, keys, reduction=reduction, detach_key=False)
        apart = [
            patch_nce_loss(q, k, reduction=reduction, detach_key=False)
            for q, k in zip(queries, keys, strict=True)
        ]
        torch.testing.assert_close(together, torch.stack(apart).sum())
        for got, wanted in zip(
            torch.autograd.grad(together, [*queries, *keys]),
            torch.autograd.grad(torch.stack(apart).sum(), [*queries, *keys]),
            strict=True,
        ):
            assert torch.equal(got, wanted)
    rows = patch_nce_loss(queries, tuple(keys), reduction="none")
    assert [tuple(r.shape) for r in rows] == [(2, 5), (2, 33), (1, 8)]
    assert torch.equal(rows[1], patch_nce_loss(*pairs[1], reduction="none"))


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


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.mT.contiguous().mT,
    "batch last": lambda x: x.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "every second row": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "every second column": lambda x: x.repeat_interleave(2, 2)[..., ::2],
    "flipped twice": lambda x: x.flip(1).flip(1),
    "narrowed": lambda x: F.pad(x, (3, 2, 1, 1, 1, 0))[1:, 1:-1, 3:-2],
    **{
        f"offset {n}": lambda x, n=n: F.pad(x.flatten(), (n, 0))[n:].view(x.shape)
        for n in (1, 2, 3, 7, 15)
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_layout_changes_no_bit(layout, dtype, device):
    query, key = unit_rows((2, 19, 12), dtype, device)
    odd = [LAYOUTS[layout](query), LAYOUTS[layout](key)]
    before = [t.clone() for t in odd]
    for got, wanted in zip(
        loss_and_gradients(patch_nce_loss, *odd),
        loss_and_gradients(patch_nce_loss, query, key),
        strict=True,
    ):
        assert torch.equal(got, wanted)
    assert all(torch.equal(a, b) for a, b in zip(odd, before, strict=True))


def test_expanded_inputs(device):
    query, key = unit_rows((1, 19, 12), torch.float32, device)
    wide = patch_nce_loss(query.expand(3, -1, -1), key.expand(3, -1, -1), reduction="none")
    assert torch.equal(wide[2:], patch_nce_loss(query, key, reduction="none"))


@pytest.mark.parametrize("negatives", ["image", "batch"])
@pytest.mark.parametrize("shape", [(5, 70, 40), (1, 300, 40), (3, 700, 64)])
def test_number_of_threads_changes_no_bit(shape, negatives, threads, level):
    query, key = unit_rows(shape, torch.float32)
    results = []
    for count in (1, 2, 4):
        threads(count)
        results.append(loss_and_gradients(patch_nce_loss, query, key, negatives=negatives))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_neighbours_change_no_bit(device):
    query, key = unit_rows((7, 70, 40), torch.float32, device)
    together = loss_and_gradients(patch_nce_loss, query, key, reduction="none")
    for image in range(7):
        part = slice(image, image + 1)
        alone = patch_nce_loss(query[part], key[part], reduction="none")
        assert torch.equal(alone, together[0][part])


def test_many_callers_at_once():
    query, key = unit_rows((2, 40, 16), torch.float32)
    expected = patch_nce_loss(query, key, reduction="none")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda _: patch_nce_loss(query, key, reduction="none"), range(64))
        assert all(torch.equal(result, expected) for result in results)


def _loss_in_child(query: Any, key: Any, send: Any) -> None:
    torch.set_num_threads(1)
    send.send(patch_nce_loss(torch.from_numpy(query), torch.from_numpy(key)).item())


# Python 3.12 warns about forking a process that has threads, which is what is tried here.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_does_not_hang(threads):
    query, key = unit_rows((4, 40, 16), torch.float32)
    threads(2)
    expected = patch_nce_loss(query, key).item()
    receive, send = multiprocessing.Pipe(False)
    child = multiprocessing.get_context("fork").Process(
        target=_loss_in_child, args=(query.numpy(), key.numpy(), send)
    )
    child.start()
    assert receive.poll(30)
    assert receive.recv() == pytest.approx(expected, rel=1e-6)
    child.join()


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (0, 0, 1)])
def test_no_rows(shape, device):
    empty = torch.rand(shape, device=device)
    assert patch_nce_loss(empty, empty).isnan()
    assert patch_nce_loss(empty, empty, reduction="sum") == 0
    assert patch_nce_loss(empty, empty, reduction="none").shape == shape[:2]
    _, *gradients = loss_and_gradients(patch_nce_loss, empty, empty, reduction="sum")
    assert all(g.shape == shape for g in gradients)


SPECIAL: dict[str, Callable[[Tensor], Tensor]] = {
    "one nan": lambda x: x.index_put((torch.tensor(1), torch.tensor(3)), torch.tensor(np.nan)),
    "all nan": lambda x: x * np.nan,
    "inf": lambda x: x.index_put((torch.tensor(0), torch.tensor(2)), torch.tensor(np.inf)),
    "huge": lambda x: x * 1e38,
    "denormal": lambda x: x * 1e-42,
    "zero": lambda x: x * -0.0,
    "large mean": lambda x: x + 10,
    "scales": lambda x: x * torch.logspace(-3, 3, x.shape[1])[:, None],
    "one huge element": lambda x: x.index_put(
        (torch.tensor(0), torch.tensor(2), torch.tensor(1)), torch.tensor(1e4)
    ),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_odd_numbers(name, level):
    query, key = (t.float() for t in unit_rows((2, 40, 16)))
    query = SPECIAL[name](query)
    truth = patch_nce_loss_reference(query.double(), key.double(), reduction="none")
    rows = patch_nce_loss(query, key, reduction="none").double()
    assert torch.equal(rows.isfinite(), truth.isfinite())
    finite = truth.isfinite()
    largest = truth[finite].abs().amax() if finite.any() else truth.new_zeros(())
    assert ((rows - truth)[finite].abs() <= 2e-6 * largest.clamp_min(10)).all()


def test_nan_stays_in_its_image():
    query, key = unit_rows((3, 40, 16), torch.float32)
    query[1, 3, 2] = np.nan
    rows = patch_nce_loss(query, key, reduction="none")
    assert rows[1, 3].isnan()
    assert rows.isnan().sum() == 1


def test_half_keeps_float32_results(device):
    for dtype in (torch.float16, torch.bfloat16):
        query, key = unit_rows((2, 20, 8), dtype, device)
        query.requires_grad_()
        loss = patch_nce_loss(query, key)
        (gradient,) = torch.autograd.grad(loss, query)
        assert loss.dtype == torch.float32
        assert gradient.dtype == dtype


def test_autocast_takes_the_widest_input():
    query, key = unit_rows((2, 20, 8), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        same = patch_nce_loss(query, key)
        mixed = patch_nce_loss(query.bfloat16(), key)
        half = patch_nce_loss(query.bfloat16(), key.bfloat16())
    assert torch.equal(same, patch_nce_loss(query, key))
    assert torch.equal(mixed, patch_nce_loss(query.bfloat16().float(), key))
    assert torch.equal(half, patch_nce_loss(query.bfloat16(), key.bfloat16()))


def test_reference_backend_is_plain_torch():
    query, key = unit_rows((2, 20, 8), torch.float32)
    with backend("reference"):
        plain = patch_nce_loss(query, key)
    assert torch.equal(plain, patch_nce_loss_reference(query, key))


X = torch.rand(2, 5, 3)
BAD: list[tuple[Any, Any, dict[str, Any], type[Exception], str]] = [
    (None, X, {}, TypeError, r"query: tensor"),
    (X, None, {}, TypeError, r"key: tensor"),
    (3.0, X, {}, TypeError, r"query: tensor"),
    (X.numpy(), X, {}, TypeError, r"query: tensor"),
    ("ab", X, {}, TypeError, r"query: tensor"),
    ({}, X, {}, TypeError, r"query: tensor"),
    ([], [], {}, InputError, r"query: at least one layer"),
    ([X], [], {}, InputError, r"key: at least one layer"),
    ([X, X], [X], {}, InputError, r"key: a sequence of 2"),
    ([X], X, {}, InputError, r"key: a sequence of 1"),
    (X, [X], {}, InputError, r"key: one tensor"),
    ([X, None], [X, X], {}, TypeError, r"query\[1\]: tensor"),
    ([X, X], [X, 1], {}, TypeError, r"key\[1\]: tensor"),
    (X.long(), X.long(), {}, TypeError, r"query: float32.*int64"),
    (X.bool(), X.bool(), {}, TypeError, r"query: float32"),
    (X.cfloat(), X.cfloat(), {}, TypeError, r"query: float32"),
    (X, X.double(), {}, TypeError, r"key: torch.float32.*float64"),
    (X.half(), X.bfloat16(), {}, TypeError, r"key: torch.float16"),
    ([X, X.double()], [X, X.double()], {}, TypeError, r"query\[1\]: torch.float32"),
    (X[0], X[0], {}, InputError, r"query: \(B, S, D\)"),
    (X[None], X[None], {}, InputError, r"query: \(B, S, D\)"),
    (X[0, 0, 0], X[0, 0, 0], {}, InputError, r"query: \(B, S, D\)"),
    (X[..., :0], X[..., :0], {}, InputError, r"query: \(B, S, D\) with D >= 1"),
    (X, X[:1], {}, InputError, r"key: the shape of query"),
    (X, X[:, :4], {}, InputError, r"key: the shape of query"),
    (X, X[..., :2], {}, InputError, r"key: the shape of query"),
    (X, X[0], {}, InputError, r"key: the shape of query"),
    ([X, X], [X, X[:1]], {}, InputError, r"key\[1\]: the shape of query"),
    (X, X.to("meta"), {}, InputError, r"key: on cpu"),
    ([X, X.to("meta")], [X, X.to("meta")], {}, InputError, r"query\[1\]: on cpu"),
    (X.to_sparse(), X, {}, InputError, r"query: a dense tensor"),
    (X, X.to_mkldnn(), {}, InputError, r"key: a dense tensor"),
    (X, X, {"temperature": 0}, InputError, r"temperature: positive"),
    (X, X, {"temperature": -0.07}, InputError, r"temperature: positive"),
    (X, X, {"temperature": np.nan}, InputError, r"temperature: positive"),
    (X, X, {"temperature": np.inf}, InputError, r"temperature: positive"),
    (X, X, {"temperature": "0.07"}, TypeError, r"temperature: number"),
    (X, X, {"temperature": None}, TypeError, r"temperature: number"),
    (X, X, {"temperature": True}, TypeError, r"temperature: number"),
    (X, X, {"temperature": torch.tensor(0.07)}, TypeError, r"temperature: number"),
    (X, X, {"negatives": "all"}, InputError, r"negatives: 'image' or 'batch'"),
    (X, X, {"negatives": None}, InputError, r"negatives: 'image' or 'batch'"),
    (X, X, {"reduction": "max"}, InputError, r"reduction: 'mean'"),
    (X, X, {"reduction": True}, InputError, r"reduction: 'mean'"),
    (X, X, {"detach_key": 1}, TypeError, r"detach_key: bool"),
    (X, X, {"exact_cut": "yes"}, TypeError, r"exact_cut: bool"),
]


@pytest.mark.parametrize(
    ("query", "key", "options", "error", "message"),
    BAD,
    ids=[f"{b[4]}-{i}" for i, b in enumerate(BAD)],
)
def test_refuses(query, key, options, error, message):
    with pytest.raises(error, match=message):
        patch_nce_loss(query, key, **options)


def _view(tensor: Tensor) -> tuple[Any, ...]:
    code = _C.dtypes[str(tensor.dtype).removeprefix("torch.")]
    return (tensor.data_ptr(), code, tuple(tensor.shape), tensor.stride())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": []}, "query: at least one"),
        ({"key": []}, "key: one tensor a layer"),
        ({"key": [X[:1]]}, "key: shape"),
        ({"key": [X.mT.contiguous().mT]}, "key: contiguous"),
        ({"key": [X.double()]}, "key: wrong dtype"),
        ({"rows": [torch.empty(2, 4)]}, "rows: shape"),
        ({"rows": [torch.empty(2, 5, 1)]}, "rows: wrong number of axes"),
        ({"query_gradient": [torch.empty(2, 5, 2)]}, "query_gradient: shape"),
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
        ops.patch_nce_loss_scale.default, (inputs[0], weight[0, 0].clone(), inputs[1])
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


ON_HOST = """
#include "ops/patch_nce_loss.cu"

namespace medad {

using Views = std::vector<TensorView>;

void on_host(const Views& query, const Views& key, const Views& weight, const Views& rows,
             const Views& log_sum_exp, const Views& query_gradient, const Views& key_gradient,
             double temperature, bool batch_negatives, bool exact_cut, bool mean,
             const Launch& where) {
  patch_nce_loss_cuda({query, key, weight, rows, log_sum_exp, query_gradient, key_gradient},
                      {temperature, batch_negatives, exact_cut, mean}, where);
}

}  // namespace medad
"""
GPUS = {
    "hopper": (),
    "turing": ("-DMEDAD_EMULATION_NO_TENSOR_CORES", "-DMEDAD_EMULATION_SHARED_KIB=64"),
}


@pytest.fixture(params=GPUS)
def kernels(request: pytest.FixtureRequest) -> EmulatedKernels:
    """The CUDA kernels on the host: a GPU with tensor cores, and one with little of anything."""
    return load(ON_HOST, ("on_host",), GPUS[request.param])


def run_on_host(
    kernels: EmulatedKernels,
    query: list[Tensor],
    key: list[Tensor],
    weight: list[Tensor],
    *,
    sides: tuple[bool, bool] = (True, True),
    negatives: str = "image",
    exact_cut: bool = False,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Rows and gradients, written over NaN."""
    compute = torch.float64 if query[0].dtype == torch.float64 else torch.float32
    rows, lse = ([q.new_full(q.shape[:2], np.nan, dtype=compute) for q in query] for _ in range(2))
    gradients = [[torch.full_like(q, np.nan) for q in query] if side else [] for side in sides]
    options = (0.5, negatives == "batch", exact_cut, not weight)
    kernels.call("on_host", query, key, weight, rows, lse, *gradients, *options, None)
    return rows, gradients[0], gradients[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("negatives", ["image", "batch"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (2, 7, 3), (2, 33, 37), (1, 140, 12), (1, 9, 261)], ids=str
)
def test_cuda_kernels_on_the_host(kernels, shape, negatives, dtype):
    query, key = unit_rows(shape, dtype)
    results = []
    for order, seed in ORDERS:
        with kernels.order(order, seed):
            results.append(run_on_host(kernels, [query], [key], [], negatives=negatives))
    for other in results[1:]:
        assert all(torch.equal(a[0], b[0]) for a, b in zip(results[0], other, strict=True))

    def reference(dtype: torch.dtype) -> list[Tensor]:
        q, k = (t.detach().to(dtype).requires_grad_() for t in (query, key))
        rows = patch_nce_loss_reference(
            q, k, temperature=0.5, negatives=negatives, reduction="none", detach_key=False
        )
        rows.mean().backward()
        return [rows.detach(), q.grad, k.grad]

    # TF32 rounds the softmax to 11 bits: twice plain torch's error in float16, which keeps them.
    slack = 4.0 if dtype == torch.float16 else 2.0
    for i, (fused,) in enumerate(results[0]):
        assert_as_accurate_as(fused, lambda dtype, i=i: reference(dtype)[i], slack=slack)


def test_cuda_layers_share_a_launch(kernels):
    pairs = [unit_rows(shape, torch.float32) for shape in [(2, 5, 3), (0, 4, 4), (1, 140, 16)]]
    query, key = [q for q, _ in pairs], [k for _, k in pairs]
    weight = [torch.rand(q.shape[:2], generator=torch.Generator().manual_seed(0)) for q in query]
    before = kernels.launches
    together = run_on_host(kernels, query, key, weight, exact_cut=True)
    assert kernels.launches == before + 2
    for layer in range(3):
        part = slice(layer, layer + 1)
        apart = run_on_host(kernels, query[part], key[part], weight[part], exact_cut=True)
        for many, one in zip(together, apart, strict=True):
            assert torch.equal(many[layer], one[0])
        inputs = [t[layer].double().requires_grad_() for t in (query, key)]
        rows = patch_nce_loss_reference(
            *inputs, temperature=0.5, reduction="none", exact_cut=True, detach_key=False
        )
        expected = torch.autograd.grad(rows, inputs, weight[layer].double())
        for got, wanted in zip([t[layer] for t in together], [rows, *expected], strict=True):
            torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-6)


def test_cuda_forms_only_the_gradients_that_are_wanted(kernels):
    query, key = unit_rows((1, 9, 4), torch.float32)
    both = run_on_host(kernels, [query], [key], [])
    for sides in [(True, False), (False, True), (False, False)]:
        some = run_on_host(kernels, [query], [key], [], sides=sides)
        assert torch.equal(some[0][0], both[0][0])
        for got, wanted, side in zip(some[1:], both[1:], sides, strict=True):
            assert len(got) == side
            if side:
                torch.testing.assert_close(got[0], wanted[0], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_cuda_kernels_never_hide_a_bad_number(kernels, value):
    query, key = unit_rows((1, 12, 4), torch.float32)
    query[0, 3, 2] = value
    rows, (gradient,), _ = run_on_host(kernels, [query], [key], [])
    assert rows[0].isfinite().sum() == 11
    assert gradient[0].isfinite().all(1).sum() == 11
    assert not rows[0][0, 3].isfinite()


@pytest.mark.gpu
def test_cuda_graph_replays_with_new_numbers():
    query, key = (t.requires_grad_() for t in unit_rows((4, 256, 64), torch.float32, "cuda"))

    def step() -> tuple[Tensor, ...]:
        loss = patch_nce_loss([query, query], [key, key], detach_key=False)
        return (loss, *torch.autograd.grad(loss, (query, key)))

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        query.copy_(query.flip(1))
    graph.replay()
    for got, wanted in zip(captured, step(), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.gpu
def test_cuda_repeats_bit_for_bit():
    query, key = unit_rows((4, 300, 64), torch.float32, "cuda")
    first = loss_and_gradients(patch_nce_loss, query, key)
    for _ in range(20):
        again = loss_and_gradients(patch_nce_loss, query, key)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
