"""The settings of preprocessing: saved with a run, so that predicting cannot disagree."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from medad_fast.data.geometry import Axis
from medad_fast.errors import InputError

__all__ = ["PreprocessConfig"]


@dataclass(frozen=True)
class PreprocessConfig:
    """How an image becomes tensors in [-1, 1]."""

    image_size: int = 224
    """Side of the square slices, in pixels."""
    channels: Literal[1, 3] = 1
    """1: colour becomes luminance; 3: grey is repeated."""
    modality: str = "auto"
    """``"auto"``: as each file says; a DICOM code: as this one, and other files warn."""
    axis: Axis = "axial"
    """The plane in which volumes are sliced."""
    min_foreground: float = 0.05
    """Slices of volumes with a smaller share of foreground are skipped."""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """Of the foreground's grey levels: what becomes -1 and 1. Not for CT."""
    ct_window_hu: tuple[float, float] = (-1000.0, 1000.0)
    """What becomes -1 and 1 in CT, in Hounsfield units."""
    grey_window: tuple[float, float] | None = None
    """What becomes -1 and 1 in every image, in the units of its pixels, in place of percentiles and
    the CT window: for files whose values mean the same in all of them."""
    voi_window: bool = False
    """Clip DICOM values to the window that the file recommends before anything else."""
    volume: int | None = None
    """Which volume of NIfTI files that hold several, from 0; they are refused without it."""
    nonfinite: Literal["error", "zero"] = "error"
    """What NaN and infinite pixels are: an error, or 0 in stored units."""

    def __post_init__(self) -> None:
        for wanted, fine in (
            ("image_size must be a whole number from 16 to 1024", _is_size(self.image_size)),
            ("channels must be 1 or 3", _is_whole(self.channels) and self.channels in (1, 3)),
            ("modality must be auto or a DICOM code", _is_code(self.modality)),
            (f"axis must be one of {', '.join(get_args(Axis))}", self.axis in get_args(Axis)),
            ("min_foreground must be a share from 0 to 1", _is_within(self.min_foreground, 0, 1)),
            ("percentiles must be two rising numbers from 0 to 100", _rises(self.percentiles, 100)),
            ("ct_window_hu must be two rising numbers", _rises(self.ct_window_hu)),
            (
                "grey_window must be two rising numbers or null",
                self.grey_window is None or _rises(self.grey_window, 1e12),
            ),
            ("voi_window must be true or false", isinstance(self.voi_window, bool)),
            (
                "volume must be a whole number from 0, or null",
                self.volume is None or (_is_whole(self.volume) and self.volume >= 0),
            ),
            ("nonfinite must be error or zero", self.nonfinite in ("error", "zero")),
        ):
            if not fine:
                field = wanted.split()[0]
                raise InputError(f"{wanted}, got {getattr(self, field)!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML or JSON; tuples as lists."""
        values = dataclasses.asdict(self)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PreprocessConfig:
        """The settings of :meth:`to_dict`; missing ones have their default.

        Raises:
            InputError: an unknown name, or a value that cannot be.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise InputError(
                    f"preprocess has no setting {name!r}; it has {', '.join(sorted(known))}"
                )
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**plain)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_size(value: int) -> bool:
    return _is_whole(value) and 16 <= value <= 1024


def _is_code(value: object) -> bool:
    return value == "auto" or (isinstance(value, str) and value.isupper() and len(value) <= 16)


def _is_within(value: object, low: float, high: float) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return low <= value <= high


def _rises(pair: object, high: float = 1e6) -> bool:
    low = 0.0 if high == 100 else -high
    return (
        isinstance(pair, tuple)
        and len(pair) == 2
        and all(_is_within(each, low, high) for each in pair)
        and bool(pair[0] < pair[1])
    )
