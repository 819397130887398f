"""``anatomy_paste`` in plain torch, Pillow's 8-bit arithmetic included."""

from __future__ import annotations

import torch
from torch import Tensor

from medad_fast.ops.anatomy_paste.params import AnatomyPasteParams

_LUMA = (19595, 38470, 7471)


def pasted(
    images: Tensor,
    masks: Tensor | None,
    params: AnatomyPasteParams,
    sources: Tensor | None,
    exact: bool,
) -> tuple[Tensor, Tensor]:
    """Images and gate, as :class:`medad_fast.ops.anatomy_paste.PasteResult` has them."""
    height, width = images.shape[2:]
    real = torch.float64 if exact or images.dtype == torch.float64 else torch.float32
    centre, gated = _centres(images, masks, params)
    size = torch.stack([params.height, params.width], 1)
    canvas = _shapes_drawn(centre, size, params, height, width)
    opacity = params.opacity.view(-1, 1, 1)
    if exact:
        level = (opacity * 255 + 0.5).floor()
        gate = _blurred_by_pillow(canvas.double() * level, params.sigma)
    else:
        rows, columns = (_box_matrix(n, *_box(params.sigma)).to(real) for n in (height, width))
        gate = canvas.to(real)
        for _ in range(3):
            gate = rows @ gate
        for _ in range(3):
            gate = gate @ columns.mT
        gate = gate * opacity.to(real)
    if gated is not None:
        gate = torch.where(gated, gate, 0)
    patch = _patches(images, sources, centre, size, params, real, exact)
    x, g = images.to(real), gate[:, None]
    if exact:
        t = x * (255 - g) + patch * g + 128
        t = ((t + (t / 256).floor()) / 256).floor()
        return t.to(torch.uint8), g.to(torch.uint8)
    mixed = torch.where(g == 0, x, x * (1 - g) + patch * g)
    if images.dtype == torch.uint8:
        mixed = (mixed + 0.5).floor()
    return mixed.to(images.dtype), g


