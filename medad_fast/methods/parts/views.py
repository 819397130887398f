"""Random views of images for contrastive learning, the whole batch at once.

Source: the augmentations of CRADL (Lueth et al., 2023) in the group's released code
(MIC-DKFZ/cOOpD, data_aug/bg_wrapper.py, with batchgenerators): mirror, rotate and scale, change
brightness, add noise, cover squares. There images are standardised and clipped to [-1.5, 1.5] with
a background of 0; here they lie in [-1, 1] with a background of -1, so brightness multiplies the
distance from black, and noise and grey levels are two thirds of that code's. Elastic deformation
and the step from 129 to 128 pixels are left out: the first is off there by default, the second
moves by less than a pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def random_view(
    images: Tensor,
    *,
    mirror: bool,
    rotation: float,
    scale: tuple[float, float],
    shift: float,
    brightness: tuple[float, float],
    noise_sigma: float,
) -> Tensor:
    """A view of each image ``(B, C, H, W)`` in [-1, 1], by torch's global generator.

    Args:
        images: floating point.
        mirror: exchange left and right in half of the images.
        rotation: largest angle in radians, either way.
        scale: smallest and largest factor of the section that is shown, around 1: above 1 shows
            more, beyond the border its pixels go on. Half of the views are enlarged, half reduced.
        shift: largest move along each axis, as a share of the side.
        brightness: smallest and largest factor of the distance from black.
        noise_sigma: largest standard deviation of the noise.
    """
    count, device = len(images), images.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count, device=device).uniform_(low, high)

    side = torch.where(torch.rand(count, device=device) < 0.5, 1.0, -1.0) if mirror else 1.0
    angle = uniform(-rotation, rotation)
    reduced = torch.rand(count, device=device) < 0.5
    factor = torch.where(reduced, uniform(1.0, scale[1]), uniform(scale[0], 1.0))
    sine, cosine = factor * angle.sin(), factor * angle.cos()
    moved = [uniform(-2 * shift, 2 * shift) for _ in range(2)]
    theta = torch.stack([side * cosine, -side * sine, moved[0], sine, cosine, moved[1]], dim=1)
    grid = F.affine_grid(theta.view(count, 2, 3), list(images.shape), align_corners=False)
    views = F.grid_sample(
        images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    views = (views + 1) * uniform(*brightness)[:, None, None, None] - 1
    views = views + uniform(0.0, noise_sigma)[:, None, None, None] * torch.randn_like(views)
    return views.clamp(-1, 1)


def cover_squares(images: Tensor, most: int, largest: float) -> Tensor:
    """Cover 0 to ``most`` squares of each image with a grey level, by torch's global generator.

    Squares of one image have one side, up to ``largest`` times the image's, and lie inside it; each
    has its own grey level from -1 to 1 in each channel.
    """
    count, channels, height, width = images.shape
    device = images.device
    number = torch.randint(most + 1, (count, 1, 1, 1), device=device)
    side = torch.floor(torch.rand(count, 1, 1, 1, device=device) * largest * min(height, width))
    rows = torch.arange(height, device=device)[:, None]
    columns = torch.arange(width, device=device)
    for square in range(most):
        top, left = torch.rand(2, count, 1, 1, 1, device=device)
        top = (top * (height - side + 1)).floor()
        left = (left * (width - side + 1)).floor()
        inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
        grey = 2 * torch.rand(count, channels, 1, 1, device=device) - 1
        images = torch.where(inside & (square < number), grey, images)
    return images
