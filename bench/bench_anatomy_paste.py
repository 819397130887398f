"""Anatomy paste against a loop over images, its vectorised form, and the published augmentation.

    python -m bench.bench_anatomy_paste [--device cuda] [--threads 1] [--point 256]

Points: one tiny (overhead), AnatPaste's own batch, one large, DDAD's foreign patches, and single
samples in 8 bits against the published Python (Pillow, numpy, and scikit-image for the mask).

All compute the same gate: six passes of the extended box filter, the plain candidates by conv2d
over repeated ends. The outlines of the ellipses, which have no short form in torch, are handed to
the plain candidates ready-made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter
from torch import Tensor
from torch.nn import functional as F

from bench.harness import Benchmark, Candidate, Comparison, compare
from medad_fast.ops import (
    AnatomyPasteParams,
    anatomy_paste,
    anatomy_paste_reference,
    lung_mask,
    lung_mask_reference,
)
from python_tests.phantoms import chest_phantoms


@dataclass(frozen=True)
class Point:
    """One line of the table."""

    name: str
    batch: int
    channels: int
    side: int
    kind: Literal["anatpaste", "foreign_patch"] = "anatpaste"
    published: bool = False
    segmented: bool = False  # the mask is computed too


POINTS = [
    Point("tiny", 1, 1, 64),
    Point("32x1x256x256", 32, 1, 256),
    Point("8x3x1024x1024", 8, 3, 1024),
    Point("DDAD 64x1x64x64", 64, 1, 64, kind="foreign_patch"),
    Point("one sample", 1, 1, 256, published=True),
    Point("one sample with its mask", 1, 1, 256, published=True, segmented=True),
]


def lungs(batch: int, side: int) -> Tensor:
    """Two ellipses, about where lungs are."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    y, x = (y / side - 0.5) / 0.35, x / side
    both = (y**2 + ((x - 0.3) / 0.15) ** 2 < 1) | (y**2 + ((x - 0.7) / 0.15) ** 2 < 1)
    return both[None].repeat(batch, 1, 1)


def box_kernels(sigma: Tensor, dtype: torch.dtype) -> Tensor:
    """``(B, 2 l + 3)``: one box of the blur for each image, all as wide as the widest."""
    s = sigma.double().square() / 3
    whole = (((12 * s + 1).sqrt() - 1) / 2).floor()
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * s) / (6 * (s - (whole + 1).square()))
    reach = int(whole.max()) + 1
    apart = torch.arange(-reach, reach + 1, device=sigma.device).abs()[None]
    whole, part = whole[:, None], part[:, None]
    kernel = (apart <= whole) * 1.0 + (apart == whole + 1) * part
    return (kernel / (2 * whole + 1 + 2 * part)).to(dtype)


def outlines(params: AnatomyPasteParams, side: int) -> Tensor:
    """Half widths of each shape by distance from its centre's row, ``(B, side)``; -1 outside."""
    flat = params[:]
    flat.integers, flat.reals = params.integers.clone(), params.reals.clone()
    flat.integers[:, 9:11] = side  # the centre of a canvas of twice the side
    flat.integers[:, 11] = 1
    flat.integers[:, 5:7] = 0
    flat.reals[:, :2] = torch.tensor([0.0, 1.0])
    canvas = torch.zeros(len(params), 1, 2 * side + 1, 2 * side + 1)
    gate = anatomy_paste_reference(canvas, None, flat).gate[:, 0, side:]
    return gate.sum(2).long().sub(1).div(2, rounding_mode="floor")[:, :side]


