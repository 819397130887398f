"""One simulated head: what is drawn of it but its lesion, and what a scanner makes of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medad_fast.demo.anatomy import Anatomy, SmoothField
from medad_fast.demo.lesions import Contrast, Lesion

CENTRE_MM = np.array([0.0, -17.0, 24.0])
"""Place of the template about which heads are turned and in which the field of view is centred."""
_VENTRICLES_MM = np.array([0.0, -12.0, 14.0])


@dataclass(frozen=True, eq=False)
class Head:
    """Everything that was drawn for one subject but its lesion."""

    template_mm: NDArray[np.float64]
    """Where each sample lies in the template, ``(S, 3, H, W, 3)``; 3 samples across a slice."""
    contrast: Contrast
    texture: float
    gamma: float
    bias: NDArray[np.float32]
    """``(S, H, W)``."""
    noise: NDArray[np.float32]
    """Real and imaginary part, ``(2, S, H, W)``, in units of white matter."""
    grey_levels: float


def draw_head(rng: np.random.Generator, scanner_mm: NDArray[np.float64]) -> Head:
    """Of samples that lie at ``scanner_mm``, ``(S, 3, H, W, 3)``, in the scanner."""
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_euler("xyz", rng.normal(0, 3, 3).clip(-7, 7), degrees=True).as_matrix()
    shrink = 1 / rng.uniform(0.94, 1.06, 3)
    shift_mm = rng.normal(0, 2, 3).clip(-5, 5)
    template_mm = CENTRE_MM + (scanner_mm - CENTRE_MM - shift_mm) @ (turn.T * shrink)

    warp = np.zeros_like(template_mm)
    for sigma_mm, sd_mm in ((30.0, 3.0), (12.0, 1.3)):
        for axis in range(3):
            warp[..., axis] += sd_mm * SmoothField(rng, sigma_mm).sample(scanner_mm)
    from_ventricles = template_mm - _VENTRICLES_MM
    near = np.exp(-((from_ventricles / 22.0) ** 2).sum(-1, keepdims=True))
    template_mm = template_mm + warp + rng.uniform(-0.18, 0.18) * near * from_ventricles

    centres_mm = scanner_mm[:, scanner_mm.shape[1] // 2]
    bias = SmoothField(rng, 45.0).sample(centres_mm)
    bias = bias * (rng.uniform(0.08, 0.15) / abs(bias).max())
    noise = rng.standard_normal((2, *bias.shape), dtype=np.float32)
    return Head(
        template_mm=template_mm,
        contrast=Contrast(fluid=rng.uniform(0.15, 0.40), grey=rng.uniform(0.60, 0.82)),
        texture=rng.uniform(0.5, 1.5),
        gamma=rng.uniform(0.85, 1.2),
        bias=1 + bias,
        noise=noise * np.float32(rng.uniform(0.01, 0.02)),
        grey_levels=rng.uniform(500, 1500),
    )


def scan(
    head: Head, anatomy: Anatomy, brain: NDArray[np.bool_], lesion: Lesion | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Stored grey levels ``(S, H, W)``, and which share of each voxel is lesion."""
    points_mm = head.template_mm
    tissue_mm = points_mm if lesion is None else lesion.displaced(points_mm)
    grey = anatomy.sample(anatomy.grey, tissue_mm)
    white = anatomy.sample(anatomy.white, tissue_mm)
    texture = head.texture * anatomy.sample(anatomy.texture, tissue_mm)
    contrast = head.contrast
    # Whatever is neither grey nor white is fluid, also beyond the brain's edge.
    signal = contrast.fluid + (contrast.grey - contrast.fluid) * grey + texture
    signal += (contrast.white - contrast.fluid) * white
    share = np.zeros_like(signal)
    if lesion is not None:
        signal, share = lesion.paint(signal, texture, points_mm, white)
    clean = head.bias * signal.clip(0.0).mean(1) ** head.gamma
    noisy = np.hypot(clean + head.noise[0], head.noise[1])
    return np.rint(np.where(brain, head.grey_levels * noisy, 0)), share.mean(1)
