"""What every op promises alike, over the calls that ``<op>/cases.py`` describes."""

from __future__ import annotations

import inspect
import itertools
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import medad_fast.ops
from medad_fast.ops import backend
from python_tests.ops.cases import BadCall, OpCase, all_cases, case_modules, flat
from python_tests.ops.run_case import (
    LAYOUTS,
    CallsOfEveryOp,
    differences,
    far_apart,
    outcome,
    starts_at,
    storage_bytes,
    upstream_of,
)

OPS = [name for name in medad_fast.ops.__all__ if hasattr(medad_fast.ops, f"{name}_reference")]
CASES = all_cases()
BAD_CALLS = [(op, bad) for op, module in case_modules().items() for bad in module.BAD_CALLS]


def _dtypes(case: OpCase) -> Sequence[torch.dtype | None]:
    return case.dtypes or (None,)


def _id(value: object) -> str | None:
    if isinstance(value, OpCase):
        return value.name.replace(" ", "-")
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return value.what.replace(" ", "-") if isinstance(value, BadCall) else None


each_case = pytest.mark.parametrize("case", CASES, ids=_id)
each_differentiable = pytest.mark.parametrize("case", [c for c in CASES if c.gradients], ids=_id)
each_case_and_dtype = pytest.mark.parametrize(
    ("case", "dtype"), [(case, dtype) for case in CASES for dtype in _dtypes(case)], ids=_id
)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_every_op_has_cases():
    exported = {
        name
        for name in medad_fast.ops.__all__
        if inspect.isfunction(getattr(medad_fast.ops, name)) and not name.endswith("_reference")
    }
    assert exported - {"backend"} == set(OPS)
    assert {case.op for case in CASES} == {op for op, _ in BAD_CALLS} == set(OPS)
    assert {op for op, module in case_modules().items() if module.large} == set(OPS)


@each_case_and_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_changes_no_bit_and_no_input(case, dtype, layout, device):
    odd = [LAYOUTS[layout](t) for t in case.tensors(0, device, dtype)]
    plain = [t.resolve_neg().contiguous().clone() for t in odd]
    before = [storage_bytes(t) for t in odd]
    assert not differences(outcome(case, odd), outcome(case, plain))
    assert not differences([storage_bytes(t) for t in odd], before)


@each_case
def test_any_alignment_changes_no_bit(case, device):
    plain = case.tensors(0, device, _dtypes(case)[-1])
    wanted = outcome(case, plain)
    for place in range(1, 16):
        assert not differences(outcome(case, [starts_at(t, place) for t in plain]), wanted)


@each_case
def test_elements_far_apart_change_no_bit(case):
    dtype = min(_dtypes(case), key=lambda dtype: dtype.itemsize if dtype else 0)
    plain = case.tensors(0, dtype=dtype)
    found = outcome(case, [far_apart(t) for t in plain])
    assert not differences(found, outcome(case, plain))


@each_differentiable
def test_the_layout_of_what_comes_from_above_changes_no_bit(case, device):
    tensors = case.tensors(0, device, case.dtypes[0])
    for upstream in (
        upstream_of(case, tensors),
        [u.new_ones(()).expand_as(u) for u in upstream_of(case, tensors)],
    ):
        wanted = outcome(
            case, tensors, [u.clone(memory_format=torch.contiguous_format) for u in upstream]
        )
        assert not differences(outcome(case, tensors, upstream), wanted)
        for layout in ("last axes swapped", "axes reversed", "inside a larger tensor"):
            odd = [LAYOUTS[layout](u) for u in upstream]
            assert not differences(outcome(case, tensors, odd), wanted)


@each_case_and_dtype
def test_the_number_of_threads_changes_no_bit(case, dtype):
    calls = 8  # what is not independent may cost the square of it
    if case.image_axis is not None:
        calls = max(2, min(256, 2**18 // sum(t.numel() for t in case.tensors())))
    tensors = case.batch(range(calls), dtype)
    found = []
    for count in (1, 2, 4):
        with torch_threads(count):
            found.append(outcome(case, tensors))
    assert not differences(found[1], found[0])
    assert not differences(found[2], found[0])


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, dtype) for case in CASES if case.image_axis is not None for dtype in _dtypes(case)],
    ids=_id,
)
def test_an_image_does_not_see_its_batch(case, dtype, device):
    tensors = [t.to(device) for t in case.batch((0, 1), dtype)]
    upstream = upstream_of(case, tensors)
    together = outcome(case, tensors, upstream)
    results = len(together) - len(case.gradients)
    axes = [0] * results + [case.image_axis[i] for i in case.gradients]
    images = next(
        t.shape[a] for t, a in zip(tensors, case.image_axis, strict=True) if a is not None
    )
    for image in range(images):
        alone = outcome(
            case,
            [
                t if axis is None else t.narrow(axis, image, 1)
                for t, axis in zip(tensors, case.image_axis, strict=True)
            ],
            [u.narrow(0, image, 1) for u in upstream],
        )
        shown = [place for place, axis in enumerate(axes) if axis is not None]
        assert not differences(
            [alone[place] for place in shown],
            [together[place].narrow(axes[place], image, 1) for place in shown],
        )


