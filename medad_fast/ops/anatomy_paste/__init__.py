"""Synthetic anomalies: a patch pasted through a blurred shape that a mask of the anatomy gates.

Source: Sato et al., "Anatomy-aware self-supervised learning for anomaly detection in chest
radiographs" (AnatPaste), iScience 2023; Cai et al., "Dual-distribution discrepancy with
self-supervised refinement" (DDAD-ASR), Med. Image Anal. 2023, for foreign patches. Pillow's blur is
the extended box filter of Gwosdek et al., 2011, three times each way.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from medad_fast.errors import InputError, LimitError
from medad_fast.ops import _native
from medad_fast.ops._arguments import FLOATING, check_bool, check_device, check_shape, check_tensor
from medad_fast.ops.anatomy_paste.params import MAX_SIDE, AnatomyPasteParams
from medad_fast.ops.anatomy_paste.reference import pasted

__all__ = ["AnatomyPasteParams", "PasteResult", "anatomy_paste", "anatomy_paste_reference"]

_TYPES = (torch.uint8, *FLOATING)


class PasteResult(NamedTuple):
    """The images, and how much of the patch each pixel is made of."""

    images: Tensor
    """``(B, C, H, W)``, the type of the input."""
    gate: Tensor
    """``(B, 1, H, W)``, float32 (float64 for float64 images) in [0, 1]; uint8 where exact."""


def anatomy_paste(
    images: Tensor,
    masks: Tensor | None,
    params: AnatomyPasteParams,
    *,
    sources: Tensor | None = None,
    exact: bool = False,
) -> PasteResult:
    """``images * (1 - gate) + patch * gate``, with ``gate = blur(shape * opacity) * mask``.

    The patch is cut from an image, its brightness and contrast jittered; around it lies black, as
    in the published code, so that a wide blur leaves a dark rim. Where the gate is 0 the image is
    copied, whatever the patch holds.

    Args:
        images: ``(B, C, H, W)``, uint8, or float32, float64, float16 or bfloat16 in any range (say
            what black is in ``params``); at most 32768 pixels a side. Any strides.
        masks: ``(B, H, W)``, bool: where the gate may open, and where its centre is drawn from; an
            empty mask does not gate. None: no gating, centres from the whole image.
        params: one row an image, on the images' device.
        sources: ``(N, C, Hs, Ws)``, the images' type and device: where ``params.source_index``
            points to; default: the images.
        exact: follow Pillow's 8-bit arithmetic (uint8 images only): its drawing, its blur with a
            rounding after each pass, its jitter and its composite.

    Returns:
        Fields ``images`` and ``gate``, see :class:`PasteResult`. Without ``exact`` the blur is
        Pillow's without the roundings, 16-bit images are computed in float32, and uint8 images are
        rounded to the nearest grey level.

    Raises:
        InputError: shapes, types, devices or values that do not fit. Values of parameters are
            looked at on the CPU only: a GPU call never waits for them. There, source pixels
            outside their image count as black, and a source index too large as -1.
        TypeError: an argument of another type.

    The result carries no gradient: backward raises RuntimeError. It does not depend on the number
    of threads, the layout or the rest of the batch.
    """
    _check(images, masks, params, sources, exact)
    return PasteResult(
        *_anatomy_paste(images, masks, sources, params.integers, params.reals, exact)
    )


def _check(
    images: Tensor,
    masks: Tensor | None,
    params: AnatomyPasteParams,
    sources: Tensor | None,
    exact: bool,
) -> None:
    _check_images(images, "images")
    check_bool(exact, "exact")
    if exact and images.dtype != torch.uint8:
        raise InputError(f"exact: uint8 images expected where it is True, got {images.dtype}")
    if masks is not None:
        check_tensor(masks, "masks", "(B, H, W)", (torch.bool,))
        check_shape(masks, "masks", (images.shape[0], *images.shape[2:]), "images")
        check_device(masks, "masks", images, "images")
    if not isinstance(params, AnatomyPasteParams):
        raise TypeError(f"params: AnatomyPasteParams expected, got {type(params).__name__}")
    if len(params) != images.shape[0]:
        raise InputError(f"params: {images.shape[0]} rows expected, got {len(params)}")
    check_device(params, "params", images, "images")
    if sources is not None:
        _check_images(sources, "sources")
        check_device(sources, "sources", images, "images")
        found, wanted = ((t.shape[1], t.dtype) for t in (sources, images))
        if found != wanted:
            raise InputError(
                f"sources: {wanted[0]} channels of {wanted[1]} expected, as images, got "
                f"{found[0]} of {found[1]}"
            )
    if params.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_reach(images, params, images if sources is None else sources)


def _check_reach(images: Tensor, params: AnatomyPasteParams, sources: Tensor) -> None:
    *sides, count = params.needs
    if count > sources.shape[0]:
        raise InputError(f"params: source_index below {sources.shape[0]} expected, got {count - 1}")
    for of, needed in ((images, sides[:2]), (sources, sides[2:])):
        if needed[0] > of.shape[2] or needed[1] > of.shape[3]:
            raise InputError(
                f"params: patches inside their source of {of.shape[2]} x {of.shape[3]} expected, "
                f"got one to row {needed[0]} and one to column {needed[1]}"
            )


def _check_images(images: Tensor, name: str) -> None:
    check_tensor(images, name, "(B, C, H, W)", _TYPES)
    if min(images.shape[1:]) < 1:
        raise InputError(
            f"{name}: (B, C, H, W) with at least one channel and pixel expected, got "
            f"{tuple(images.shape)}"
        )
    if max(images.shape[2:]) > MAX_SIDE:
        raise LimitError(
            f"{name}: at most {MAX_SIDE} pixels a side expected, got {tuple(images.shape)}"
        )


def anatomy_paste_reference(
    images: Tensor,
    masks: Tensor | None,
    params: AnatomyPasteParams,
    *,
    sources: Tensor | None = None,
    exact: bool = False,
) -> PasteResult:
    """The same in plain torch: what the kernels are tested against."""
    with torch.autocast(images.device.type, enabled=False):
        return PasteResult(*pasted(images, masks, params, sources, exact))


Optional = Tensor | None


def _reference(
    images: Tensor, masks: Optional, sources: Optional, integers: Tensor, reals: Tensor, exact: bool
) -> PasteResult:
    params = AnatomyPasteParams.packed(integers, reals)
    return anatomy_paste_reference(images, masks, params, sources=sources, exact=exact)


def _shapes(images: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    gate = torch.uint8 if others[-1] else torch.promote_types(torch.float32, images.dtype)
    batch, _, height, width = images.shape
    shape = (batch, 1, height, width)
    return images.new_empty(images.shape), images.new_empty(shape, dtype=gate)


def _kernel(
    images: Tensor, masks: Optional, sources: Optional, integers: Tensor, reals: Tensor, exact: bool
) -> tuple[Tensor, Tensor]:
    out, gate = _shapes(images, exact)
    scratch = None
    if images.is_cuda:
        batch, _, height, width = images.shape
        wide = images.dtype == torch.float64
        size = _native.kernels.anatomy_paste_scratch(batch, height, width, wide)
        scratch = images.new_empty(size, dtype=torch.uint8)
    _native.call(
        _native.kernels.anatomy_paste,
        images.device,
        images.contiguous(),
        None if masks is None else masks.contiguous(),
        None if sources is None else sources.contiguous(),
        integers.contiguous(),
        reals.contiguous(),
        exact,
        scratch,
        out,
        gate,
    )
    return out, gate


_anatomy_paste = _native.register(
    "anatomy_paste(Tensor images, Tensor? masks, Tensor? sources, Tensor integers, Tensor reals, "
    "bool exact) -> (Tensor, Tensor)",
    kernel=_kernel,
    shapes=_shapes,
    reference=_reference,
)
