"""From an image to the tensors that methods work on, and from their maps back to the image.

Foreground is what is brighter than the darkest value of the image (the background of a
skull-stripped or collimated image), and in CT what is denser than -500 HU (the body without air).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medad_fast.data.dataset import Case
from medad_fast.data.geometry import in_plane, plane_of, slice_spacing_mm
from medad_fast.data.image import Image
from medad_fast.data.preprocess import PreprocessConfig
from medad_fast.data.reading import read
from medad_fast.errors import InputError

_LIKELY_AIR_HU = -900
_CT_BODY_HU = -500.0
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""ITU-R BT.601."""

_ALIKE = {"DX": "CR", "DR": "CR", "RG": "CR"}
"""Projection radiographs differ in the detector, not in what the picture is."""


@dataclass(frozen=True)
class Frame:
    """Where a slice lies in the square.

    The longer side in millimetres fills the square, the shorter one is centred and padded. Pixels
    are taken as areas (half-pixel centres), so going there and back does not shift anything.
    """

    side: int
    """Of the square, in pixels."""
    height: int
    """Rows of the source slice."""
    width: int
    """Columns of the source slice."""
    row_mm: float = 1.0
    """Distance between rows of the source."""
    column_mm: float = 1.0
    """Distance between columns of the source."""

    @property
    def inner(self) -> tuple[int, int]:
        """Rows and columns of the square that the slice covers."""
        height_mm, width_mm = self.height * self.row_mm, self.width * self.column_mm
        longest = max(height_mm, width_mm)
        return (
            max(1, round(self.side * height_mm / longest)),
            max(1, round(self.side * width_mm / longest)),
        )

    @property
    def corner(self) -> tuple[int, int]:
        """Row and column of the square at which the slice begins."""
        rows, columns = self.inner
        return (self.side - rows) // 2, (self.side - columns) // 2

    def fit(self, slices: Tensor, padding: float) -> Tensor:
        """``(N, C, height, width)`` to ``(N, C, side, side)``, smoothed where it shrinks."""
        if slices.shape[-2:] != self.inner:
            slices = functional.interpolate(
                slices, self.inner, mode="bilinear", align_corners=False, antialias=True
            )
        top, left = self.corner
        rows, columns = self.inner
        margins = (left, self.side - columns - left, top, self.side - rows - top)
        return functional.pad(slices, margins, value=padding)

    def undo(self, maps: Tensor) -> Tensor:
        """``(N, C, side, side)`` to ``(N, C, height, width)``; bilinear."""
        top, left = self.corner
        rows, columns = self.inner
        inner = maps[..., top : top + rows, left : left + columns]
        if inner.shape[-2:] == (self.height, self.width):
            return inner
        size = (self.height, self.width)
        return functional.interpolate(inner, size, mode="bilinear", align_corners=False)


@dataclass(frozen=True, eq=False)
class Slices:
    """The slices of one image that are worth scoring."""

    images: Tensor
    """``(N, C, h, w)`` float32 in [-1, 1]."""
    index: Tensor
    """``(N,)`` int64: place of each slice among all slices of the volume, in the run's plane."""
    skipped: int
    """Slices left out for want of foreground."""


class Pipeline:
    """Turns images into square slices in [-1, 1], always in the same way.

    The order of work: the run's plane, NaN and infinities, channels, grey-level window, slices
    without foreground left out, resizing, padding with -1.
    """

    def __init__(self, config: PreprocessConfig) -> None:
        self.config = config

    def read(self, files: Path | Sequence[Path]) -> Image:
        """Read one file or series with the run's settings; see :func:`medad_fast.data.read`."""
        return read(files, voi_window=self.config.voi_window, volume=self.config.volume)

    def __call__(self, image: Image) -> Slices:
        """Slices of an image.

        Raises:
            InputError: the image has NaN or infinite pixels and the settings refuse them.
        """
        config = self.config
        modality = _modality_of(image, config)
        pixels = _finite_pixels(image, config)
        if modality == "OT" and image.is_volume and pixels.min() <= _LIKELY_AIR_HU:
            warnings.warn(
                f"{image.provenance.source}: looks like CT but does not say so; "
                "modality=CT would keep its Hounsfield units",
                stacklevel=2,
            )
        channels = _to_channels(in_plane(pixels, image, config.axis), config, image)
        foreground = _is_foreground(channels, modality)
        unit = _to_unit_range(channels, foreground, config, modality)

        index = np.arange(len(unit))
        if image.is_volume and len(unit) > 1:
            index = index[foreground.mean((1, 2)) >= config.min_foreground]
        kept = torch.from_numpy(np.ascontiguousarray(unit[index]))
        frame = self._frame(image, *unit.shape[-2:])
        return Slices(
            images=frame.fit(kept, padding=-1.0).expand(-1, config.channels, -1, -1).contiguous(),
            index=torch.from_numpy(index),
            skipped=len(unit) - len(index),
        )

    def restore(self, maps: Tensor, image: Image, index: Tensor) -> NDArray[np.float32]:
        """Maps of the slices back on the grid of the image.

        Args:
            maps: ``(N, 1, h, w)``, one for each slice that the pipeline gave.
            image: the image they were made from.
            index: ``Slices.index`` of it.

        Returns:
            ``(S, H, W)``, slices as those of ``image``; 0 in slices that were left out.
        """
        shape = in_plane(image.pixels, image, self.config.axis).shape[:3]
        wanted = (len(index), 1, self.config.image_size, self.config.image_size)
        if maps.shape != wanted:
            raise InputError(f"maps must have the shape {wanted}, got {tuple(maps.shape)}")
        restored = np.zeros(shape, np.float32)
        frame = self._frame(image, *shape[1:])
        undone = frame.undo(maps.detach().to("cpu", torch.float32))
        restored[index.cpu().numpy()] = undone[:, 0].numpy()
        plane = plane_of(image, self.config.axis)
        if plane is not None and image.geometry is not None:
            restored = image.geometry.to_slices(plane.to_source(restored))
        return np.ascontiguousarray(restored)

    def _frame(self, image: Image, rows: int, columns: int) -> Frame:
        plane = plane_of(image, self.config.axis)
        spacing_mm = image.spacing_mm if plane is None else slice_spacing_mm(plane)
        _, row_mm, column_mm = spacing_mm or (1.0, 1.0, 1.0)
        return Frame(self.config.image_size, rows, columns, row_mm, column_mm)


def resolve_modality(config: PreprocessConfig, cases: Sequence[Case]) -> PreprocessConfig:
    """Fix ``modality="auto"`` to that of the first case, so that files of another one warn later.

    Stays ``"auto"`` where the files do not tell their modality (NIfTI, PNG, JPEG).
    """
    if config.modality != "auto" or not cases:
        return config
    told = Pipeline(config).read(cases[0].files).modality
    return config if told == "OT" else replace(config, modality=told)


def _modality_of(image: Image, config: PreprocessConfig) -> str:
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


def _finite_pixels(image: Image, config: PreprocessConfig) -> NDArray[np.float32]:
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


def _to_channels(
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


def _is_foreground(pixels: NDArray[np.float32], modality: str) -> NDArray[np.bool_]:
    """``(S, C, H, W)`` in stored units to ``(S, H, W)``; see the module's docstring."""
    threshold = _CT_BODY_HU if modality == "CT" else float(pixels.min())
    foreground: NDArray[np.bool_] = pixels.max(axis=1) > threshold
    return foreground


def _to_unit_range(
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
