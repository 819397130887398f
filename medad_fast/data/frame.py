"""Fitting a slice into a square and back, without changing its proportions in millimetres."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

__all__ = ["Frame"]


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
