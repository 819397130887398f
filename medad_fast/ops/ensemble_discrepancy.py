"""How far two ensembles of reconstructions disagree at each pixel: the maps of DDAD.

Source: Cai et al., "Dual-distribution discrepancy with self-supervised refinement for anomaly
detection in medical images", Medical Image Analysis 86 (2023) 102794: intra-discrepancy,
inter-discrepancy and ensemble reconstruction error, and their form for AE-U, networks that predict
a log-variance beside each pixel (Mao et al., "Abnormality detection in chest X-ray images using
uncertainty prediction autoencoders", MICCAI 2020).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medad_fast.errors import InputError
from medad_fast.ops import _native
from medad_fast.ops._arguments import (
    check_kind,
    check_shape,
    check_tensor,
    compute_dtype,
    one_dtype,
)


class EnsembleDiscrepancy(NamedTuple):
    """The maps of DDAD, ``(B, C, H, W)`` each."""

    inter: Tensor
    intra: Tensor
    reconstruction: Tensor | None


def ensemble_discrepancy(
    unknown: Tensor,
    normal: Tensor,
    *,
    image: Tensor | None = None,
    log_variance: Tensor | None = None,
) -> EnsembleDiscrepancy:
    """DDAD's three maps in one pass over both ensembles.

    Args:
        unknown: reconstructions by the networks trained on normal and unlabeled images (UDM),
            ``(K, B, C, H, W)``; float32, float64, float16 or bfloat16, any strides (images that are
            not contiguous are copied first).
        normal: those by the networks trained on normal images only (NDM); likewise, with a K of
            its own.
        image: what was reconstructed, ``(B, C, H, W)``.
        log_variance: what AE-U networks predict beside ``normal``, of its shape. All maps are then
            relative to the predicted deviation: with ``v = log_variance.exp().mean(0)``, ``inter``
            and ``intra`` are divided by ``v.sqrt()``, ``reconstruction`` by ``v``. No value
            overflows on the way.

    Returns:
        ``inter``: ``|unknown.mean(0) - normal.mean(0)|``, in the images' unit.
        ``intra``: ``normal.std(0)``, unbiased, in the images' unit; NaN for a single member.
        ``reconstruction``: ``(image - normal.mean(0)) ** 2``, or None without ``image``.
        float64 for float64 inputs, else float32. NaN and infinite inputs give what these formulas
        give; a log-variance of infinity gives 0, one of minus infinity infinity (NaN where the map
        was 0).

    Raises:
        InputError: shapes, dtypes or devices that do not fit each other, or an ensemble without
            members.
        TypeError: an argument that is not a tensor.

    There is no gradient, since DDAD scores with frozen networks: asking for one raises
    RuntimeError. Under autocast nothing is cast down: where dtypes differ, all tensors are cast to
    the widest. The result does not depend on the number of threads, the layout or the rest of the
    batch.
    """
    tensors = one_dtype(_checked(unknown, normal, image, log_variance))
    unknown, normal = tensors[:2]
    image = None if image is None else tensors[2]
    log_variance = None if log_variance is None else tensors[-1]
    inter, intra, *reconstruction = _maps(unknown, normal, image, log_variance).unbind()
    return EnsembleDiscrepancy(inter, intra, reconstruction[0] if reconstruction else None)


def ensemble_discrepancy_reference(
    unknown: Tensor,
    normal: Tensor,
    *,
    image: Tensor | None = None,
    log_variance: Tensor | None = None,
) -> EnsembleDiscrepancy:
    """The same in plain torch: what the kernels are tested against."""
    with torch.autocast(normal.device.type, enabled=False):
        if normal.dtype != torch.float64:
            unknown, normal = unknown.float(), normal.float()
            image = None if image is None else image.float()
            log_variance = None if log_variance is None else log_variance.float()
        mean = normal.mean(0)
        inter = (unknown.mean(0) - mean).abs()
        # For one member, and for no pixels, torch warns of what is defined here.
        defined = len(normal) > 1 and normal.numel() > 0
        intra = normal.std(0) if defined else torch.full_like(mean, torch.nan)
        gap = None if image is None else image - mean
        if log_variance is not None:
            # Through logsumexp, since the log-variance has no bounds.
            variance = torch.logsumexp(log_variance, 0) - math.log(len(log_variance))
            scale = torch.exp(-0.5 * variance)
            inter, intra = inter * scale, intra * scale
            gap = None if gap is None else gap * scale
        return EnsembleDiscrepancy(inter, intra, None if gap is None else gap.square())


def _checked(
    unknown: Tensor, normal: Tensor, image: Tensor | None, log_variance: Tensor | None
) -> list[Tensor]:
    """Those that are there, in this order."""
    check_tensor(unknown, "unknown", "(K, B, C, H, W)")
    check_tensor(normal, "normal", "(K, B, C, H, W)")
    for name, ensemble in (("unknown", unknown), ("normal", normal)):
        if ensemble.shape[0] == 0:
            raise InputError(f"{name}: at least one member expected, got {tuple(ensemble.shape)}")
    member = unknown.shape[1:]
    if normal.shape[1:] != member:
        raise InputError(
            f"normal: members of {tuple(member)} expected, as in unknown, "
            f"got {tuple(normal.shape[1:])}"
        )
    check_kind(normal, "normal", unknown, "unknown")
    tensors = [unknown, normal]
    if image is not None:
        check_tensor(image, "image", "(B, C, H, W)")
        check_shape(image, "image", member, "a member of normal")
        check_kind(image, "image", unknown, "unknown")
        tensors.append(image)
    if log_variance is not None:
        check_tensor(log_variance, "log_variance", "(K, B, C, H, W)")
        check_shape(log_variance, "log_variance", normal.shape, "normal")
        check_kind(log_variance, "log_variance", unknown, "unknown")
        tensors.append(log_variance)
    return tensors


def _shapes(unknown: Tensor, normal: Tensor, image: Tensor | None, *unused: Any) -> Tensor:
    maps = 2 if image is None else 3
    return normal.new_empty((maps, *normal.shape[1:]), dtype=compute_dtype(normal))


def _contiguous_images(tensor: Tensor) -> Tensor:
    if tensor.is_contiguous():
        return tensor
    expected = 1
    for size, stride in zip(tensor.shape[:-4:-1], tensor.stride()[:-4:-1], strict=True):
        if stride != expected and size != 1:
            return tensor.contiguous()
        expected *= size
    return tensor


def _kernel(unknown: Tensor, normal: Tensor, *optional: Tensor | None) -> Tensor:
    out = _shapes(unknown, normal, *optional)
    _native.call(
        _native.kernels.ensemble_discrepancy,
        out.device,
        _contiguous_images(unknown),
        _contiguous_images(normal),
        *(None if tensor is None else _contiguous_images(tensor) for tensor in optional),
        out,
    )
    return out


def _reference(
    unknown: Tensor, normal: Tensor, image: Tensor | None, log_variance: Tensor | None
) -> Tensor:
    maps = ensemble_discrepancy_reference(unknown, normal, image=image, log_variance=log_variance)
    return torch.stack([each for each in maps if each is not None])


_maps = _native.register(
    "ensemble_discrepancy(Tensor unknown, Tensor normal, Tensor? image, Tensor? log_variance) "
    "-> Tensor",
    kernel=_kernel,
    shapes=_shapes,
    reference=_reference,
)
