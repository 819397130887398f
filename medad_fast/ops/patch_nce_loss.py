"""PatchNCE: each patch must find its own counterpart among the patches of its image.

Source: Park et al., "Contrastive learning for unpaired image-to-image translation" (CUT), 2020,
equation 3, and the authors' code (models/patchnce.py). PatchCL-AE uses it between an image and its
reconstruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from medad_fast.errors import InputError
from medad_fast.ops import _native, _patch_nce_loss
from medad_fast.ops._arguments import check_alike, check_temperature, check_tensor, one_dtype

__all__ = ["patch_nce_loss", "patch_nce_loss_reference"]

Negatives = Literal["image", "batch"]
Reduction = Literal["mean", "sum", "none"]

_CUT_FILL = -10.0  # what CUT writes over the diagonal, before dividing by the temperature


@overload
def patch_nce_loss(
    query: Tensor,
    key: Tensor,
    *,
    temperature: float = ...,
    negatives: Negatives = ...,
    detach_key: bool = ...,
    reduction: Reduction = ...,
    exact_cut: bool = ...,
) -> Tensor: ...
@overload
def patch_nce_loss(
    query: Sequence[Tensor],
    key: Sequence[Tensor],
    *,
    temperature: float = ...,
    negatives: Negatives = ...,
    detach_key: bool = ...,
    reduction: Literal["mean", "sum"] = ...,
    exact_cut: bool = ...,
) -> Tensor: ...
@overload
def patch_nce_loss(
    query: Sequence[Tensor],
    key: Sequence[Tensor],
    *,
    temperature: float = ...,
    negatives: Negatives = ...,
    detach_key: bool = ...,
    reduction: Literal["none"],
    exact_cut: bool = ...,
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
    queries, keys, single = _checked(query, key, temperature, negatives, reduction)
    for name, flag in (("detach_key", detach_key), ("exact_cut", exact_cut)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name}: bool expected, got {type(flag).__name__}")
    if not _native.use_native("patch_nce_loss", queries[0]):
        return _reference(queries, keys, single, temperature, negatives, detach_key, reduction,
                          exact_cut)  # fmt: skip
    if not torch.compiler.is_compiling():
        dual: Any = forward_ad.unpack_dual  # torch gives it no types
        for tensor in (*queries, *keys):  # torch would drop the tangent and say nothing
            if dual(tensor).tangent is not None:
                raise RuntimeError("patch_nce_loss has no forward-mode derivative; use backward")
    if detach_key:
        keys = [k.detach() for k in keys]
    options = (float(temperature), negatives == "batch", exact_cut)
    if reduction == "none":
        rows: list[Tensor] = torch.ops.medad_fast.patch_nce_loss_rows(queries, keys, *options)
        return rows[0] if single else rows
    return _patch_nce_loss.loss(queries, keys, (*options, reduction == "mean"))


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
    queries, keys, single = _checked(query, key, temperature, negatives, reduction)
    return _reference(
        queries, keys, single, temperature, negatives, detach_key, reduction, exact_cut
    )


def _reference(
    queries: list[Tensor],
    keys: list[Tensor],
    single: bool,
    temperature: float,
    negatives: Negatives,
    detach_key: bool,
    reduction: Reduction,
    exact_cut: bool,
) -> Tensor | list[Tensor]:
    rows = [
        _reference_rows(
            q, k.detach() if detach_key else k, temperature, negatives == "batch", exact_cut
        )
        for q, k in zip(queries, keys, strict=True)
    ]
    if reduction == "none":
        return rows[0] if single else rows
    return torch.stack([r.mean() if reduction == "mean" else r.sum() for r in rows]).sum()


def _reference_rows(
    query: Tensor, key: Tensor, temperature: float, batch_negatives: bool, exact_cut: bool
) -> Tensor:
    if query.dtype in (torch.float16, torch.bfloat16):
        query, key = query.float(), key.float()
    shape = query.shape[:2]
    if batch_negatives:
        query, key = query.flatten(0, 1)[None], key.flatten(0, 1)[None]
    groups, size = query.shape[:2]
    logits = torch.bmm(query, key.mT)
    target = torch.arange(size, device=query.device)
    if exact_cut:
        diagonal = torch.eye(size, dtype=torch.bool, device=query.device)
        positive = logits.diagonal(dim1=1, dim2=2)[..., None]
        logits = torch.cat([positive, logits.masked_fill(diagonal, _CUT_FILL)], 2)
        target = torch.zeros_like(target)
    logits = logits / temperature
    rows = F.cross_entropy(logits.flatten(0, 1), target.repeat(groups), reduction="none")
    return rows.reshape(shape)


def _checked(
    query: Any, key: Any, temperature: Any, negatives: Any, reduction: Any
) -> tuple[list[Tensor], list[Tensor], bool]:
    """Both sides as lists of layers, of one dtype and device, and whether it was one tensor."""
    single = isinstance(query, Tensor)
    queries = _layers(query, "query")
    keys = _layers(key, "key")
    if single != isinstance(key, Tensor) or len(queries) != len(keys):
        raise InputError(
            f"key: {'one tensor' if single else f'a sequence of {len(queries)}'} expected, as query"
            f" is, got {'one tensor' if isinstance(key, Tensor) else f'a sequence of {len(keys)}'}"
        )
    check_temperature(temperature)
    if negatives not in ("image", "batch"):
        raise InputError(f"negatives: 'image' or 'batch' expected, got {negatives!r}")
    if reduction not in ("mean", "sum", "none"):
        raise InputError(f"reduction: 'mean', 'sum' or 'none' expected, got {reduction!r}")
    for layer, (q, k) in enumerate(zip(queries, keys, strict=True)):
        place = "" if single else f"[{layer}]"
        if q.shape[2] < 1:
            raise InputError(f"query{place}: D of at least 1 expected, got {tuple(q.shape)}")
        if k.shape != q.shape:
            raise InputError(
                f"key{place}: {tuple(q.shape)} expected, as query{place}, got {tuple(k.shape)}"
            )
        for name, tensor in (("query", q), ("key", k)):
            check_alike(tensor, f"{name}{place}", queries[0], "query" if single else "query[0]")
    tensors = one_dtype([*queries, *keys])
    return tensors[: len(queries)], tensors[len(queries) :], single


def _layers(value: Any, name: str) -> list[Tensor]:
    single = isinstance(value, Tensor)
    if not single and not isinstance(value, (list, tuple)):
        raise TypeError(
            f"{name}: tensor or sequence of tensors expected, got {type(value).__name__}"
        )
    layers = [value] if single else list(value)
    if not layers:
        raise InputError(f"{name}: at least one layer expected, got an empty sequence")
    for layer, tensor in enumerate(layers):
        check_tensor(tensor, name if single else f"{name}[{layer}]", "(B, S, D)")
    return layers
