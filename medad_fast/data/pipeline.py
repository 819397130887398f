"""From an image to the tensors that methods work on, and from their maps back to the image."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medad_fast.data.dataset import Case
from medad_fast.data.frame import Frame
from medad_fast.data.geometry import geometry_of
from medad_fast.data.image import Geometry, Image
from medad_fast.data.intensity import (
    finite_pixels,
    is_foreground,
    modality_of,
    to_channels,
    to_unit_range,
)
from medad_fast.data.preprocess import PreprocessConfig
from medad_fast.data.reading import read
from medad_fast.errors import InputError

__all__ = ["Pipeline", "SliceSet", "Slices", "load_slices", "resolve_modality"]

_LIKELY_AIR_HU = -900


@dataclass(frozen=True, eq=False)
class Slices:
    """The slices of one image that are worth scoring."""

    images: Tensor
    """``(N, C, h, w)`` float32 in [-1, 1]."""
    index: Tensor
    """``(N,)`` int64: place of each slice among all slices of the volume, in the run's plane."""
    skipped: int
    """Slices left out for want of foreground."""


@dataclass(frozen=True, eq=False)
class SliceSet:
    """The slices of many cases."""

    images: Tensor
    """``(N, C, h, w)`` float32 in [-1, 1]."""
    case: Tensor
    """``(N,)`` int64: place of each slice's case in the list that was loaded."""
    index: Tensor
    """``(N,)`` int64: place of each slice in its volume."""
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
        modality = modality_of(image, config)
        pixels = finite_pixels(image, config)
        if modality == "OT" and image.is_volume and pixels.min() <= _LIKELY_AIR_HU:
            warnings.warn(
                f"{image.provenance.source}: looks like CT but does not say so; "
                "modality=CT would keep its Hounsfield units",
                stacklevel=2,
            )
        plane = self._plane(image)
        if plane is not None and image.geometry is not None:
            pixels = plane.to_slices(image.geometry.to_source(pixels))
        channels = to_channels(pixels, config, image)
        foreground = is_foreground(channels, config, modality)
        unit = to_unit_range(channels, foreground, config, modality)

        index = np.arange(len(unit))
        if image.is_volume and len(unit) > 1:
            index = index[foreground.mean((1, 2)) >= config.min_foreground]
        kept = torch.from_numpy(np.ascontiguousarray(unit[index]))
        frame = self._frame(image, (unit.shape[-2], unit.shape[-1]))
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
        plane = self._plane(image)
        shape = image.pixels.shape[:3]
        if plane is not None and image.geometry is not None:
            shape = plane.to_slices(image.geometry.to_source(_grid(image))).shape
        if maps.shape != (len(index), 1, self.config.image_size, self.config.image_size):
            raise InputError(
                f"maps must have the shape ({len(index)}, 1, {self.config.image_size}, "
                f"{self.config.image_size}), got {tuple(maps.shape)}"
            )
        restored = np.zeros(shape, np.float32)
        frame = self._frame(image, (shape[1], shape[2]))
        undone = frame.undo(maps.detach().to("cpu", torch.float32))
        restored[index.cpu().numpy()] = undone[:, 0].numpy()
        if plane is not None and image.geometry is not None:
            restored = image.geometry.to_slices(plane.to_source(restored))
        return np.ascontiguousarray(restored)

    def _plane(self, image: Image) -> Geometry | None:
        """How to slice a volume where that is not how the reader did it."""
        if image.geometry is None or len(image.pixels) == 1 or self.config.axis == "axial":
            return None
        return geometry_of(image.geometry.affine, self.config.axis)

    def _frame(self, image: Image, size: tuple[int, int]) -> Frame:
        plane = self._plane(image)
        row_mm, column_mm = 1.0, 1.0
        if plane is not None:
            lengths = np.linalg.norm(plane.affine[:3, :3], axis=0)
            row_mm, column_mm = float(lengths[plane.axes[1]]), float(lengths[plane.axes[2]])
        elif image.spacing_mm is not None:
            row_mm, column_mm = image.spacing_mm[1:]
        return Frame(self.config.image_size, *size, row_mm=row_mm, column_mm=column_mm)


def _grid(image: Image) -> NDArray[Any]:
    """An array of the image's slices that takes no memory: only its shape matters."""
    return np.broadcast_to(np.uint8(0), image.pixels.shape[:3])


def resolve_modality(config: PreprocessConfig, cases: Sequence[Case]) -> PreprocessConfig:
    """Fix ``modality="auto"`` to that of the first case, so that files of another one warn later.

    Stays ``"auto"`` where the files do not tell their modality (NIfTI, PNG, JPEG).
    """
    if config.modality != "auto" or not cases:
        return config
    told = Pipeline(config).read(cases[0].files).modality
    return config if told == "OT" else replace(config, modality=told)


def load_slices(
    cases: Sequence[Case],
    pipeline: Pipeline,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> SliceSet:
    """Read the files of all cases and keep their slices in memory.

    Args:
        cases: what to read.
        pipeline: how to prepare it.
        progress: called with the number of cases read and of all cases.

    Raises:
        InputError: a file cannot be read, or no slice of any file has enough foreground.
    """
    parts: list[Slices] = []
    for done, case in enumerate(cases, start=1):
        parts.append(pipeline(pipeline.read(case.files)))
        if progress is not None:
            progress(done, len(cases))
    counts = torch.tensor([len(part.index) for part in parts], dtype=torch.int64)
    skipped = sum(part.skipped for part in parts)
    if counts.sum() == 0:
        raise InputError(
            f"no slice of {len(cases)} files has a foreground of "
            f"{pipeline.config.min_foreground:.0%}: {skipped} were skipped"
        )
    return SliceSet(
        images=torch.cat([part.images for part in parts]),
        case=torch.repeat_interleave(torch.arange(len(parts)), counts),
        index=torch.cat([part.index for part in parts]),
        skipped=skipped,
    )
