"""The door to the kernels: how an op is declared, where a call runs, what runs without a kernel."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medad_fast import _C
from medad_fast.ops import _native, backend


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for torch's view of the GPUs: device 2 is current, each has a stream of its own."""

    def current_stream(device: torch.device | None = None) -> Any:
        index = 2 if device is None or device.index is None else device.index
        return SimpleNamespace(cuda_stream=1000 + index)

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_stream", current_stream)


@pytest.mark.parametrize(
    ("device", "where"),
    [("cuda:1", (1, 1001, 1)), ("cuda:2", (2, 1002, 1)), ("cuda", (2, 1002, 1))],
)
def test_a_call_goes_to_its_tensors_device_and_that_devices_stream(gpus, device, where):
    seen = []
    _native.call(lambda *arguments: seen.append(arguments), torch.device(device), 7)
    assert seen == [(7, where)]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_call_on_the_cpu_has_torchs_number_of_threads(threads):
    seen = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        _native.call(lambda *arguments: seen.append(arguments), torch.device("cpu"))
    finally:
        torch.set_num_threads(before)
    assert seen == [((-1, 0, threads),)]


def test_tensors_become_views():
    seen: list[Any] = []
    tensor = torch.ones(2, 3, dtype=torch.float64).mT
    view = (tensor.data_ptr(), _C.dtypes["float64"], (3, 2), (1, 3))
    _native.call(lambda *a: seen.extend(a), torch.device("cpu"), tensor, [tensor, [tensor]], 1.5)
    assert seen[:-1] == [view, [view, [view]], 1.5]


@pytest.fixture(scope="module")
def doubled() -> Callable[[Any], Any]:
    """An op whose kernel says 2 and whose reference says 3, whatever it is given."""
    return _native.register(
        "doubled(Tensor x) -> Tensor",
        kernel=lambda x: torch.full_like(x, 2),
        shapes=torch.empty_like,
        reference=lambda x: 3,
    )


def test_without_a_kernel_plain_torch_is_used_and_said_so_once(doubled, monkeypatch):
    def tensor_on(kind: str) -> Any:
        return SimpleNamespace(device=torch.device(kind))

    with pytest.warns(RuntimeWarning, match="doubled: no compiled kernel for xpu tensors") as seen:
        assert doubled(tensor_on("xpu")) == 3
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert doubled(tensor_on("xpu")) == 3
        assert doubled(torch.ones(1)).item() == 2
        assert doubled(torch.ones(4, device="meta")).shape == (4,)
        with backend("reference"):
            assert doubled(torch.ones(1)) == 3
    if not _native.kernels.with_cuda:
        monkeypatch.setattr(_native, "_warned", set())
        with pytest.warns(RuntimeWarning, match=r"for cuda tensors \(.+\); plain torch"):
            assert doubled(tensor_on("cuda")) == 3


def test_an_op_without_a_gradient_refuses_it(doubled):
    torch.library.opcheck(torch.ops.medad_fast.doubled.default, (torch.ones(2),))
    with pytest.raises(RuntimeError, match="doubled has no gradient"):
        doubled(torch.ones(2, requires_grad=True)).sum().backward()


@pytest.mark.parametrize(("lists", "stacked"), [(False, False), (True, False), (False, True)])
def test_a_gradient_may_be_formed_with_the_value(lists, stacked):
    """``sum(a * b * factor)``, of tensors or of lists of them, one gradient apart or all in one."""
    seen = []

    def shapes(a, b, factor, *wanted):
        first = a[0] if lists else a
        if stacked:
            return first.new_empty(()), first.new_empty((2, *first.shape) if any(wanted) else 0)
        sides = zip((a, b), wanted, strict=True)
        formed = [t for side, wish in sides if wish for t in (side if lists else [side])]
        return first.new_empty(()), [torch.empty_like(t) for t in formed]

    def kernel(a, b, factor, *wanted):
        seen.append(wanted)
        layers = list(zip(a, b, strict=True)) if lists else [(a, b)]
        value = torch.stack([(x * y).sum() * factor for x, y in layers]).sum()
        if stacked:
            return value, torch.stack([b, a]) * factor if any(wanted) else a.new_empty(0)
        sides = [[pair[1 - side] * factor for pair in layers] for side in (0, 1)]
        return value, [t for side, wish in zip(sides, wanted, strict=True) if wish for t in side]

    tensor = "Tensor[]" if lists else "Tensor"
    name = f"product_{lists}_{stacked}".lower()
    op = _native.register_with_gradient(
        f"{name}({tensor} a, {tensor} b, float factor)",
        kernel=kernel,
        shapes=shapes,
        reference=lambda a, b, factor: torch.stack(
            [(x * y).sum() * factor for x, y in (zip(a, b, strict=True) if lists else [(a, b)])]
        ).sum(),
        stacked=stacked,
    )
    rng = torch.Generator().manual_seed(0)
    leaves = [torch.randn(3, generator=rng).requires_grad_() for _ in range(4 if lists else 2)]

    def run(tensors, factor=2.0):
        return op(tensors[:2], tensors[2:], factor) if lists else op(*tensors, factor)

    def grads(value, **options):
        return torch.autograd.grad(value, leaves, **options)

    with backend("reference"):
        wanted_value, wanted = run(leaves), grads(run(leaves))
    torch.testing.assert_close(run(leaves), wanted_value)
    for factor in (1.0, -2.5):  # as formed, and scaled
        for found in (
            grads(factor * run(leaves)),
            grads(factor * run(leaves), create_graph=True),
            grads(factor * torch.compile(run, fullgraph=True, backend="aot_eager")(leaves)),
        ):
            torch.testing.assert_close([f / factor for f in found], list(wanted))
    second = grads(run(leaves), create_graph=True)
    with pytest.raises(RuntimeError, match=f"{name}_scale has no gradient"):
        sum(g.sum() for g in second).backward()
    # Only what is asked for is formed.
    constants = [t.detach() for t in leaves]
    half = len(leaves) // 2
    seen.clear()
    run(constants)
    run(leaves[:half] + constants[half:]).backward()
    with torch.no_grad():
        run(leaves)
    assert seen == [(False, False), (True, False), (False, False)]
    torch.testing.assert_close([t.grad for t in leaves[:half]], list(wanted[:half]))
    arguments = [leaves[:2], leaves[2:]] if lists else leaves
    overload = getattr(torch.ops.medad_fast, name).default
    torch.library.opcheck(overload, (*arguments, 2.0, True, True))
