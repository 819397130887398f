"""A chest of a few thousand voxels: trunk, two lungs in lobes, heart, and a spine."""

from __future__ import annotations

import functools

import numpy as np

from bench.quality.sets.thorax import HEART, Thorax

SPACING_MM = (12.0, 7.0, 7.0)
SHAPE = (20, 44, 48)


@functools.cache
def small_thorax() -> Thorax:
    y, z, x = np.meshgrid(
        *(
            step * (np.arange(side) - 0.5 * (side - 1))
            for side, step in zip(SHAPE, SPACING_MM, strict=True)
        ),
        indexing="ij",
    )

    def ball(middle: tuple[float, float, float], half: tuple[float, float, float]) -> np.ndarray:
        axes = zip((y, z, x), middle, half, strict=True)
        return sum(((axis - place) / size) ** 2 for axis, place, size in axes) < 1

    attenuation = np.where((y / 110) ** 2 + (x / 155) ** 2 < 1, 1.0, 0.0).astype(np.float32)
    labels = np.zeros(SHAPE, dtype=np.uint8)
    right, left = ball((0, 0, -70), (80, 110, 48)), ball((0, 0, 75), (80, 105, 45))
    attenuation[right | left] = 0.15
    labels[right] = np.where(z[right] < -20, 12, np.where(z[right] < 30, 13, 14))
    labels[left] = np.where(z[left] < 10, 10, 11)
    heart = ball((-10, 45, 15), (50, 45, 50))
    attenuation[heart], labels[heart] = 1.05, HEART
    attenuation[(abs(x) < 12) & (y > 70) & (y < 100)] = 1.5
    return Thorax(attenuation, labels, SPACING_MM)
