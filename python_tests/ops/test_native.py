"""The door to the kernels: where a call runs, what it is told, what happens without a kernel."""

from __future__ import annotations

import warnings
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


def test_without_a_kernel_plain_torch_is_used_and_said_so_once():
    tensor: Any = SimpleNamespace(device=torch.device("xpu"))
    with pytest.warns(RuntimeWarning, match="a_new_op: no compiled kernel for xpu tensors"):
        assert not _native.use_native("a_new_op", tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not _native.use_native("a_new_op", tensor)
        with backend("reference"):
            assert not _native.use_native("another_op", torch.ones(1))
        for device in ("cpu", "meta"):
            assert _native.use_native("another_op", torch.ones(1, device=device))
