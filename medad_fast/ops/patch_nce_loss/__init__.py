"""PatchNCE: each patch must find its own counterpart among the patches of its image.

Source: Park et al., "Contrastive learning for unpaired image-to-image translation" (CUT), 2020,
equation 3, and the authors' code (models/patchnce.py). PatchCL-AE uses it between an image and its
reconstruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

from torch import Tensor

from medad_fast.errors import InputError
from medad_fast.ops._arguments import (
    check_alike,
    check_bool,
    check_choice,
    check_kind,
    check_positive,
    check_tensor,
    checked_layers,
    one_dtype,
)
from medad_fast.ops.patch_nce_loss import native, reference

__all__ = ["patch_nce_loss", "patch_nce_loss_reference"]

Negatives = Literal["image", "batch"]
Reduction = Literal["mean", "sum", "none"]


class _Options(TypedDict, total=False):
    temperature: float
    negatives: Negatives
    detach_key: bool
    exact_cut: bool


@overload
def patch_nce_loss(
    query: Tensor, key: Tensor, *, reduction: Reduction = ..., **options: Unpack[_Options]
) -> Tensor: ...
@overload
def patch_nce_loss(
    query: Sequence[Tensor],
    key: Sequence[Tensor],
    *,
    reduction: Literal["mean", "sum"] = ...,
    **options: Unpack[_Options],
) -> Tensor: ...
@overload
def patch_nce_loss(
    query: Sequence[Tensor],
    key: Sequence[Tensor],
    *,
    reduction: Literal["none"],
    **options: Unpack[_Options],
) -> list[Tensor]: ...
def patch_nce_loss(
    query: Tensor | Sequence[Tensor],
    key: Tensor | Sequence[Tensor],
    *,
    temperature: float = 0.07,
    negatives: Negatives = "image",
    detach_key: bool = True,
    reduction: Reduction = "mean",
    exact_cut: bool = False,
) -> Tensor | list[Tensor]:
    """``-log softmax_j(<query_i, key_j> / temperature)[i]`` over the patches ``i`` of each image.

    The gradient is formed together with the loss, so that no ``S x S`` matrix is kept. Several
    layers go in one call, as sequences, and on a GPU in one launch.

    Args:
        query: embeddings ``(B, S, D)``, usually of unit length (they are taken as given), in
            float32, float64, float16 or bfloat16; or a sequence of them, one a layer, whose ``B``,
            ``S`` and ``D`` may differ.
        key: the embeddings to find, with the shapes, dtype and device of ``query``.
        temperature: positive; CUT's 0.07 by default.
        negatives: ``"image"``: the other patches of the same image; ``"batch"``: of all images.
        detach_key: whether the keys are constants, as in CUT.
        reduction: ``"mean"`` or ``"sum"`` over the rows of a layer, then the sum over layers; or
            ``"none"``.
        exact_cut: add CUT's extra column, whose logit is ``-10 / temperature``. It is nothing at
            small temperatures and counts from about 0.5 on.

    Returns:
        A scalar; with ``reduction="none"`` the rows ``(B, S)``, or a list of them, one a layer.
        float32 for 16-bit inputs, else of their dtype. The mean of no rows is NaN, as in torch.

    Raises:
        TypeError: an argument of the wrong type.
        InputError: shapes, dtypes, devices or layouts that differ or do not fit, or an unknown
            option.

    16-bit inputs are computed in float32. Under autocast the op runs in the widest dtype among its
    inputs. The same inputs give the same bits, on a CPU with any number of threads. A second
    derivative raises.
    """
    check_bool(detach_key, "detach_key")
    check_bool(exact_cut, "exact_cut")
    return _run(native, query, key, temperature, negatives, detach_key, reduction, exact_cut)


def patch_nce_loss_reference(
    query: Tensor | Sequence[Tensor],
    key: Tensor | Sequence[Tensor],
    *,
    temperature: float = 0.07,
    negatives: Negatives = "image",
    detach_key: bool = True,
    reduction: Reduction = "mean",
    exact_cut: bool = False,
) -> Tensor | list[Tensor]:
    """The same in plain torch: what the kernels are tested against and timed against."""
    return _run(reference, query, key, temperature, negatives, detach_key, reduction, exact_cut)


def _run(
    forms: Any,
    query: Any,
    key: Any,
    temperature: float,
    negatives: Negatives,
    detach_key: bool,
    reduction: Reduction,
    exact_cut: bool,
) -> Tensor | list[Tensor]:
    """The loss or the rows by ``forms.loss`` and ``forms.rows``."""
    queries, keys, single = _checked(query, key, temperature, negatives, reduction)
    if detach_key:
        keys = [k.detach() for k in keys]
    options = (float(temperature), negatives == "batch", exact_cut)
    if reduction == "none":
        rows: list[Tensor] = forms.rows(queries, keys, *options)
        return rows[0] if single else rows
    loss: Tensor = forms.loss(queries, keys, *options, reduction == "mean")
    return loss


def _checked(
    query: Any, key: Any, temperature: Any, negatives: Any, reduction: Any
) -> tuple[list[Tensor], list[Tensor], bool]:
    """Both sides as lists of layers, of one dtype and device, and whether it was one tensor."""
    single = isinstance(query, Tensor)
    queries, keys = _layers(query, "query"), _layers(key, "key")
    if single != isinstance(key, Tensor) or len(queries) != len(keys):
        raise InputError(
            f"key: {'one tensor' if single else f'a sequence of {len(queries)}'} expected, as query"
            f" is, got {'one tensor' if isinstance(key, Tensor) else f'a sequence of {len(keys)}'}"
        )
    check_positive(temperature, "temperature")
    check_choice(negatives, "negatives", ("image", "batch"))
    check_choice(reduction, "reduction", ("mean", "sum", "none"))
    for layer, (q, k) in enumerate(zip(queries, keys, strict=True)):
        place = "" if single else f"[{layer}]"
        if q.shape[2] < 1:
            raise InputError(f"query{place}: D of at least 1 expected, got {tuple(q.shape)}")
        check_alike(k, f"key{place}", q, f"query{place}")
        check_kind(q, f"query{place}", queries[0], "query[0]")
    tensors = one_dtype([*queries, *keys])
    return tensors[: len(queries)], tensors[len(queries) :], single


def _layers(value: Any, name: str) -> list[Tensor]:
    if not isinstance(value, Tensor):
        return checked_layers(value, name, "(B, S, D)", "tensor or sequence of tensors")
    check_tensor(value, name, "(B, S, D)")
    return [value]
