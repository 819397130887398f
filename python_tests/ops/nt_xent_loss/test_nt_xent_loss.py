"""nt_xent_loss: accuracy, laws, odd numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from medad_fast import _C
from medad_fast.ops import backend, nt_xent_loss, nt_xent_loss_reference
from python_tests.close import assert_as_accurate_as

SHAPES = [
    (1, 3),  # a pair alone: nothing to tell it from
    (2, 1),
    (3, 7),
    (31, 33),
    (64, 16),  # exactly one tile
    (65, 20),  # two rows more
    (127, 129),
    (192, 5),  # three tiles a side, kept between the passes
    (257, 12),  # more than are kept, and a ragged one
]
LEVELS = ["baseline", "avx2", "avx512"]
LEVELS = LEVELS[: LEVELS.index(_C.best_cpu_level()) + 1]


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each build of the CPU kernels that this machine can run."""
    _C.set_cpu_level(request.param)
    yield request.param
    _C.set_cpu_level(_C.best_cpu_level())


def two_views(
    shape: tuple[int, int],
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    *,
    alike: float = 0.5,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Embeddings of any length; ``alike`` is how much the views of an image have in common."""
    rng = torch.Generator().manual_seed(seed)
    image, first, second = torch.randn(3, *shape, generator=rng, dtype=torch.float64)
    views = [alike * image + (1 - alike) * noise for noise in (first, second)]
    z1, z2 = (z.to(device, dtype) for z in views)
    return z1, z2


def simclr_by_loops(z1: Tensor, z2: Tensor, temperature: float) -> float:
    """The paper's equation 1, pair by pair."""
    z = torch.cat([z1, z2])
    pairs, rows = len(z1), 2 * len(z1)
    losses = []
    for i in range(rows):
        cosine = F.cosine_similarity(z[i : i + 1], z, dim=1)
        others = torch.tensor([k for k in range(rows) if k != i])
        total = torch.logsumexp(cosine[others] / temperature, 0)
        losses.append(total - cosine[(i + pairs) % rows] / temperature)
    return float(torch.stack(losses).mean())


def loss_and_gradients(
    loss: Callable[..., Tensor], z1: Tensor, z2: Tensor, temperature: float = 0.5
) -> list[Tensor]:
    """The loss, and its gradients to both views."""
    z1, z2 = z1.detach().requires_grad_(), z2.detach().requires_grad_()
    value = loss(z1, z2, temperature=temperature)
    return [value.detach(), *torch.autograd.grad(value, (z1, z2))]


def check_against_reference(z1: Tensor, z2: Tensor, temperature: float = 0.5) -> None:
    def reference(dtype: torch.dtype, i: int) -> Tensor:
        return loss_and_gradients(nt_xent_loss_reference, z1.to(dtype), z2.to(dtype), temperature)[
            i
        ]

    for i, fused in enumerate(loss_and_gradients(nt_xent_loss, z1, z2, temperature)):
        assert_as_accurate_as(fused, lambda dtype, i=i: reference(dtype, i))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_reference(shape, dtype, device):
    check_against_reference(*two_views(shape, dtype, device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference_on_every_instruction_set(level, dtype):
    assert _C.cpu_level() == level
    for shape in SHAPES:
        check_against_reference(*two_views(shape, dtype))


# Below 1/30 in float32 and 1/300 in float64 each row has a top of its own.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.05, 0.034, 0.033, 0.01, 3e-3, 1e-3, 1e-6, 5.0, 1e6])
def test_matches_reference_at_every_temperature(temperature, dtype, level):
    # A similarity's own rounding is divided by the temperature.
    bound = 64 * torch.finfo(dtype).eps * max(1.0, 1 / temperature)
    for pairs in (2, 40, 300):
        z1, z2 = two_views((pairs, 9), dtype, alike=0.3)
        got = loss_and_gradients(nt_xent_loss, z1, z2, temperature)
        truth = loss_and_gradients(nt_xent_loss_reference, z1.double(), z2.double(), temperature)
        for fused, exact in zip(got, truth, strict=True):
            assert fused.isfinite().all()
            if bound < 0.1:
                assert (fused.double() - exact).abs().max() <= bound * exact.abs().max()


@pytest.mark.parametrize("pairs", [1, 2, 3, 17])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_equals_the_papers_equation(pairs, temperature, device):
    z1, z2 = two_views((pairs, 6))
    loss = nt_xent_loss(z1.to(device), z2.to(device), temperature=temperature)
    assert loss.item() == pytest.approx(simclr_by_loops(z1, z2, temperature), rel=1e-12, abs=1e-15)


def test_worked_by_hand(device):
    z1 = torch.tensor([[3.0, 0.0], [0.0, 0.2]], device=device)
    z2 = torch.tensor([[0.5, 0.0], [0.0, 7.0]], device=device)
    # Similarity 1 to the own view, 0 to the two others: log(e + 2) - 1.
    loss = nt_xent_loss(z1, z2, temperature=1.0)
    assert loss.item() == pytest.approx(np.log(np.e + 2) - 1, rel=1e-6)


def test_equal_rows_cannot_be_told_apart(device):
    z = torch.ones(33, 8, device=device)
    loss, *gradients = loss_and_gradients(nt_xent_loss, z, 2 * z)
    assert loss.item() == pytest.approx(np.log(65), rel=1e-6)
    assert all(g.abs().max() < 1e-7 for g in gradients)


@pytest.mark.parametrize("temperature", [0.5, 0.001])
def test_a_pair_alone_costs_exactly_nothing(device, temperature):
    z1, z2 = two_views((1, 8), torch.float32, device)
    loss, *gradients = loss_and_gradients(nt_xent_loss, z1, z2, temperature)
    assert loss == 0
    assert all((g == 0).all() for g in gradients)


@pytest.mark.parametrize(("temperature", "alike"), [(0.06, 0.9), (0.03, 0.75)])
def test_a_certain_match_keeps_its_digits(temperature, alike):
    """Where the positive wins by far, the loss is small and still right relative to itself."""
    z1, z2 = two_views((64, 64), torch.float32, alike=alike)
    truth = loss_and_gradients(nt_xent_loss_reference, z1.double(), z2.double(), temperature)
    assert 1e-9 < truth[0] < 1e-3
    for fused, exact in zip(
        loss_and_gradients(nt_xent_loss, z1, z2, temperature), truth, strict=True
    ):
        assert (fused.double() - exact).abs().max() < 1e-4 * exact.abs().max()


def test_views_may_be_swapped_and_rows_reordered():
    z1, z2 = two_views((70, 16))
    order = torch.randperm(70, generator=torch.Generator().manual_seed(1))
    loss, g1, g2 = loss_and_gradients(nt_xent_loss, z1, z2)
    swapped, s2, s1 = loss_and_gradients(nt_xent_loss, z2, z1)
    moved, m1, m2 = loss_and_gradients(nt_xent_loss, z1[order], z2[order])
    close = {"rtol": 1e-10, "atol": 1e-14}
    for got, wanted in [(swapped, loss), (s1, g1), (s2, g2), (moved, loss)]:
        torch.testing.assert_close(got, wanted, **close)
    torch.testing.assert_close(m1, g1[order], **close)
    torch.testing.assert_close(m2, g2[order], **close)


def test_lengths_do_not_matter_and_gradients_are_across():
    z1, z2 = two_views((40, 16))
    factor = torch.logspace(-3, 3, 40, dtype=torch.float64)[:, None]
    loss, g1, g2 = loss_and_gradients(nt_xent_loss, z1, z2)
    scaled, s1, _ = loss_and_gradients(nt_xent_loss, z1 * factor, z2)
    torch.testing.assert_close(scaled, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(s1 * factor, g1, rtol=1e-9, atol=1e-14)
    for z, g in ((z1, g1), (z2, g2)):
        assert ((z * g).sum(1).abs() <= 1e-14 * z.norm(dim=1)).all()


def test_a_row_of_zeros_is_like_no_other(device):
    """Similarity 0 to all, and the gradient that a length of 1 would give: CRADL's choice."""
    z1, z2 = two_views((5, 4), torch.float32, device)
    z1[2] = 0
    z2[0] = -0.0
    check_against_reference(z1, z2)
    loss, g1, _ = loss_and_gradients(nt_xent_loss, z1, z2)
    units = F.normalize(torch.cat([z1, z2]).double(), dim=1).requires_grad_()
    logits = units @ units.T / 0.5
    logits = logits.masked_fill(torch.eye(10, dtype=torch.bool, device=device), -np.inf)
    target = torch.arange(10, device=device).roll(5)
    exact = F.cross_entropy(logits, target)
    (du,) = torch.autograd.grad(exact, units)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    torch.testing.assert_close(g1[2].double(), du[2], rtol=1e-5, atol=1e-7)
    zeros = torch.zeros(3, 4, device=device)
    assert nt_xent_loss(zeros, zeros).item() == pytest.approx(np.log(5), rel=1e-6)


BAD_NUMBERS: dict[str, Callable[[Tensor], Tensor]] = {
    "one nan": lambda x: x.index_put((torch.tensor(1), torch.tensor(3)), torch.tensor(np.nan)),
    "one inf": lambda x: x.index_put((torch.tensor(0), torch.tensor(2)), torch.tensor(np.inf)),
    "all nan": lambda x: x * np.nan,
    "a row of inf": lambda x: x.index_put((torch.tensor(4),), torch.tensor(-np.inf)),
}


@pytest.mark.parametrize("name", BAD_NUMBERS)
@pytest.mark.parametrize("temperature", [0.5, 0.005])
@pytest.mark.parametrize("pairs", [5, 140, 300])
def test_a_bad_number_is_never_hidden(name, temperature, pairs, level):
    z1, z2 = two_views((pairs, 16), torch.float32)
    bad = BAD_NUMBERS[name](z1)
    for views in ((bad, z2), (z2, bad)):
        loss, *gradients = loss_and_gradients(nt_xent_loss, *views, temperature)
        assert loss.isnan()
        assert all(g.isnan().all() for g in gradients)  # every row has the bad one for a negative


ODD_NUMBERS: dict[str, Callable[[Tensor], Tensor]] = {
    "huge": lambda x: x * 1e37,
    "denormal": lambda x: x * 1e-42,
    "large mean": lambda x: x + 10,
    "scales": lambda x: x * torch.logspace(-30, 30, x.shape[0])[:, None],
    "one huge element": lambda x: x.index_put(
        (torch.tensor(0), torch.tensor(1)), torch.tensor(1e30)
    ),
    "flat": lambda x: torch.full_like(x, 0.1),
}


@pytest.mark.parametrize("name", ODD_NUMBERS)
def test_odd_numbers(name, level):
    z1, z2 = two_views((70, 16), torch.float32)
    z1 = ODD_NUMBERS[name](z1)
    truth = loss_and_gradients(nt_xent_loss_reference, z1.double(), z2.double())
    got = loss_and_gradients(nt_xent_loss, z1, z2)
    assert got[0].item() == pytest.approx(truth[0].item(), rel=2e-6)
    assert torch.equal(got[2].isfinite(), truth[2].isfinite())
    assert (got[2] - truth[2]).abs().max() <= 5e-6 * truth[2].abs().max()
    if name != "denormal":  # whose gradient is more than float32 can hold
        length = z1.double().norm(dim=1, keepdim=True)
        error = (got[1].double() - truth[1]) * length  # each row relative to what it can be
        assert error.abs().max() <= 5e-6 * (truth[1] * length).abs().max()


@pytest.mark.parametrize("shape", [(65, 40), (300, 40), (700, 33)])
@pytest.mark.parametrize("temperature", [0.5, 0.01])
def test_number_of_threads_changes_no_bit(shape, temperature, level):
    z1, z2 = two_views(shape, torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 4, 3):
            torch.set_num_threads(count)
            results.append(loss_and_gradients(nt_xent_loss, z1, z2, temperature))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_no_rows(device):
    empty = torch.rand(0, 3, device=device)
    loss, *gradients = loss_and_gradients(nt_xent_loss, empty, empty)
    assert loss.isnan()
    assert nt_xent_loss_reference(empty, empty).isnan()
    assert all(g.shape == (0, 3) for g in gradients)


def test_half_keeps_float32_results(device):
    for dtype in (torch.float16, torch.bfloat16):
        z1, z2 = two_views((20, 8), dtype, device)
        loss, *gradients = loss_and_gradients(nt_xent_loss, z1, z2)
        assert loss.dtype == torch.float32
        assert all(g.dtype == dtype for g in gradients)


def test_autocast_takes_the_wider_input():
    z1, z2 = two_views((20, 8), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        same = nt_xent_loss(z1, z2)
        mixed = nt_xent_loss(z1.bfloat16(), z2)
        half = nt_xent_loss(z1.bfloat16(), z2.bfloat16())
    assert torch.equal(same, nt_xent_loss(z1, z2))
    assert torch.equal(mixed, nt_xent_loss(z1.bfloat16().float(), z2))
    assert torch.equal(half, nt_xent_loss(z1.bfloat16(), z2.bfloat16()))


def test_reference_backend_is_plain_torch():
    z1, z2 = two_views((20, 8), torch.float32)
    with backend("reference"):
        plain = nt_xent_loss(z1, z2)
    assert torch.equal(plain, nt_xent_loss_reference(z1, z2))
