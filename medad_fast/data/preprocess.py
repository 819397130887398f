"""The settings of preprocessing: saved with a run, so that predicting cannot disagree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from medad_fast.data.geometry import Axis
from medad_fast.settings import Channels, Rule, checked, from_fields, setting, to_fields

CODE = Rule(
    "auto or a DICOM code", lambda word: word == "auto" or (word.isupper() and len(word) <= 16)
)
Pair = tuple[float, float]


def _rising(low: float, high: float, wanted: str) -> Rule:
    return Rule(wanted, lambda pair: low <= pair[0] < pair[1] <= high)


@checked
class PreprocessConfig:
    """How an image becomes tensors in [-1, 1]."""

    image_size: int = setting(224, "side of the square slices, in pixels", ge=16, le=1024)
    channels: Channels = setting(1, "1: colour becomes luminance; 3: grey is repeated")
    modality: Annotated[str, CODE] = setting(
        "auto", '"auto": as each file says; a DICOM code: as this one, and other files warn'
    )
    axis: Axis = setting("axial", "the plane in which volumes are sliced")
    min_foreground: float = setting(
        0.05, "slices of volumes with a smaller share of foreground are skipped", ge=0, le=1
    )
    percentiles: Annotated[Pair, _rising(0, 100, "two rising numbers from 0 to 100")] = setting(
        (0.5, 99.5), "of the foreground's grey levels: what becomes -1 and 1. Not for CT"
    )
    ct_window_hu: Annotated[Pair, _rising(-1e6, 1e6, "two rising numbers")] = setting(
        (-1000.0, 1000.0), "what becomes -1 and 1 in CT, in Hounsfield units"
    )
    grey_window: Annotated[Pair, _rising(-1e12, 1e12, "two rising numbers")] | None = setting(
        None,
        "what becomes -1 and 1 in every image, in the units of its pixels, in place of percentiles "
        "and the CT window: for files whose values mean the same in all of them",
    )
    voi_window: bool = setting(
        False, "clip DICOM values to the window that the file recommends before anything else"
    )
    volume: int | None = setting(
        None, "which volume of NIfTI files that hold several, from 0; refused without it", ge=0
    )
    nonfinite: Literal["error", "zero"] = setting(
        "error", "what NaN and infinite pixels are: an error, or 0 in stored units"
    )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML or JSON; tuples as lists."""
        return to_fields(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PreprocessConfig:
        """The settings of :meth:`to_dict`; missing ones have their default.

        Raises:
            InputError: an unknown name, or a value that cannot be.
        """
        made: PreprocessConfig = from_fields(cls, values, "preprocess")
        return made
