"""Stored grey levels to [-1, 1], and which pixels are foreground.

Foreground is what is brighter than the darkest value of the image (the background of a
skull-stripped or collimated image), and in CT what is denser than -500 HU (the body without air).
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from medad_fast.data.image import Image
from medad_fast.data.preprocess import PreprocessConfig
from medad_fast.errors import InputError

__all__ = ["finite_pixels", "is_foreground", "modality_of", "to_channels", "to_unit_range"]

_CT_BODY_HU = -500.0
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""ITU-R BT.601."""

_ALIKE = {"DX": "CR", "DR": "CR", "RG": "CR"}
"""Projection radiographs differ in the detector, not in what the picture is."""


def modality_of(image: Image, config: PreprocessConfig) -> str:
    """The modality to treat an image as; warns where the file says another than the run's."""
    if config.modality == "auto":
        return image.modality
    told = image.modality
    if told != "OT" and _ALIKE.get(told, told) != _ALIKE.get(config.modality, config.modality):
        warnings.warn(
            f"{image.provenance.source}: is {told}, but is treated as {config.modality}, which "
            "this pipeline was made for",
            stacklevel=2,
        )
    return config.modality


def finite_pixels(image: Image, config: PreprocessConfig) -> NDArray[np.float32]:
    """Pixels as float32 without NaN and infinities.

    Raises:
        InputError: there are such pixels and the settings do not say that they are zero.
    """
    pixels = image.pixels.astype(np.float32)
    bad = ~np.isfinite(pixels)
    count = int(bad.sum())
    if count == 0:
        return pixels
    source = image.provenance.source
    if config.nonfinite == "error":
        raise InputError(
            f"{source}: has {count} pixels that are NaN or infinite; nonfinite=zero makes them 0"
        )
    warnings.warn(f"{source}: has {count} pixels that are NaN or infinite; made 0", stacklevel=2)
    pixels[bad] = 0
    return pixels


def to_channels(
    pixels: NDArray[np.float32], config: PreprocessConfig, image: Image
) -> NDArray[np.float32]:
    """``(S, H, W[, 3])`` to ``(S, 1, H, W)``, or to ``(S, 3, H, W)`` if colour stays."""
    if pixels.ndim == 3:
        return pixels[:, None]
    if config.channels == 3:
        return pixels.transpose(0, 3, 1, 2)
    if (pixels == pixels[..., :1]).all():  # a grey picture that was saved as colour
        return pixels[None, ..., 0].transpose(1, 0, 2, 3)
    warnings.warn(
        f"{image.provenance.source}: is in colour; only its luminance is used", stacklevel=2
    )
    grey: NDArray[np.float32] = pixels @ _LUMINANCE
    return grey[:, None]


def is_foreground(
    pixels: NDArray[np.float32], config: PreprocessConfig, modality: str
) -> NDArray[np.bool_]:
    """``(S, C, H, W)`` in stored units to ``(S, H, W)``; see the module's docstring."""
    threshold = _CT_BODY_HU if modality == "CT" else float(pixels.min())
    foreground: NDArray[np.bool_] = pixels.max(axis=1) > threshold
    return foreground


def to_unit_range(
    pixels: NDArray[np.float32],
    foreground: NDArray[np.bool_],
    config: PreprocessConfig,
    modality: str,
) -> NDArray[np.float32]:
    """Clip ``(S, C, H, W)`` to the window and map it linearly to [-1, 1].

    The window is ``grey_window`` where it is set, else ``ct_window_hu`` for CT. For everything else
    it is two percentiles of the foreground of the whole image or volume, over all channels alike.
    """
    if config.grey_window is not None:
        low, high = config.grey_window
    elif modality == "CT":
        low, high = config.ct_window_hu
    elif foreground.any():
        inside = np.moveaxis(pixels, 1, -1)[foreground]
        low, high = (float(x) for x in np.percentile(inside, config.percentiles))
    else:
        low = high = float(pixels.max())
    if not low < high:  # one grey level: background or foreground, nothing between
        return np.where(foreground[:, None] & (pixels >= low), np.float32(1), np.float32(-1))
    unit = (pixels - np.float32(low)) * np.float32(2 / (high - low)) - 1
    return unit.clip(-1, 1)
