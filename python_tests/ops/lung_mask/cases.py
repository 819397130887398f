"""How to call ``lung_mask``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from medad_fast.ops import lung_mask
from python_tests.ops.cases import BadCall, OpCase, zeros
from python_tests.phantoms import chest_phantoms


def _images(seed: int) -> list[Tensor]:
    return [chest_phantoms(range(3 * seed, 3 * seed + 3), 52, 44)]


CASES = [
    OpCase(
        f"lung_mask {mode}",
        _images,
        lambda images, mode=mode: lung_mask(images, mode=mode),
        dtypes=(),
        image_axis=(0,),
    )
    for mode in ("reference", "clean")
]

IMAGES = torch.zeros(2, 4, 5, dtype=torch.uint8)
SPARSE = IMAGES.to_sparse()


def _bad(what: str, images: Any, name: str = "images", **options: Any) -> BadCall:
    return BadCall(what, lambda: lung_mask(images, **options), name)


BAD_CALLS = [
    _bad("nothing", None),
    _bad("a number", 3),
    _bad("a list of tensors", [IMAGES]),
    _bad("a list of numbers", [[[1, 2], [3, 4]]]),
    _bad("an array", np.zeros((2, 4, 5), dtype=np.uint8)),
    _bad("text", "images.png"),
    *(
        _bad(f"{dtype}", IMAGES.to(dtype))
        for dtype in (
            torch.bool,
            torch.int8,
            torch.int16,
            torch.int32,
            torch.int64,
            torch.uint16,
            torch.uint32,
            torch.float16,
            torch.bfloat16,
            torch.float32,
            torch.float64,
            torch.complex64,
        )
    ),
    _bad("one number as a tensor", IMAGES[0, 0, 0]),
    _bad("a row", IMAGES[0, 0]),
    _bad("one image without a batch", IMAGES[0]),
    _bad("channels", IMAGES[:, None]),
    _bad("channels and depth", IMAGES[:, None, None]),
    _bad("no rows", IMAGES[:, :0]),
    _bad("no columns", IMAGES[..., :0]),
    _bad("no rows on the meta device", IMAGES[:, :0].to("meta")),
    _bad("floats on the meta device", IMAGES.float().to("meta")),
    _bad("2**31 pixels an image", IMAGES[:1, :1, :1].expand(1, 1 << 16, 1 << 15)),
    _bad("sparse", SPARSE),
    _bad("another mode", IMAGES, "mode", mode="published"),
    _bad("a mode in capitals", IMAGES, "mode", mode="Reference"),
    _bad("no mode", IMAGES, "mode", mode=""),
    _bad("mode None", IMAGES, "mode", mode=None),
    _bad("mode True", IMAGES, "mode", mode=True),
    _bad("mode by number", IMAGES, "mode", mode=0),
    _bad("mode as bytes", IMAGES, "mode", mode=b"clean"),
    _bad("several modes", IMAGES, "mode", mode=["reference", "clean"]),
]


def large() -> None:
    (images,) = CASES[0].tensors()
    _, height, width = images.shape
    many = zeros(2**31 // (height * width) + 2, height, width, dtype=torch.uint8)
    assert many.numel() > 2**31
    many[-1] = images[0]
    assert torch.equal(CASES[0].call(many)[-1], CASES[0].call(images[:1])[0])