def by_loop(
    images: Tensor, masks: Tensor, params: AnatomyPasteParams, half: Tensor, kernels: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Image by image, each cut to its own sizes; numbers read on the host."""
    _, _, height, width = images.shape
    out, gates = images.clone(), []
    for i in range(images.shape[0]):
        own = (params.source_index[i] if params.source_index[i] >= 0 else i) + 0
        h, w = int(params.height[i]), int(params.width[i])
        if params.integers[i, 11]:
            cy, cx = params.centre[i].tolist()
        else:
            places = masks[i].flatten().nonzero()[:, 0]
            place = int(places[int(params.centre_rank[i] * len(places))])
            cy, cx = divmod(place, width)
        row, column = params.source_corner[i].tolist()
        patch = images[own, :, row : row + h, column : column + w]
        b, c = float(params.brightness[i]), float(params.contrast[i])
        if b != 1 or c != 1:
            patch = (patch - patch.mean()) * (b * c) + b * patch.mean()
        canvas = images.new_zeros(height, width)
        if params.shape[i] == 2:
            top, left = max(cy - h // 2, 0), max(cx - w // 2, 0)
            canvas[top : cy - h // 2 + h, left : cx - w // 2 + w] = 1
        else:
            rows = (torch.arange(height, device=images.device) - cy).abs()
            reach = half[i][rows]
            columns = (torch.arange(width, device=images.device) - cx).abs()
            canvas = (columns[None] <= reach[:, None]).to(images.dtype)
        gate = canvas[None, None] * float(params.opacity[i])
        if params.sigma[i] > 0:
            taps = kernels[i].shape[0] // 2
            for _ in range(3):
                padded = F.pad(gate, (taps, taps, 0, 0), mode="replicate")
                gate = F.conv2d(padded, kernels[i].view(1, 1, 1, -1))
            for _ in range(3):
                padded = F.pad(gate, (0, 0, taps, taps), mode="replicate")
                gate = F.conv2d(padded, kernels[i].view(1, 1, -1, 1))
        if not params.integers[i, 11]:
            gate = gate * masks[i]
        pasted = torch.zeros_like(images[i])
        top, left = cy - h // 2, cx - w // 2
        y, x = max(top, 0), max(left, 0)
        bottom, right = min(top + h, height), min(left + w, width)
        pasted[:, y:bottom, x:right] = patch[:, y - top : bottom - top, x - left : right - left]
        out[i] = out[i] * (1 - gate[0]) + pasted * gate[0]
        gates.append(gate)
    return out, torch.cat(gates)


def vectorised(
    images: Tensor, masks: Tensor, params: AnatomyPasteParams, half: Tensor, kernel: Tensor
) -> tuple[Tensor, Tensor]:
    """All images at once: gathers, wheres and convolutions with a kernel an image."""
    batch, channels, height, width = images.shape
    flat = masks.flatten(1)
    place = (params.centre_rank * flat.sum(1)).floor().long()
    found = (flat.cumsum(1) > place[:, None]).int().argmax(1)
    centre = torch.stack([found // width, found % width], 1)
    given = params.integers[:, 11:12] != 0
    centre = torch.where(given, params.centre, centre)
    y = torch.arange(height, device=images.device)[None] - centre[:, :1]
    x = torch.arange(width, device=images.device)[None] - centre[:, 1:]
    reach = half.gather(1, y.abs().clamp(max=half.shape[1] - 1))
    canvas = x.abs()[:, None, :] <= reach[:, :, None]
    size = torch.stack([params.height, params.width], 1)
    y, x = y + size[:, :1] // 2, x + size[:, 1:] // 2  # in the patch
    rows, columns = (y >= 0) & (y < size[:, :1]), (x >= 0) & (x < size[:, 1:])
    inside = rows[:, :, None] & columns[:, None, :]
    canvas = torch.where((params.shape == 2)[:, None, None], inside, canvas)
    gate = (canvas * params.opacity[:, None, None]).to(images.dtype)[None]
    taps = kernel.shape[1] // 2
    for _ in range(3):
        padded = F.pad(gate, (taps, taps, 0, 0), mode="replicate")
        gate = F.conv2d(padded, kernel[:, None, None, :], groups=batch)
    for _ in range(3):
        padded = F.pad(gate, (0, 0, taps, taps), mode="replicate")
        gate = F.conv2d(padded, kernel[:, None, :, None], groups=batch)
    gate = torch.where(given[..., None], gate[0], gate[0] * masks)[:, None]
    own = torch.arange(batch, device=images.device)
    source = images[torch.where(params.source_index < 0, own, params.source_index)]
    y = (y + params.source_corner[:, :1]).clamp(0, height - 1)
    x = (x + params.source_corner[:, 1:]).clamp(0, width - 1)
    at = (y[:, :, None] * width + x[:, None, :]).flatten(1)[:, None].expand(-1, channels, -1)
    patch = source.flatten(2).gather(2, at).view_as(images)
    h = torch.arange(height, device=images.device)[None] - params.source_corner[:, :1]
    w = torch.arange(width, device=images.device)[None] - params.source_corner[:, 1:]
    crop = ((h >= 0) & (h < size[:, :1]))[:, :, None] & ((w >= 0) & (w < size[:, 1:]))[:, None]
    mean = torch.where(crop[:, None], source, 0).sum((1, 2, 3)) / (channels * size.prod(1))
    b, c = params.brightness.to(images.dtype), params.contrast.to(images.dtype)
    mean = mean.to(images.dtype)
    patch = patch * (b * c).view(-1, 1, 1, 1) + (b * (1 - c) * mean).view(-1, 1, 1, 1)
    patch = torch.where(inside[:, None], patch, 0)
    return images * (1 - gate) + patch * gate, gate


def published_paste(
    image: Image.Image, mask: np.ndarray[Any, Any], params: AnatomyPasteParams, i: int = 0
) -> Image.Image:
    """AnatPaste's step from the mask to the pasted image, with Pillow and numpy as published.

    The random numbers are given instead of drawn; hue and saturation, which change no grey image,
    are left out, in the published code's disfavour.
    """
    width, height = image.size
    w, h = int(params.width[i]), int(params.height[i])
    row, column = (int(v) for v in params.source_corner[i])
    patch = image.crop((column, row, column + w, row + h))
    brightness, contrast = float(params.brightness[i]), float(params.contrast[i])
    if params.jitter_order[i]:
        patch = ImageEnhance.Contrast(patch).enhance(contrast)
    patch = ImageEnhance.Brightness(patch).enhance(brightness)
    if not params.jitter_order[i]:
        patch = ImageEnhance.Contrast(patch).enhance(contrast)
    ys, xs = np.where(mask)
    if len(ys):
        place = int(float(params.centre_rank[i]) * len(ys))
        cy, cx = int(ys[place]), int(xs[place])
    else:
        cy, cx = (int(v) for v in params.fallback_centre[i])
        mask = np.ones_like(mask)
    canvas = Image.new("L", (width, height), 0)
    inset = int(params.margin[i])
    box = [cx - w // 2 + inset, cy - h // 2 + inset, cx + w // 2 - inset, cy + h // 2 - inset]
    draw = ImageDraw.Draw(canvas)
    shape = draw.ellipse if params.shape[i] == 1 else draw.rectangle
    shape(box, fill=round(float(params.opacity[i]) * 255))
    canvas = canvas.filter(ImageFilter.GaussianBlur(float(params.sigma[i])))
    gate = Image.fromarray((np.asarray(canvas) * mask).astype(np.uint8))
    pasted = Image.new("L", (width, height), 0)
    pasted.paste(patch.convert("L"), (cx - w // 2, cy - h // 2))
    return Image.composite(pasted.convert("RGB"), image, gate)


def on_one_thread(candidate: Candidate) -> Candidate:
    """As in a worker of a data loader, whose torch has one thread."""

    @wraps(candidate)
    def call() -> Any:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return candidate()
        finally:
            torch.set_num_threads(before)

    return call


def one_sample(point: Point, seconds: float) -> Comparison:
    """From the mask, or from the image, to the pasted image: 8 bits, one thread."""
    count = 16 if point.segmented else 64
    images = chest_phantoms(range(count), point.side, point.side)[:, None]
    masks = lung_mask(images[:, 0]) if point.segmented else lungs(count, point.side)
    rng = torch.Generator().manual_seed(0)
    params = AnatomyPasteParams.sample(count, point.side, generator=rng)
    # One sample after another: the same ones for each candidate, so that shapes average out.
    singles = [(images[i : i + 1], masks[i : i + 1], params[i : i + 1]) for i in range(count)]
    pictures = [Image.fromarray(image[0].numpy()).convert("RGB") for image in images]

    def fused() -> Tensor:
        results = []
        for image, mask, own in singles:
            mask = lung_mask(image[0]) if point.segmented else mask
            results.append(anatomy_paste(image, mask, own, exact=True).images)
        return torch.cat(results)

    def published() -> Tensor:
        results = []
        for i, (image, mask, _) in enumerate(singles):
            mask = lung_mask_reference(image[0]) if point.segmented else mask
            pasted = published_paste(pictures[i], mask[0].numpy(), params, i)
            results.append(np.asarray(pasted)[None, None, :, :, 0])
        return torch.from_numpy(np.concatenate(results))

    return compare(
        "anatomy_paste",
        {"fused": on_one_thread(fused), "published": on_one_thread(published)},
        shape=f"{point.name}: {count} calls of 1x1x{point.side}x{point.side}, one thread",
        dtype=torch.uint8,
        device=torch.device("cpu"),
        truth=lambda: anatomy_paste_reference(images, masks, params, exact=True).images,
        tolerance=0.0,
        bytes_touched=(3.0 if point.segmented else 4.0) * images.numel(),
        seconds=seconds,
    )


def comparison(
    point: Point, device: torch.device, *, seconds: float, compiled: bool = True
) -> Comparison:
    """All candidates at one point."""
    if point.published:
        return one_sample(point, seconds)
    rng = torch.Generator().manual_seed(0)
    shape = (point.batch, point.channels, point.side, point.side)
    images = torch.rand(shape, generator=rng)
    masks = lungs(point.batch, point.side)
    params = AnatomyPasteParams.sample(point.batch, point.side, generator=rng, kind=point.kind)
    if point.side < 128:
        params.integers[:, 2].clamp_(max=1)  # 10 pixels would leave nothing of most shapes
    if point.channels == 3:
        params.reals[:, 3] = 1  # the plain candidates know no luma
    half = outlines(params, point.side)
    kernel = box_kernels(params.sigma, images.dtype)
    kernels = [
        box_kernels(params.sigma[i : i + 1], images.dtype)[0].to(device) for i in range(point.batch)
    ]
    images, masks, params = images.to(device), masks.to(device), params.to(device)
    half, kernel = half.to(device), kernel.to(device)
    gated = None if point.kind == "foreign_patch" else masks

    def plain(of: Callable[..., tuple[Tensor, Tensor]], boxes: Any) -> Candidate:
        return torch.no_grad()(lambda: of(images, masks, params, half, boxes))

    def truth() -> tuple[Tensor, Tensor]:
        return anatomy_paste_reference(images.double(), gated, params)

    candidates: dict[str, Candidate] = {
        "fused": lambda: anatomy_paste(images, gated, params),
        "loop": plain(by_loop, kernels),
        "eager": plain(vectorised, kernel),
    }
    if compiled:
        candidates["compiled"] = plain(torch.compile(vectorised), kernel)
    return compare(
        "anatomy_paste",
        candidates,
        shape=f"{point.name}: {'x'.join(map(str, shape))}",
        dtype=images.dtype,
        device=device,
        truth=truth,
        tolerance=1e-5,
        bytes_touched=2.0 * images.nbytes + masks.nbytes + 4 * masks.numel(),
        seconds=seconds,
    )


BENCHMARK = Benchmark("anatomy_paste", POINTS, comparison)
test_anatomy_paste = BENCHMARK.pytest()

if __name__ == "__main__":
    BENCHMARK.main()
