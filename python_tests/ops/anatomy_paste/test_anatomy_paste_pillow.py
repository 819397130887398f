"""Anatomy paste with Pillow as oracle: the published augmentation, pixel for pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from medad_fast.ops import anatomy_paste
from python_tests.ops.anatomy_paste.test_anatomy_paste import make_call, on, params_of


def by_pillow(image, mask, params, i):
    """The published augmentation of one grey image, with the numbers given: gate and image."""
    height, width = image.shape
    size = [int(params.height[i]), int(params.width[i])]
    row, column = params.source_corner[i].tolist()
    patch = Image.fromarray(image).crop((column, row, column + size[1], row + size[0]))
    steps = [
        lambda p: ImageEnhance.Brightness(p).enhance(float(params.brightness[i])),
        lambda p: ImageEnhance.Contrast(p).enhance(float(params.contrast[i])),
    ]
    for step in steps if params.jitter_order[i] == 0 else steps[::-1]:
        patch = step(patch)
    places = np.flatnonzero(mask)
    if len(places):
        place = places[int(float(params.centre_rank[i]) * len(places))]
        cy, cx = divmod(int(place), width)
    else:
        cy, cx = params.fallback_centre[i].tolist()
        mask = np.ones_like(mask)
    canvas = Image.new("L", (width, height), 0)
    inset = int(params.margin[i])
    box = [
        cx - size[1] // 2 + inset,
        cy - size[0] // 2 + inset,
        cx + size[1] // 2 - inset,
        cy + size[0] // 2 - inset,
    ]
    draw = ImageDraw.Draw(canvas)
    if box[0] <= box[2] and box[1] <= box[3]:  # Pillow refuses a box that is inside out
        shape = draw.ellipse if params.shape[i] == 1 else draw.rectangle
        shape(box, fill=round(float(params.opacity[i]) * 255))
    blurred = np.asarray(canvas.filter(ImageFilter.GaussianBlur(float(params.sigma[i]))))
    gate = (blurred * mask).astype(np.uint8)
    pasted = Image.new("L", (width, height), 0)
    pasted.paste(patch, (cx - size[1] // 2, cy - size[0] // 2))
    result = Image.composite(pasted, Image.fromarray(image), Image.fromarray(gate))
    return torch.from_numpy(gate), torch.from_numpy(np.array(result))


@pytest.mark.parametrize(("side", "seed"), [((256, 256), 0), ((224, 224), 1), ((90, 151), 2)])
def test_exact_is_pillow_bit_for_bit(side, seed, device):
    images, masks, params = make_call(15, 1, side, seed=seed)
    params.reals[:, 0] = torch.arange(15)  # every blur of the paper
    result = anatomy_paste(*on(device, images, masks, params), exact=True)
    for i in range(15):
        gate, pasted = by_pillow(images[i, 0].numpy(), masks[i].numpy(), params, i)
        assert torch.equal(result.gate[i, 0].cpu(), gate), i
        assert torch.equal(result.images[i, 0].cpu(), pasted), i


def test_every_ellipse_is_pillows(device):
    sizes = [(h, w) for h in range(1, 34) for w in range(1, 34)]
    batch = len(sizes)
    params = params_of(batch, width=1, height=1, shape=1, centre=(20, 19), opacity=1.0, sigma=0.0)
    params.integers[:, 1] = torch.tensor([h for h, _ in sizes])
    params.integers[:, 0] = torch.tensor([w for _, w in sizes])
    images = torch.zeros(batch, 1, 40, 41, dtype=torch.uint8)
    gate = anatomy_paste(images.to(device), None, params.to(device), exact=True).gate[:, 0].cpu()
    smooth = anatomy_paste(images.to(device), None, params.to(device)).gate[:, 0].cpu()
    for i, (h, w) in enumerate(sizes):
        canvas = Image.new("L", (41, 40), 0)
        box = [19 - w // 2, 20 - h // 2, 19 + w // 2, 20 + h // 2]
        ImageDraw.Draw(canvas).ellipse(box, fill=255)
        assert torch.equal(gate[i], torch.from_numpy(np.array(canvas))), (h, w)
        assert torch.equal(smooth[i], gate[i] / 255), (h, w)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.5, 14.0, 40.0])
def test_blur_of_any_width_is_pillows(sigma, device):
    images, masks, params = make_call(4, 1, (64, 70))
    params.reals[:, 0] = sigma
    gate = anatomy_paste(*on(device, images, masks, params), exact=True).gate[:, 0].cpu()
    for i in range(4):
        expected, _ = by_pillow(images[i, 0].numpy(), masks[i].numpy(), params, i)
        assert torch.equal(gate[i], expected), i


def test_without_exact_the_gate_is_pillows_before_rounding(device):
    images, masks, params = make_call(15, 1, (256, 256))
    params.reals[:, 0] = torch.arange(15)
    exact = anatomy_paste(*on(device, images, masks, params), exact=True).gate
    smooth = anatomy_paste(*on(device, images, masks, params)).gate
    assert (smooth * 255 - exact).abs().max() < 2
