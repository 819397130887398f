"""The one door to the compiled kernels: declaring ops, choosing what runs them, calling kernels."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from medad_fast.errors import InputError

try:
    from medad_fast import _C
except ImportError as error:
    raise ImportError(
        "the compiled part of medad_fast (medad_fast._C) is missing or does not load: "
        f"{error}. Install the package with `pip install .` from its folder."
    ) from error

kernels = _C
"""The compiled functions, by the name of the op."""

Backend = Literal["native", "reference"]
P = ParamSpec("P")
R = TypeVar("R")

_new_library: Any = torch.library.Library  # torch gives it no types
_LIBRARY = _new_library("medad_fast", "DEF")
_DTYPE_CODE = {getattr(torch, name): code for name, code in kernels.dtypes.items()}
_CPU = torch.device("cpu")
_warned: set[str] = set()


def _checked_backend(name: str, argument: str) -> Backend:
    if name in ("native", "reference"):
        return "native" if name == "native" else "reference"
    raise InputError(f"{argument}: 'native' or 'reference' expected, got {name!r}")


# A plain global, because torch.compile can guard on it; a context variable breaks the graph.
_backend: Backend = _checked_backend(os.environ.get("MEDAD_BACKEND", "native"), "MEDAD_BACKEND")


@contextmanager
def backend(name: Backend) -> Iterator[None]:
    """Run the fused ops with the compiled kernels, or with their plain torch reference.

    Args:
        name: ``"native"`` or ``"reference"``; holds for the whole process until the block ends.

    Raises:
        InputError: any other name.
    """
    global _backend
    previous, _backend = _backend, _checked_backend(name, "backend")
    try:
        yield
    finally:
        _backend = previous


def _view(value: Any) -> Any:
    """A tensor as the tuple that ``csrc/core/module.cpp`` reads; lists of tensors likewise."""
    if isinstance(value, Tensor):
        return (value.data_ptr(), _DTYPE_CODE[value.dtype], tuple(value.shape), value.stride())
    if isinstance(value, (list, tuple)):
        return [_view(item) for item in value]
    return value


def call(kernel: Callable[..., None], device: torch.device, *arguments: Any) -> None:
    """Run ``kernel`` on ``device`` and its current stream; tensors must live until it returns.

    An absent tensor is None. Only the kernel of a registered op may call this: anywhere else
    tensors may be fake and have no memory.
    """
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        where = (index, torch.cuda.current_stream(device).cuda_stream, 1)
    else:
        where = (-1, 0, torch.get_num_threads())
    try:
        kernel(*[_view(argument) for argument in arguments], where)
    except ValueError as error:  # numbers that only the kernels look at
        raise InputError(str(error)) from None


def declare(
    schema: str,
    *,
    kernel: Callable[..., Any],
    shapes: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    save: Callable[..., None] | None = None,
) -> Any:
    """Tell torch of ``medad_fast::<schema>``, and nobody else.

    Args:
        schema: name, arguments and results.
        kernel: computes the results on the CPU and on CUDA.
        shapes: the results without their numbers, for tracing.
        backward, save: the gradient, as ``torch.library.register_autograd`` takes it. Without one,
            asking for it raises; left unregistered, torch would warn once and carry on.
    """
    name = schema.partition("(")[0]
    qualified = f"medad_fast::{name}"
    _LIBRARY.define(schema)
    for key in ("CPU", "CUDA"):
        _LIBRARY.impl(name, kernel, key)
    torch.library.register_fake(qualified, shapes, lib=_LIBRARY)

    def refuse(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(f"{qualified} has no gradient; detach its inputs")

    torch.library.register_autograd(qualified, backward or refuse, setup_context=save, lib=_LIBRARY)
    return getattr(torch.ops.medad_fast, name).default


def register(
    schema: str,
    *,
    kernel: Callable[..., Any],
    shapes: Callable[..., Any],
    reference: Callable[P, R],
    backward: Callable[..., Any] | None = None,
    save: Callable[..., None] | None = None,
    op: str | None = None,
) -> Callable[P, R]:
    """:func:`declare` an op that has a reference.

    Args:
        reference: the same in plain torch. Runs where no kernel is compiled for the device of the
            first argument, which is warned of once, and where it is preferred (:func:`backend`).
        op: the public function, where its name is not the schema's.

    Returns:
        The op as a function that takes its arguments by position. The first is a tensor, or a list
        of them.
    """
    native = declare(schema, kernel=kernel, shapes=shapes, backward=backward, save=save)
    name, plain = op or schema.partition("(")[0], cast("Callable[..., R]", reference)

    def run(*arguments: Any) -> R:
        if not _runs_kernel(name, arguments[0]):
            return plain(*arguments)
        if backward is not None:
            _refuse_tangents(name, arguments)
        result: R = native(*arguments)
        return result

    return cast("Callable[P, R]", run)


def register_with_gradient(
    schema: str,
    *,
    kernel: Callable[..., Any],
    shapes: Callable[..., Any],
    reference: Callable[P, Tensor],
    stacked: bool = False,
) -> Callable[P, Tensor]:
    """Declare an op whose result is a scalar, by a kernel that forms its gradient on the way.

    Backward multiplies what was formed by what comes from above. A second derivative raises.

    Args:
        schema: name and arguments. Those that come first and are tensors, or lists of as many
            tensors each, get a gradient.
        kernel: takes the arguments, and for each of the first whether its gradient is wanted.
            Returns the value and the list of all gradients that are wanted; where ``stacked``, one
            tensor of the gradients for all, of no elements where none is wanted.
        shapes: the same without the numbers, for tracing.
        reference: the value in plain torch, as for :func:`register`.

    Returns:
        The op as a function that takes its arguments by position.
    """
    name, _, rest = schema.removesuffix(")").partition("(")
    listed = rest.split(", ")
    sides = [each for each in listed if each.startswith("Tensor")]
    count, lists = len(sides), sides[0].startswith("Tensor[]")
    formed_type = "Tensor" if stacked else "Tensor[]"

    def flat(arguments: Sequence[Any]) -> list[Tensor]:
        return [t for side in arguments[:count] for t in (side if lists else [side])]

    def grouped(tensors: Sequence[Any]) -> list[Any]:
        layers = len(tensors) // count
        parts = [list(tensors[side * layers :][:layers]) for side in range(count)]
        return parts if lists else [tensor for (tensor,) in parts]

    def keep(ctx: Any, tensors: Sequence[Tensor], formed: Any, wanted: Sequence[bool]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *([formed] if stacked else formed))
        ctx.wanted = [wish for wish in wanted for _ in range(len(tensors) // count)]

    def gradients(ctx: Any, upstream: Tensor | None) -> list[Tensor | None]:
        """For each of the tensors, None where it is not wanted."""
        if upstream is None or True not in ctx.wanted:
            return [None] * len(ctx.wanted)
        saved = ctx.saved_tensors
        tensors, parts = saved[: len(ctx.wanted)], saved[len(ctx.wanted) :]
        formed = parts[0] if stacked else list(parts)
        if torch.is_grad_enabled():  # as an op that refuses to be differentiated once more
            formed = scale(formed, upstream, *grouped(tensors))
        elif not _is_one(upstream):
            formed = scaled(formed, upstream)
        if stacked:
            return [formed[side] if wish else None for side, wish in enumerate(ctx.wanted)]
        following = iter(formed)
        return [next(following) if wish else None for wish in ctx.wanted]

    def scaled(formed: Any, upstream: Tensor, *inputs: Any) -> Any:
        return _each(lambda gradient: gradient * upstream.to(gradient.dtype), formed)

    def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.mark_non_differentiable(*([output[1]] if stacked else output[1]))
        keep(ctx, flat(inputs), output[1], inputs[-count:])

    def backward(ctx: Any, upstream: Tensor | None, *unused: Any) -> Any:
        return *grouped(gradients(ctx, upstream)), *(None for _ in listed)

    def forward(ctx: Any, arguments: Any, wanted: list[bool], *tensors: Tensor) -> Tensor:
        value: Tensor
        value, formed = native(*arguments, *wanted)
        keep(ctx, tensors, formed, wanted)
        return value

    def backward_of_forward(ctx: Any, upstream: Tensor | None) -> Any:
        return None, None, *gradients(ctx, upstream)

    wishes = ", ".join(f"bool to_{side.split()[1]}" for side in sides)
    native = declare(
        f"{name}({rest}, {wishes}) -> (Tensor value, {formed_type} formed)",
        kernel=kernel,
        shapes=shapes,
        backward=backward,
        save=save,
    )
    scale = declare(
        f"{name}_scale({formed_type} formed, Tensor upstream, {', '.join(sides)}) -> {formed_type}",
        kernel=scaled,
        shapes=lambda formed, *others: _each(torch.empty_like, formed),
    )
    # The same derivative at half the overhead; compilers take the registered one.
    static = {"forward": staticmethod(forward), "backward": staticmethod(backward_of_forward)}
    function: Any = type(name, (torch.autograd.Function,), static)
    plain = cast("Callable[..., Tensor]", reference)

    def run(*arguments: Any) -> Tensor:
        if not _runs_kernel(name, arguments[0]):
            return plain(*arguments)
        _refuse_tangents(name, arguments)
        learning = torch.is_grad_enabled()
        wanted = [
            learning and any([t.requires_grad for t in (side if lists else [side])])
            for side in arguments[:count]
        ]
        value: Tensor
        if True in wanted and not torch.compiler.is_compiling():
            value = function.apply(arguments, wanted, *flat(arguments))
        else:
            value = native(*arguments, *wanted)[0]
        return value

    return cast("Callable[P, Tensor]", run)


def _runs_kernel(op: str, first: Any) -> bool:
    """Whether the kernel of ``op`` should run, and there is one where its first argument lies."""
    if _backend == "reference":
        return False
    device = (first[0] if isinstance(first, list) else first).device
    if device == _CPU:  # spares the word, which takes longer
        return True
    kind = device.type
    if kind in ("cpu", "meta") or (kind == "cuda" and kernels.with_cuda):
        return True  # of meta tensors the registered op tells the shapes
    if not torch.compiler.is_compiling() and op not in _warned:
        _warned.add(op)
        reason = f" ({kernels.cuda_reason})" if kind == "cuda" else ""
        text = f"{op}: no compiled kernel for {kind} tensors{reason}; plain torch is used"
        frame, depth = sys._getframe(), 1
        while frame.f_back and frame.f_code.co_filename.startswith(str(Path(__file__).parent)):
            frame, depth = frame.f_back, depth + 1  # to the line that calls the public function
        warnings.warn(text, RuntimeWarning, stacklevel=depth)
    return False


def _refuse_tangents(op: str, arguments: Sequence[Any]) -> None:
    """Of forward-mode derivatives, which torch would drop and say nothing."""
    nobody_differentiates_forwards = getattr(forward_ad, "_current_level", 0) < 0
    if nobody_differentiates_forwards or torch.compiler.is_compiling():
        return
    dual: Any = forward_ad.unpack_dual  # torch gives it no types
    for argument in arguments:
        for tensor in argument if isinstance(argument, list) else [argument]:
            if isinstance(tensor, Tensor) and dual(tensor).tangent is not None:
                raise RuntimeError(f"{op} has no forward-mode derivative; use backward")


def _is_one(upstream: Tensor) -> bool:
    """Whether a look at the number, which is free on the CPU, spares the product with it."""
    plain = type(upstream) is Tensor and not torch.compiler.is_compiling()
    if not plain or upstream.device.type != "cpu":
        return False
    try:
        return upstream.item() == 1.0
    except RuntimeError:  # inside vmap, where the number is many
        return False


def _each(function: Callable[[Tensor], Tensor], tensors: Tensor | list[Tensor]) -> Any:
    """Of one tensor, or of each in a list."""
    return function(tensors) if isinstance(tensors, Tensor) else [function(t) for t in tensors]


def build_info() -> dict[str, Any]:
    """What the compiled part was built with and uses.

    Returns:
        ``version``; ``cpu``: the instruction set in use (``"baseline"``, ``"avx2"`` or
        ``"avx512"``); ``cuda``: whether CUDA kernels are in it; ``cuda_archs``: the architectures
        they were compiled for; ``cuda_reason``: why there are none, else ``None``; ``openmp``.
    """
    archs: Sequence[str] = kernels.cuda_archs.split()
    return {
        "version": kernels.version,
        "cpu": kernels.cpu_level(),
        "cuda": kernels.with_cuda,
        "cuda_archs": list(archs),
        "cuda_reason": kernels.cuda_reason or None,
        "openmp": kernels.openmp,
    }
