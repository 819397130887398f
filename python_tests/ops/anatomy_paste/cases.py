"""How to call ``anatomy_paste``, and how not to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from medad_fast.ops import AnatomyPasteParams, anatomy_paste
from medad_fast.ops.anatomy_paste import PasteResult
from python_tests.ops.cases import BadCall, OpCase, zeros

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIDE = (37, 43)


def _drawn(seed: int) -> tuple[torch.Generator, Tensor, AnatomyPasteParams]:
    rng = torch.Generator().manual_seed(seed)
    masks = torch.rand(3, *SIDE, generator=rng) < 0.7
    masks[2] = False
    params = AnatomyPasteParams.sample(3, SIDE, generator=rng)
    params.integers[:, 2] = 1
    params.reals[0, 0], params.reals[1, 0] = 0, 2.5
    return rng, masks, params


def _images(seed: int) -> list[Tensor]:
    rng, masks, params = _drawn(seed)
    # float32, for the tests cast what is floating.
    return [torch.rand(3, 2, *SIDE, generator=rng), masks, params.integers, params.reals.float()]


def _levels(seed: int) -> list[Tensor]:
    rng, masks, params = _drawn(seed)
    levels = torch.randint(0, 256, (3, 1, *SIDE), generator=rng).to(torch.uint8)
    return [levels, masks, params.integers, params.reals.float()]


def _paste(**options: Any) -> Callable[..., PasteResult]:
    def call(images: Tensor, masks: Tensor, integers: Tensor, reals: Tensor) -> PasteResult:
        # Some layouts repeat one column; what they make of it must still lie in the image.
        integers = torch.cat([integers[:, :12], torch.full_like(integers[:, :1], -1)], 1)
        room = torch.stack([SIDE[0] - integers[:, 1], SIDE[1] - integers[:, 0]], 1)
        integers[:, 5:7] = torch.minimum(integers[:, 5:7], room)
        params = AnatomyPasteParams.packed(integers, reals.double())
        return anatomy_paste(images, masks, params, **options)

    return call


CASES = [
    OpCase("anatomy_paste", _images, _paste(), dtypes=TYPES, image_axis=(0, 0, 0, 0)),
    OpCase("anatomy_paste uint8", _levels, _paste(), dtypes=(), image_axis=(0, 0, 0, 0)),
    OpCase("anatomy_paste exact", _levels, _paste(exact=True), dtypes=(), image_axis=(0, 0, 0, 0)),
]

_IMAGES = torch.rand(2, 1, 20, 30)
_MASKS = torch.ones(2, 20, 30, dtype=torch.bool)
_PARAMS = AnatomyPasteParams.sample(2, (20, 30), generator=torch.Generator().manual_seed(0))
_GOOD = {
    "width": torch.tensor([3, 4]),
    "height": torch.tensor([5, 6]),
    "source_corner": torch.zeros(2, 2, dtype=torch.int64),
    "centre": torch.ones(2, 2, dtype=torch.int64),
    "sigma": torch.zeros(2),
    "opacity": torch.ones(2),
}


def _bad(what: str, names: str, *arguments: Any, **options: Any) -> BadCall:
    call = [*arguments, *(_IMAGES, _MASKS, _PARAMS)[len(arguments) :]]
    return BadCall(what, lambda: anatomy_paste(*call, **options), names)


def _struct(what: str, names: str, **changes: Any) -> BadCall:
    return BadCall(what, lambda: AnatomyPasteParams(**(_GOOD | changes)), names)


def _past_the_edge(**changes: Any) -> BadCall:
    what = "a patch beyond " + str({k: v.tolist() for k, v in changes.items()})
    return BadCall(
        what,
        lambda: anatomy_paste(_IMAGES, None, AnatomyPasteParams(**(_GOOD | changes))),
        "params",
    )


def _sampled(what: str, names: str, *arguments: Any, **options: Any) -> BadCall:
    return BadCall(what, lambda: AnatomyPasteParams.sample(*arguments, **options), names)


BAD_CALLS = [
    _bad("images None", "images", None),
    _bad("images of numpy", "images", _IMAGES.numpy()),
    _bad("images of three axes", "images", _IMAGES[0]),
    _bad("images of five axes", "images", _IMAGES[None]),
    _bad("no channels", "images", _IMAGES[:, :0]),
    _bad("no rows", "images", _IMAGES[:, :, :0]),
    _bad("no columns", "images", _IMAGES[..., :0]),
    _bad("images of int32", "images", _IMAGES.int()),
    _bad("images of bool", "images", _IMAGES > 0),
    _bad("images of complex64", "images", _IMAGES.to(torch.complex64)),
    _bad("images of int8", "images", _IMAGES.to(torch.int8)),
    _bad("sparse images", "images", _IMAGES.to_sparse()),
    _bad("mkldnn images", "images", _IMAGES.to_mkldnn()),
    _bad("images too wide", "images", torch.zeros(1, 1, 1, 32769)),
    _bad("masks a list", "masks", _IMAGES, [_MASKS]),
    _bad("masks of uint8", "masks", _IMAGES, _MASKS.to(torch.uint8)),
    _bad("masks with a channel", "masks", _IMAGES, _MASKS[:, None]),
    _bad("masks of another batch", "masks", _IMAGES, _MASKS[:1]),
    _bad("masks transposed", "masks", _IMAGES, _MASKS.mT),
    _bad("masks on meta", "masks", _IMAGES, _MASKS.to("meta")),
    _bad("sparse masks", "masks", _IMAGES, _MASKS.to_sparse()),
    _bad("params None", "params", _IMAGES, _MASKS, None),
    _bad("params a dict", "params", _IMAGES, _MASKS, {}),
    _bad("params of another batch", "params", _IMAGES, _MASKS, _PARAMS[:1]),
    _bad("params on meta", "params", _IMAGES, _MASKS, _PARAMS.to("meta")),
    _bad("sources a list", "sources", sources=[_IMAGES]),
    _bad("sources of three axes", "sources", sources=_IMAGES[0]),
    _bad("sources of other channels", "sources", sources=_IMAGES.repeat(1, 3, 1, 1)),
    _bad("sources of float64", "sources", sources=_IMAGES.double()),
    _bad("sources on meta", "sources", sources=_IMAGES.to("meta")),
    _bad("exact floats", "exact", exact=True),
    _bad("exact a number", "exact", exact=1),
    _past_the_edge(source_corner=torch.tensor([[0, 0], [15, 0]])),
    _past_the_edge(source_corner=torch.tensor([[0, 28], [0, 0]])),
    _past_the_edge(width=torch.tensor([31, 4])),
    _past_the_edge(source_index=torch.tensor([0, 2])),
    _struct("width a number", "width", width=3),
    _struct("width of two axes", "width", width=torch.ones(2, 1).long()),
    _struct("width floating", "width", width=torch.ones(2)),
    _struct("width 0", "width", width=torch.tensor([0, 1])),
    _struct("height of another batch", "height", height=torch.ones(3).long()),
    _struct("height on meta", "height", height=torch.ones(2, device="meta").long()),
    _struct("negative corner", "source_corner", source_corner=torch.tensor([[0, 0], [0, -1]])),
    _struct("corner of one number", "source_corner", source_corner=torch.zeros(2).long()),
    _struct("no centre", "centre", centre=None),
    _struct("centre floating", "centre", centre=torch.zeros(2, 2)),
    _struct("rank 1", "centre_rank", centre_rank=torch.ones(2)),
    _struct("rank negative", "centre_rank", centre_rank=torch.tensor([0.0, -0.1])),
    _struct("negative sigma", "sigma", sigma=torch.tensor([1.0, -1.0])),
    _struct("sigma NaN", "sigma", sigma=torch.full((2,), torch.nan)),
    _struct("sigma infinite", "sigma", sigma=torch.full((2,), torch.inf)),
    _struct("opacity 2", "opacity", opacity=torch.full((2,), 2.0)),
    _struct("opacity complex", "opacity", opacity=torch.ones(2, dtype=torch.complex64)),
    _struct("brightness negative", "brightness", brightness=torch.full((2,), -1.0)),
    _struct("contrast NaN", "contrast", contrast=torch.full((2,), torch.nan)),
    _struct("black infinite", "black", black=torch.full((2,), torch.inf)),
    _struct("shape 3", "shape", shape=torch.tensor([0, 3])),
    _struct("negative margin", "margin", margin=torch.tensor([0, -1])),
    _struct("jitter order 2", "jitter_order", jitter_order=torch.tensor([0, 2])),
    _struct("source -2", "source_index", source_index=torch.tensor([0, -2])),
    _sampled("a negative batch", "batch", -1, 64),
    _sampled("a batch of 1.5", "batch", 1.5, 64),
    _sampled("size 0", "size", 1, 0),
    _sampled("size a text", "size", 1, "64"),
    _sampled("three sizes", "size", 1, (64, 64, 64)),
    _sampled("a seed for a generator", "generator", 1, 64, generator=0),
    _sampled("another kind", "kind", 1, 64, kind="cutpaste"),
    _sampled("no foreign image", "sources", 1, 64, kind="foreign_patch"),
    _sampled("no sources", "sources", 2, 64, kind="foreign_patch", sources=0),
    _sampled("black a text", "black", 2, 64, black="black"),
]


def large() -> None:
    count, side = 2**9 + 1, 2**8
    images = zeros(count, 2**6, side, side, dtype=torch.uint8)
    assert images.numel() > 2**31
    images[-1, :, 1::2] = 200
    rng = torch.Generator().manual_seed(0)
    params = AnatomyPasteParams.sample(count, (side, side), generator=rng)
    last = AnatomyPasteParams.packed(params.integers[-1:], params.reals[-1:])
    masks = torch.ones(1, side, side, dtype=torch.bool)
    many = anatomy_paste(images, masks.expand(count, -1, -1), params)
    alone = anatomy_paste(images[-1:].clone(), masks, last)
    assert torch.equal(many.images[-1:], alone.images)
    assert torch.equal(many.gate[-1:], alone.gate)
