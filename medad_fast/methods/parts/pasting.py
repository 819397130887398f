"""Synthetic anomalies to tell from normal images: AnatPaste's, and CutPaste's variants.

Source: Sato et al., "Anatomy-aware self-supervised learning for anomaly detection in chest
radiographs" (AnatPaste), iScience 26 (2023), and the authors' code, which holds the variants of Li
et al., "CutPaste: Self-supervised learning for anomaly detection and localization", CVPR 2021, too.

All sizes in pixels there are meant for images of 256 x 256; at other sizes they are scaled.
Departs: hue and saturation, which change no grey image, are left out of the jitter.
Departs: the jittered patch is not cut to the image's range before it is blended in, only the result
is, since images keep all their levels; the code's 8 bits cut both.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medad_fast.errors import InputError
from medad_fast.ops import AnatomyPasteParams, anatomy_paste, lung_mask
from medad_fast.ops.lung_mask import Mode

PAPER_SIZE = 256
BLACK = -1.0
WHOLE_PATCH = 2  # the code of "patch" in medad_fast.ops' shapes
PATCH = ("width", "height", "source_corner", "brightness", "contrast", "jitter_order", "black")
LUMA = (0.299, 0.587, 0.114)
SCAR_WIDTH, SCAR_HEIGHT, SCAR_DEGREES = (2.0, 16.0), (10.0, 25.0), (-45.0, 45.0)
PATCH_JITTER = 0.1


def find_lungs(images: Tensor, mode: Mode = "reference", side: int = PAPER_SIZE) -> Tensor:
    """Lungs of images ``(B, C, H, W)`` in [-1, 1], bool ``(B, H, W)``; see ``lung_mask``.

    They are segmented in 8-bit copies of ``side`` x ``side``; the recipe's limits are for 256.
    """
    size = images.shape[-2:]
    grey = _grey(images)
    if size != (side, side):
        grey = F.interpolate(
            grey, (side, side), mode="bilinear", align_corners=False, antialias=True
        )
    levels = ((grey[:, 0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    masks = lung_mask(levels, mode=mode)
    if size == (side, side):
        return masks
    return F.interpolate(masks[:, None].float(), size, mode="nearest-exact")[:, 0] > 0


def read_mask(path: str, size: int) -> Tensor:
    """A mask ``(size, size)`` from an ``.npy`` file, the nearest pixels of it.

    It lies on the square image: of images that are not square it must be padded as they are.
    """
    try:
        array = np.load(Path(path), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"anatomy_file: {path} is no .npy file: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or not (array != 0).any():
        raise InputError(f"anatomy_file: {path} must hold one mask (H, W) that is not empty")
    mask = torch.from_numpy((array != 0).astype(np.float32))
    return F.interpolate(mask[None, None], (size, size), mode="nearest-exact")[0, 0] > 0


def jitter(images: Tensor, strength: float) -> Tensor:
    """Change each image's brightness and contrast by a factor from ``1 - s`` to ``1 + s``."""
    if strength == 0:
        return images
    batch, (height, width) = len(images), images.shape[-2:]
    params = AnatomyPasteParams(
        width=torch.full((batch,), width),
        height=torch.full((batch,), height),
        source_corner=torch.zeros(batch, 2, dtype=torch.int64),
        centre=torch.tensor([height // 2, width // 2]).expand(batch, 2),
        brightness=_uniform(batch, 1 - strength, 1 + strength),
        contrast=_uniform(batch, 1 - strength, 1 + strength),
        jitter_order=torch.randint(2, (batch,)),
        black=torch.full((batch,), BLACK),
        **_hard_edges(batch),
    )
    return _paste(images, None, params)


def anatomical_paste(images: Tensor, masks: Tensor | None) -> Tensor:
    """AnatPaste: a patch of each image through a blurred shape, inside its mask.

    Args:
        images: ``(B, C, H, W)`` in [-1, 1].
        masks: ``(B, H, W)`` bool: where the anatomy is; None: everywhere.
    """
    batch, size = len(images), (images.shape[-2], images.shape[-1])
    params = AnatomyPasteParams.sample(batch, size, black=BLACK)
    scale = math.sqrt(size[0] * size[1]) / PAPER_SIZE
    # The attributes are views of the parameters.
    params.margin.copy_((params.margin * scale).round())
    params.sigma.mul_(scale)
    return _paste(images, masks, params)


def paste_patch(images: Tensor) -> Tensor:
    """CutPaste: a jittered patch of each image, somewhere else in it, with hard edges."""
    batch, (height, width) = len(images), images.shape[-2:]
    drawn = AnatomyPasteParams.sample(batch, (height, width), black=BLACK)
    room = torch.stack([height - drawn.height, width - drawn.width], dim=1)
    corner = (torch.rand(batch, 2, dtype=torch.float64) * room).long()
    params = AnatomyPasteParams(
        **{name: getattr(drawn, name) for name in PATCH},
        centre=corner + torch.stack([drawn.height, drawn.width], dim=1) // 2,
        **_hard_edges(batch),
    )
    return _paste(images, None, params)


def paste_scar(images: Tensor) -> Tensor:
    """CutPaste's scar: a thin jittered patch, turned by up to 45 degrees, somewhere else."""
    batch, (height, width) = len(images), images.shape[-2:]
    scale = math.sqrt(height * width) / PAPER_SIZE
    size = torch.stack(
        [_uniform(batch, *SCAR_HEIGHT) * scale, _uniform(batch, *SCAR_WIDTH) * scale], dim=1
    )
    size = size.round().clamp(min=1)
    room = torch.tensor([height, width]) - size
    source = (torch.rand(batch, 2, dtype=torch.float64) * room).floor()
    angle = torch.deg2rad(_uniform(batch, *SCAR_DEGREES))
    cosine, sine = angle.cos(), angle.sin()
    turned = torch.stack(
        [
            size[:, 0] * cosine + size[:, 1] * sine.abs(),
            size[:, 1] * cosine + size[:, 0] * sine.abs(),
        ],
        dim=1,
    ).ceil()
    room = (torch.tensor([height, width]) - turned).clamp(min=0)
    target = (torch.rand(batch, 2, dtype=torch.float64) * room).floor() + turned / 2
    brightness, contrast = (_uniform(batch, 1 - PATCH_JITTER, 1 + PATCH_JITTER) for _ in range(2))

    device = images.device
    size, source, target, cosine, sine, brightness, contrast = (
        value.to(device, torch.float32).reshape(batch, -1, 1, 1)
        for value in (size, source, target, cosine, sine, brightness, contrast)
    )
    row = torch.arange(height, device=device)[:, None] + 0.5
    column = torch.arange(width, device=device)[None, :] + 0.5
    down, right = row - target[:, 0], column - target[:, 1]
    # Where each pixel lies in the patch before it was turned.
    own_row = cosine[:, 0] * down + sine[:, 0] * right + size[:, 0] / 2
    own_column = cosine[:, 0] * right - sine[:, 0] * down + size[:, 1] / 2
    inside = (own_row >= 0) & (own_row < size[:, 0])
    inside &= (own_column >= 0) & (own_column < size[:, 1])
    place = (own_row + source[:, 0]).long().clamp(0, height - 1) * width
    place += (own_column + source[:, 1]).long().clamp(0, width - 1)
    patch = images.flatten(2).gather(2, place.flatten(1)[:, None].expand(-1, images.shape[1], -1))
    patch = (patch.view_as(images) - BLACK) * brightness + BLACK
    kept = inside[:, None]
    mean = torch.where(kept, _grey(patch), 0).sum(dim=(1, 2, 3), keepdim=True)
    mean = mean / kept.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)
    patch = (mean + (patch - mean) * contrast).clamp(-1, 1)
    return torch.where(kept, patch.to(images.dtype), images)


def _hard_edges(batch: int) -> dict[str, Tensor]:
    return {
        "shape": torch.full((batch,), WHOLE_PATCH),
        "sigma": torch.zeros(batch),
        "opacity": torch.ones(batch),
    }


def _paste(images: Tensor, masks: Tensor | None, params: AnatomyPasteParams) -> Tensor:
    return anatomy_paste(images, masks, params.to(images.device)).images.clamp_(-1, 1)


def _grey(images: Tensor) -> Tensor:
    """``(B, 1, H, W)``."""
    if images.shape[1] == 1:
        return images
    return (images * images.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)


def _uniform(batch: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(batch, dtype=torch.float64)
