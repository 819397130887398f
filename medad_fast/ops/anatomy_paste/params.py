"""What ``anatomy_paste`` does to each image: a struct of tensors."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from medad_fast.errors import InputError
from medad_fast.ops._arguments import check_device, check_shape, check_tensor
from medad_fast.ops.anatomy_paste.recipes import (
    SHAPES,
    Draw,
    Kind,
    draw_anatpaste,
    draw_foreign_patch,
)

MAX_SIDE = 32768
MAX_SIGMA = 1024.0

# Columns of the two tensors, as csrc/ops/anatomy_paste/anatomy_paste.h has them.
_INTEGERS = {
    "width": slice(0, 1),
    "height": slice(1, 2),
    "margin": slice(2, 3),
    "shape": slice(3, 4),
    "jitter_order": slice(4, 5),
    "source_corner": slice(5, 7),
    "fallback_centre": slice(7, 9),
    "centre": slice(9, 11),
    "source_index": slice(12, 13),
}
_HAS_CENTRE = 11
_REALS = ("sigma", "opacity", "brightness", "contrast", "black", "centre_rank")
_PAIRS = ("source_corner", "fallback_centre", "centre")


class AnatomyPasteParams:
    """One row of parameters an image, on any device.

    Args:
        width, height: ``(B)``, integers: size of the pasted patch, in pixels, at least 1.
        source_corner: ``(B, 2)``, integers: row and column of the patch's first pixel in its
            source, in which the whole patch must lie.
        sigma: ``(B)``: standard deviation of the blur of the gate, in pixels, 0 to 1024.
        opacity: ``(B)``, in [0, 1]: the gate inside the shape, before it is blurred.
        centre_rank: ``(B)``, in [0, 1): the paste is centred on the ``floor(rank * count)``-th of
            the ``count`` pixels of the image's mask, in raster order. An image with an empty mask
            is centred on ``fallback_centre``, and its gate is not masked.
        centre: ``(B, 2)``, integers: row and column of the centre; wins over ``centre_rank``. One
            of the two is needed.
        fallback_centre: ``(B, 2)``, integers; default ``(0, 0)``.
        shape: ``(B)``, codes of :data:`SHAPES`: 0 rectangle, 1 ellipse, 2 the whole patch; default
            0. Rectangle and ellipse span ``centre - size // 2 + margin`` to
            ``centre + size // 2 - margin``, both inclusive, as Pillow draws them.
        margin: ``(B)``, integers, at least 0: how far inside the patch the shape lies; default 0.
        brightness, contrast: ``(B)``, at least 0: factors of the patch's jitter; default 1.
        jitter_order: ``(B)``: 0 brightness first, 1 contrast first; default 0. It matters only
            where Pillow's rounding is followed.
        black: ``(B)``: the grey level of black, to which brightness is relative and which surrounds
            the patch; default 0. An image normalised to [-1, 1] has -1.
        source_index: ``(B)``, integers: which of ``sources`` (or, without them, of the images) the
            patch is cut from; -1, the default, is the image itself.

    Raises:
        InputError: a shape, value or device that does not fit. Values are looked at where that
            makes nobody wait: on the CPU.
        TypeError: an argument that is no tensor, or a tensor of the wrong kind of number.

    Each is also an attribute: an int64 or float64 tensor.
    """

    integers: Tensor
    """All integers, ``(B, 13)``: one copy moves them."""
    reals: Tensor
    """All real numbers, ``(B, 6)``, float64."""

    def __init__(
        self,
        *,
        width: Tensor,
        height: Tensor,
        source_corner: Tensor,
        sigma: Tensor,
        opacity: Tensor,
        centre_rank: Tensor | None = None,
        centre: Tensor | None = None,
        fallback_centre: Tensor | None = None,
        shape: Tensor | None = None,
        margin: Tensor | None = None,
        brightness: Tensor | None = None,
        contrast: Tensor | None = None,
        jitter_order: Tensor | None = None,
        black: Tensor | None = None,
        source_index: Tensor | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name != "self"}
        if centre is None and centre_rank is None:
            raise InputError("centre: a tensor expected where centre_rank is None, got None")
        if not isinstance(width, Tensor) or width.dim() != 1:
            raise _wrong("width", width, "a tensor of one axis")
        batch, device = width.shape[0], width.device
        integers = torch.zeros(batch, 13, dtype=torch.int64, device=device)
        reals = torch.zeros(batch, 6, dtype=torch.float64, device=device)
        integers[:, _INTEGERS["source_index"]] = -1
        integers[:, _HAS_CENTRE] = int(centre is not None)
        reals[:, 2:4] = 1
        for name, value in given.items():
            if value is None:
                continue
            whole = name in _INTEGERS
            wanted = (batch, 2) if name in _PAIRS else (batch,)
            if not isinstance(value, Tensor):
                raise _wrong(name, value, f"a tensor of shape {wanted}")
            if value.is_complex() or (whole and value.is_floating_point()):
                raise TypeError(
                    f"{name}: {'integers' if whole else 'real numbers'} expected, got {value.dtype}"
                )
            if value.layout != torch.strided or value.is_quantized:
                raise InputError(f"{name}: a dense tensor expected, got {value.layout}")
            if tuple(value.shape) != wanted:
                raise InputError(f"{name}: shape {wanted} expected, got {tuple(value.shape)}")
            check_device(value, name, width, "width")
            if whole:
                integers[:, _INTEGERS[name]] = value if name in _PAIRS else value[:, None]
            else:
                reals[:, _REALS.index(name)] = value.detach()
        self.integers, self.reals = integers, reals
        if device.type == "cpu":
            self._check_values()

    def __getattr__(self, name: str) -> Tensor:
        if name in _INTEGERS:
            values = self.integers[:, _INTEGERS[name]]
            return values if name in _PAIRS else values[:, 0]
        if name in _REALS:
            return self.reals[:, _REALS.index(name)]
        raise AttributeError(f"AnatomyPasteParams has no {name!r}")

    def __len__(self) -> int:
        return self.integers.shape[0]

    @property
    def device(self) -> torch.device:
        return self.integers.device

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> AnatomyPasteParams:
        """The same parameters on ``device``."""
        return self.packed(
            self.integers.to(device, non_blocking=non_blocking),
            self.reals.to(device, non_blocking=non_blocking),
        )

    def __getitem__(self, images: slice) -> AnatomyPasteParams:
        """The rows of some images."""
        return self.packed(self.integers[images], self.reals[images])

    @classmethod
    def packed(cls, integers: Tensor, reals: Tensor) -> AnatomyPasteParams:
        """From the two tensors that the attributes are views of; their numbers are not checked."""
        for name, value, columns, dtype in (
            ("integers", integers, 13, torch.int64),
            ("reals", reals, 6, torch.float64),
        ):
            check_tensor(value, name, f"(B, {columns})", (dtype,))
            check_shape(value, name, (integers.shape[0], columns), "integers")
            check_device(value, name, integers, "integers")
        params = cls.__new__(cls)
        params.integers, params.reals = integers, reals
        return params

    @functools.cached_property
    def needs(self) -> tuple[int, int, int, int, int]:
        """Rows and columns that the images, then the sources, must have; and how many sources."""
        end = self.source_corner + torch.stack([self.height, self.width], 1)
        own = (self.source_index < 0)[:, None]
        sides = [torch.where(which, end, 0) for which in (own, ~own)]
        largest = [int(axis) for side in sides for axis in side.amax(0)] if len(self) else [0] * 4
        count = int(self.source_index.amax()) + 1 if len(self) else 0
        return largest[0], largest[1], largest[2], largest[3], count

    def _check_values(self) -> None:
        limits = (
            ("width", 1, MAX_SIDE),
            ("height", 1, MAX_SIDE),
            ("source_corner", 0, MAX_SIDE),
            ("margin", 0, MAX_SIDE),
            ("shape", 0, len(SHAPES) - 1),
            ("jitter_order", 0, 1),
            ("source_index", -1, 2**62),
            ("sigma", 0.0, MAX_SIGMA),
            ("opacity", 0.0, 1.0),
            ("brightness", 0.0, 1e30),
            ("contrast", 0.0, 1e30),
            ("black", -1e30, 1e30),
            ("centre_rank", 0.0, math.nextafter(1.0, 0.0)),
        )
        for name, low, high in limits:
            values = getattr(self, name)
            wrong = ~((values >= low) & (values <= high))  # NaN too
            if wrong.any():
                raise InputError(
                    f"{name}: values from {low} to {high} expected, got {values[wrong][0].item()}"
                )

    @classmethod
    def sample(
        cls,
        batch: int,
        size: int | tuple[int, int],
        *,
        generator: torch.Generator | None = None,
        kind: Kind = "anatpaste",
        sources: int | None = None,
        black: float = 0.0,
    ) -> AnatomyPasteParams:
        """Draw parameters as the papers' code does, on the device of ``generator``.

        ``"anatpaste"`` (Sato et al., iScience 2023): a patch of the image itself of 2 to 15 % of
        its area and an aspect of 0.3 to 1 / 0.3, from anywhere; an ellipse or a rectangle 10 pixels
        inside it; a blur of 0 to 14 pixels, an opacity of 150 to 254 of 255, a jitter of 0.1; a
        centre anywhere in the mask. Departs: the code draws the centre for an empty mask from 0 to
        254 whatever the size; here it is from 0 to the side less 2: the same at 256 pixels.

        ``"foreign_patch"`` (Cai et al., DDAD-ASR, Med. Image Anal. 2023): every second image stays
        as it is (opacity 0); in the others a square of 10 to 40 % of the width, centred in the
        central 80 %, is mixed with the same place of another image by a factor in (0, 1). The
        target of the refinement network is ``gate > 0``.

        Args:
            batch: number of images.
            size: side of the images, or ``(height, width)``.
            generator: source of the random numbers; default: torch's own, on the CPU.
            kind: whose recipe.
            sources: for ``"foreign_patch"``, how many source images there will be; default: the
                images of the batch, of which there must be two or more, each never its own source.
            black: see the class.

        Raises:
            InputError, TypeError: an argument that does not fit.
        """
        batch = _checked_pixels(batch, "batch", low=0, high=2**31 - 1)
        sides = size if isinstance(size, (tuple, list)) else (size, size)
        if len(sides) != 2:
            raise InputError(f"size: a side or (height, width) expected, got {size!r}")
        height, width = (_checked_pixels(side, "size", low=2) for side in sides)
        if generator is not None and not isinstance(generator, torch.Generator):
            raise _wrong("generator", generator, "a torch.Generator")
        if sources is not None:
            sources = _checked_pixels(sources, "sources", high=2**31 - 1)
        if not isinstance(black, (int, float)) or isinstance(black, bool):
            raise _wrong("black", black, "a number")
        draw = Draw(batch, generator)
        if kind == "anatpaste":
            drawn = draw_anatpaste(draw, height, width)
        elif kind == "foreign_patch":
            drawn = draw_foreign_patch(draw, height, width, sources)
        else:
            raise InputError(f"kind: 'anatpaste' or 'foreign_patch' expected, got {kind!r}")
        return cls(**drawn, black=draw.full(black))


def _checked_pixels(value: object, name: str, *, low: int = 1, high: int = MAX_SIDE) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(name, value, "an integer")
    if not low <= value <= high:
        raise InputError(f"{name}: {low} to {high} expected, got {value}")
    return value


def _wrong(name: str, value: object, wanted: str) -> TypeError | InputError:
    if isinstance(value, Tensor):
        return InputError(f"{name}: {wanted} expected, got one of shape {tuple(value.shape)}")
    return TypeError(f"{name}: {wanted} expected, got {type(value).__name__}")