def _centres(
    images: Tensor, masks: Tensor | None, params: AnatomyPasteParams
) -> tuple[Tensor, Tensor | None]:
    """Row and column of each centre, ``(B, 2)``; and where the gate may open."""
    batch, _, height, width = images.shape
    flat = images.new_ones((batch, height * width), dtype=torch.bool)
    flat = flat if masks is None else masks.flatten(1)
    count = flat.sum(1)
    place = torch.minimum((params.centre_rank * count).floor().long(), count - 1)
    found = (flat.cumsum(1) > place[:, None]).int().argmax(1)
    drawn = torch.stack([found // width, found % width], 1)
    empty = (count == 0)[:, None]
    drawn = torch.where(empty, params.fallback_centre, drawn)
    given = params.integers[:, 11:12] != 0
    centre = torch.where(given, params.centre, drawn)
    return centre, None if masks is None else masks | empty[:, :, None]


def _shapes_drawn(
    centre: Tensor, size: Tensor, params: AnatomyPasteParams, height: int, width: int
) -> Tensor:
    """The shapes on a canvas, ``(B, H, W)`` bool."""
    half = size // 2 - params.margin[:, None]
    first, last = centre - half, centre + half
    whole = (params.shape == 2)[:, None]
    first = torch.where(whole, centre - size // 2, first)
    last = torch.where(whole, centre - size // 2 + size - 1, last)
    row = torch.arange(height, device=centre.device)[None, :]
    column = torch.arange(width, device=centre.device)[None, None, :]
    inside = (row >= first[:, :1]) & (row <= last[:, :1])
    box = inside[:, :, None] & (column >= first[:, 1, None, None])
    box = box & (column <= last[:, 1, None, None])
    reach = _ellipse_half_widths(half[:, 1:], half[:, :1], (row - centre[:, :1]).abs())
    ellipse = box & ((column - centre[:, 1, None, None]).abs() <= reach[:, :, None])
    ellipse = ellipse & (half > 0).any(1)[:, None, None]  # Pillow draws none of one pixel
    return torch.where((params.shape == 1)[:, None, None], ellipse, box)


def _ellipse_half_widths(p: Tensor, q: Tensor, j: Tensor) -> Tensor:
    """Half widths ``(B, H)`` of ellipses with half axes ``p``, ``q``, ``j`` rows off their centres.

    Pillow walks a quarter of the ellipse from ``(p, 0)`` to ``(0, q)``, always to the pixel above,
    diagonally or to the left that is nearest to the curve. By the third row, a walk that starts
    near the curve has joined it.
    """

    def error(i: Tensor, row: Tensor) -> Tensor:
        return (p * p * row * row + q * q * i * i - p * p * q * q).abs()

    def guess(row: Tensor) -> Tensor:
        def curve(y: Tensor) -> Tensor:
            return p * (1 - (y / q.clamp(min=1)).square()).clamp(min=0).sqrt()

        y = row.double()
        return torch.maximum(curve(y) + 0.5, curve(y - 0.5)).long()

    start = (j - 3).clamp(min=0)
    i = torch.where(start == 0, p, guess(start))
    for step in range(3):
        row = start + step
        here = torch.minimum(i, guess(row + 1) + 1)
        leaving = torch.zeros_like(here, dtype=torch.bool)
        for _ in range(6):  # two are ever needed
            up, diagonal = error(here, row + 1), error(here - 1, row + 1)
            left = (error(here - 1, row) < torch.minimum(up, diagonal)) & (here > 0) & ~leaving
            above = (diagonal < up) & (here > 0) & ~leaving & ~left
            here = here - (left | above).long()
            leaving = leaving | ~left
        i = torch.where(row < j, here, i)
    return i


def _box(sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the box whose third convolution has this deviation: ``l``, inner and outer weights."""
    s = sigma.double().square() / 3
    whole = (((12 * s + 1).sqrt() - 1) / 2).floor()
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * s) / (6 * (s - (whole + 1).square()))
    part = part.clamp(0, 1)
    inner = 1 / (2 * whole + 1 + 2 * part)
    return whole.long(), inner, inner * part


def _box_matrix(n: int, whole: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """``(B, n, n)``: one pass of a box over a line whose ends are repeated beyond it."""
    place = torch.arange(n, device=whole.device)
    whole, inner, outer = (t.view(-1, 1, 1) for t in (whole, inner, outer))
    apart = (place[:, None] - place[None, :]).abs()[None]
    matrix = (apart <= whole) * inner + (apart == whole + 1) * outer
    for end, inside in ((0, place), (n - 1, n - 1 - place)):
        beyond = whole[:, :, 0] - inside[None]  # pixels of the box beyond this end
        matrix[:, :, end] += beyond.clamp(min=0) * inner[:, :, 0] + (beyond >= 0) * outer[:, :, 0]
    return matrix


def _blurred_by_pillow(canvas: Tensor, sigma: Tensor) -> Tensor:
    """Pillow's blur of 8-bit grey levels, with integers kept in float64."""
    radius = sigma.float()
    s = radius * radius / 3
    length = (12 * s.double() + 1).sqrt().float()
    whole = ((length.double() - 1) / 2).floor().float()
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * s)
    box = whole + part / (6 * (s - (whole + 1) * (whole + 1)))
    whole = box.long()
    inner = (2**24 / (box * 2 + 1)).long()
    outer = (2**24 - (2 * whole + 1) * inner) // 2
    rows, columns = (
        _box_matrix(n, whole, inner.double(), outer.double()) for n in canvas.shape[1:]
    )
    for _ in range(3):
        canvas = ((canvas @ columns.mT + 2**23) / 2**24).floor()
    for _ in range(3):
        canvas = ((rows @ canvas + 2**23) / 2**24).floor()
    return canvas


def _patches(
    images: Tensor,
    sources: Tensor | None,
    centre: Tensor,
    size: Tensor,
    params: AnatomyPasteParams,
    real: torch.dtype,
    exact: bool,
) -> Tensor:
    """Each image's patch where it is pasted, black around it: ``(B, C, H, W)`` in ``real``."""
    source = images if sources is None else sources
    index = torch.where(params.source_index >= source.shape[0], -1, params.source_index)
    jitter = _jittered_by_pillow if exact else _jittered

    def placed(origin: Tensor, image: int) -> Tensor:
        """The patch of one image, cut from ``origin``, ``(1, C, Hs, Ws)``, and put in its place."""
        corner = params.source_corner[image]
        kept, taken, cropped = [], [], []
        for axis in (0, 1):
            length = origin.shape[2 + axis]
            place = torch.arange(images.shape[2 + axis], device=images.device)
            place = place - centre[image, axis] + size[image, axis] // 2 + corner[axis]
            end = (corner[axis] + size[image, axis]).clamp(max=length)
            kept.append((place >= corner[axis].clamp(min=0)) & (place < end))
            taken.append(place.clamp(0, length - 1))
            whole = torch.arange(length, device=images.device)
            cropped.append((whole >= corner[axis]) & (whole < end))
        crop = cropped[0][:, None] & cropped[1][None]
        levels = jitter(origin.to(real), crop, params, image)
        if images.dtype == torch.uint8:
            levels = levels.clamp(0, 255)
        levels = levels.index_select(2, taken[0]).index_select(3, taken[1])
        black = params.black[image].to(real) * (not exact)
        return torch.where(kept[0][:, None] & kept[1][None], levels, black)

    patches = [torch.zeros_like(images[:0], dtype=real)]
    for image in range(images.shape[0]):
        own = images[image : image + 1]
        # Chosen by index_select and where: nothing waits for the value.
        other = source.index_select(0, index[image : image + 1].clamp(min=0))
        origins = (own,) if source.shape[0] == 0 else (own, other)
        found = [placed(origin, image) for origin in origins]
        patches.append(torch.where(index[image] < 0, found[0], found[-1]))
    return torch.cat(patches)


def _mean_grey(levels: Tensor, crop: Tensor, whole: bool) -> Tensor:
    """Over the crop; Pillow's grey of three channels, cut to whole levels where it is Pillow's."""
    if levels.shape[1] == 3:
        weights = levels.new_tensor(_LUMA)[:, None, None]
        grey = (levels * weights).sum(1) + (32768 if whole else 0)
        grey = (grey / 65536).floor() if whole else grey / 65536
    else:
        grey = levels.mean(1)
    return torch.where(crop, grey, 0).sum() / crop.sum()


def _jittered(levels: Tensor, crop: Tensor, params: AnatomyPasteParams, image: int) -> Tensor:
    brightness, contrast, black = (
        p[image] for p in (params.brightness, params.contrast, params.black)
    )
    offset = black * (1 - brightness)
    mean = _mean_grey(levels, crop, False).double()
    offset = torch.where(contrast == 1, offset, offset + brightness * (1 - contrast) * mean)
    return levels * (brightness * contrast).to(levels.dtype) + offset.to(levels.dtype)


def _jittered_by_pillow(
    levels: Tensor, crop: Tensor, params: AnatomyPasteParams, image: int
) -> Tensor:
    brightness, contrast = (p[image].float() for p in (params.brightness, params.contrast))

    def blend(levels: Tensor, towards: Tensor | float, factor: Tensor) -> Tensor:
        return (towards + factor * (levels - towards)).clamp(0, 255).trunc()

    def contrasted(levels: Tensor) -> Tensor:
        mean = (_mean_grey(levels.double(), crop, True) + 0.5).floor().float()
        return blend(levels, mean, contrast)

    levels = levels.float()
    brightness_first = contrasted(blend(levels, 0.0, brightness))
    contrast_first = blend(contrasted(levels), 0.0, brightness)
    return torch.where(params.jitter_order[image] == 0, brightness_first, contrast_first).double()