@pytest.mark.parametrize("op", OPS)
def test_calls_from_eight_threads_agree(op):
    own = itertools.islice(itertools.cycle([c for c in CASES if c.op == op]), 8)
    calls = [(case, case.tensors(seed, dtype=_dtypes(case)[0])) for seed, case in enumerate(own)]
    wanted = [outcome(case, tensors) for case, tensors in calls]
    wrong: list[str] = []

    def work(place: int) -> None:
        torch.set_num_threads(1)
        try:
            for _ in range(200):
                wrong.extend(differences(outcome(*calls[place]), wanted[place]))
        except Exception as error:
            wrong.append(repr(error))

    with torch_threads(1):
        workers = [threading.Thread(target=work, args=(place,)) for place in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not wrong


# Python 3.12 warns about forking a process that has threads, which is what is tried here.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:This DataLoader will create")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader_finish(method):
    if method == "fork" and not hasattr(os, "fork"):
        pytest.skip("no fork on this system")
    calls = CallsOfEveryOp(2)
    with torch_threads(2):  # what a forked worker inherits must not keep it from working
        for case in CASES:
            outcome(case, case.batch(range(32)))
        loader = DataLoader(
            calls, batch_size=None, num_workers=4, multiprocessing_context=method, timeout=60
        )
        found = list(loader)
    assert len(found) == len(calls)
    for place, results in enumerate(found):
        assert not differences(results, calls[place])


def _longest_silence(case: OpCase, tensors: Sequence[Tensor]) -> tuple[float, float]:
    """For how long other Python threads stood still during a call, and how long that took."""
    beats: list[float] = []
    done = threading.Event()

    def beat() -> None:
        while not done.is_set():
            beats.append(time.perf_counter())
            time.sleep(0.001)

    heart = threading.Thread(target=beat)
    heart.start()
    while not beats:
        time.sleep(0.001)
    begin = time.perf_counter()
    flat(case.call(*tensors))
    end = time.perf_counter()
    done.set()
    heart.join()
    inside = [begin, *(beat for beat in beats if begin < beat < end), end]
    return max(b - a for a, b in itertools.pairwise(inside)), end - begin


@each_case
def test_other_python_threads_go_on_during_a_call(case):
    tensors = case.batch(range(8), _dtypes(case)[0])
    axes = case.image_axis if case.image_axis is not None else (0,) * len(tensors)
    with torch_threads(1):
        for _ in range(16):
            begin = time.thread_time()
            flat(case.call(*tensors))
            if time.thread_time() - begin > 0.1:
                break
            tensors = [
                t if axis is None else torch.cat([t, t], axis)
                for t, axis in zip(tensors, axes, strict=True)
            ]
        silences = []
        for _ in range(8):  # on a busy machine a thread may have to wait for a processor
            silence, length = _longest_silence(case, tensors)
            if silence < 0.5 * length:
                return
            silences.append((silence, length))
    pytest.fail(f"other threads stood still, for seconds of seconds: {silences}")


@each_differentiable
def test_a_second_derivative_raises(case, device):
    leaves = [
        t.requires_grad_(i in case.gradients)
        for i, t in enumerate(case.tensors(0, device, case.dtypes[0]))
    ]
    total = sum(r.square().sum() for r in flat(case.call(*leaves)) if r.requires_grad)
    for i in case.gradients:
        (first,) = torch.autograd.grad(total, leaves[i], create_graph=True, retain_graph=True)
        with pytest.raises(RuntimeError, match="no gradient"):
            torch.autograd.grad((first * first).sum(), leaves[i], retain_graph=True)


# torch's own import of its forward-mode formulas warns.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@each_differentiable
def test_a_forward_mode_derivative_is_refused(case, device):
    tensors = case.tensors(0, device, case.dtypes[0])
    for i in case.gradients:
        with pytest.raises(RuntimeError, match=f"{case.op} has no forward-mode derivative"):
            torch.func.jvp(
                lambda t, i=i: flat(case.call(*tensors[:i], t, *tensors[i + 1 :])),
                (tensors[i],),
                (tensors[i],),
            )


@pytest.mark.parametrize("case", [c for c in CASES if c.dtypes and not c.gradients], ids=_id)
def test_a_gradient_that_there_is_not_is_refused(case, device):
    tensors = case.tensors(0, device, case.dtypes[0])
    for i, tensor in enumerate(tensors):
        if not tensor.is_floating_point():
            continue
        leaves = [t.detach().requires_grad_(i == j) for j, t in enumerate(tensors)]
        floating = [r for r in flat(case.call(*leaves)) if r.is_floating_point()]
        for result in floating:
            assert result.requires_grad, f"the gradient of input {i} is dropped in silence"
            with pytest.raises(RuntimeError, match="no gradient"):
                result.sum().backward()


@pytest.mark.parametrize("op", sorted(OPS))
def test_at_least_thirty_bad_calls_are_tried(op):
    tried = [bad.what for name, bad in BAD_CALLS if name == op]
    assert len(set(tried)) == len(tried) >= 30


@pytest.mark.parametrize("which", ["native", "reference"])
@pytest.mark.parametrize(("op", "bad"), BAD_CALLS, ids=_id)
def test_a_bad_call_is_refused_by_name(op, bad, which):
    with backend(which), pytest.raises(bad.error, match=rf"^{re.escape(bad.names)}(\W|$)"):
        bad.call()


@pytest.mark.slow
@pytest.mark.parametrize("op", case_modules())
def test_the_last_of_two_to_the_31_elements_is_right(op):
    large = case_modules()[op].large
    if isinstance(large, str):
        pytest.skip(large)
    large()


def _on_gpu(case: OpCase, seed: int, dtype: torch.dtype | None) -> list[Tensor]:
    return case.tensors(seed, "cuda", dtype)


def _fill(tensors: Sequence[Tensor], case: OpCase, seed: int, dtype: torch.dtype | None) -> None:
    with torch.no_grad():
        for tensor, other in zip(tensors, _on_gpu(case, seed, dtype), strict=True):
            tensor.copy_(other)


@pytest.mark.gpu
@each_case_and_dtype
def test_gpu_runs_a_call(case, dtype):
    """One call and its gradients: what compute-sanitizer looks at (bench/gpu.sh)."""
    outcome(case, _on_gpu(case, 0, dtype))
    torch.cuda.synchronize()


@pytest.mark.gpu
@each_case_and_dtype
def test_gpu_repeats_bit_for_bit(case, dtype):
    tensors = _on_gpu(case, 0, dtype)
    wanted = outcome(case, tensors)
    for _ in range(20):
        assert not differences(outcome(case, tensors), wanted)


@pytest.mark.gpu
@each_case_and_dtype
def test_a_captured_graph_replays_with_new_numbers(case, dtype):
    tensors = _on_gpu(case, 0, dtype)
    upstream = upstream_of(case, tensors)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            outcome(case, tensors, upstream)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = outcome(case, tensors, upstream)
    for seed in (1, 2):
        _fill(tensors, case, seed, dtype)
        graph.replay()
        torch.cuda.synchronize()
        wanted = outcome(case, _on_gpu(case, seed, dtype), upstream)
        assert not differences(captured, wanted)


@pytest.mark.gpu
@each_case
def test_a_call_waits_for_its_own_stream(case):
    dtype = _dtypes(case)[0]
    wanted = outcome(case, _on_gpu(case, 1, dtype))
    tensors, news = _on_gpu(case, 0, dtype), _on_gpu(case, 1, dtype)
    upstream = upstream_of(case, tensors)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(100_000_000)  # a kernel on another stream would see the old numbers
        for tensor, new in zip(tensors, news, strict=True):
            tensor.copy_(new)
        found = outcome(case, tensors, upstream)
    side.synchronize()
    assert not differences(found, wanted)


@pytest.mark.gpu
@each_case
def test_a_call_does_not_wait_for_the_gpu(case):
    tensors = _on_gpu(case, 0, _dtypes(case)[0])
    upstream = upstream_of(case, tensors)
    outcome(case, tensors, upstream)  # takes the memory that the next call takes over
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)
    busy = torch.cuda.Event()
    busy.record()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = outcome(case, tensors, upstream)
        assert not busy.query(), "the call came back only when the GPU had nothing left to do"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found


@pytest.mark.gpu
@each_case
def test_tensors_on_another_gpu_than_the_current(case):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs a second GPU")
    dtype = _dtypes(case)[0]
    wanted = outcome(case, case.tensors(0, "cuda:1", dtype))
    with torch.cuda.device(0):
        found = outcome(case, case.tensors(0, "cuda:1", dtype))
        assert torch.cuda.current_device() == 0
    assert not differences(found, wanted)
    first = outcome(case, case.tensors(0, "cuda:0", dtype))
    assert not differences([t.cpu() for t in found], [t.cpu() for t in first])
