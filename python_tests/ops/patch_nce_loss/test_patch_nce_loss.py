"""patch_nce_loss: accuracy, laws, odd numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from medad_fast import _C
from medad_fast.ops import backend, patch_nce_loss, patch_nce_loss_reference
from python_tests.close import assert_as_accurate_as

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
