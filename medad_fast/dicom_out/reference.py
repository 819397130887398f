"""References from DICOM results to their source, through stand-ins for highdicom.

highdicom copies from single-frame images of one class, and wants other things of each kind of
multi-frame file. So every frame of a source is shown to it as an image of its own, and the
references are put right afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medad_fast.dicom_out.source import DicomSource, SourceFrame

_CT = "1.2.840.10008.5.1.4.1.1.2"
_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def stand_in(source: DicomSource, frame: SourceFrame, first: SourceFrame) -> Any:
    """A single-frame image that stands for one frame, for highdicom to copy from.

    Each has an identifier of its own until :func:`finish` puts the source's in. Directions and
    spacing are the first frame's: they differ by rounding only.
    """
    from pydicom.dataset import Dataset
    from pydicom.uid import generate_uid

    told = Dataset()
    for tag, value in source.shared.items():
        if tag not in ("PatientOrientation", "BurnedInAnnotation"):
            setattr(told, tag, value)
    # highdicom applies the rules of this class: CT's if there is a place in the patient.
    told.SOPClassUID = _CT if source.placed else _CAPTURE
    told.SOPInstanceUID = generate_uid(None)
    told.SeriesInstanceUID = source.series
    told.Rows, told.Columns = source.plane
    if source.placed:
        told.ImagePositionPatient = list(frame.header["ImagePositionPatient"])
        told.ImageOrientationPatient = list(first.header["ImageOrientationPatient"])
    spacing = first.pixel_spacing()
    if spacing is not None:
        told.PixelSpacing = spacing
        told.SliceThickness = first.header.get("SliceThickness") or _distance_mm(source)
        if first.header.get("SpacingBetweenSlices"):
            told.SpacingBetweenSlices = first.header["SpacingBetweenSlices"]
    return told


def _distance_mm(source: DicomSource) -> str:
    """Between slices; 1 if unknown, since the standard wants a number."""
    from pydicom.valuerep import format_number_as_ds

    return str(format_number_as_ds(float((source.image.spacing_mm or (1.0,))[0])))


def finish(
    result: Any,
    source: DicomSource,
    frames: Sequence[SourceFrame],
    stand_ins: Sequence[Any],
    words: str,
) -> None:
    """Refer to the source's own images, and say in words what this is.

    Args:
        result: highdicom's object, made from ``stand_ins``; changed in place.
        source: of the frames.
        frames: what the frames of the result were made from.
        stand_ins: of these frames, from :func:`stand_in`.
        words: at most 1,024 characters.
    """
    from pydicom.dataset import Dataset

    def reference(frame: SourceFrame) -> Any:
        item = Dataset()
        item.ReferencedSOPClassUID = frame.sop_class
        item.ReferencedSOPInstanceUID = frame.sop_instance
        return item

    whole = {frame.sop_instance: frame for frame in frames}
    result.SourceImageSequence = [reference(frame) for frame in whole.values()]
    if len(frames) == 1 and frames[0].number is not None:
        result.SourceImageSequence[0].ReferencedFrameNumber = frames[0].number
    series = Dataset()
    series.SeriesInstanceUID = source.series
    series.ReferencedInstanceSequence = [reference(frame) for frame in whole.values()]
    result.ReferencedSeriesSequence = [series]
    _put_in_order(result, frames, stand_ins)
    result.DerivationDescription = words
    result.ImageComments = words
    if not source.placed or "PatientOrientation" in result:
        result.PatientOrientation = source.shared.get("PatientOrientation")
    if result.Modality != "SEG":
        result.Laterality = source.shared.get("Laterality", "")


def _put_in_order(result: Any, frames: Sequence[SourceFrame], stand_ins: Sequence[Any]) -> None:
    """Put the frames in the order of the source, each with a reference to its own.

    highdicom runs through a volume the other way, which other readers take for another geometry.
    """
    groups = list(result.get("PerFrameFunctionalGroupsSequence") or ())
    if not groups:
        return
    place_of = {str(told.SOPInstanceUID): place for place, told in enumerate(stand_ins)}
    places = []
    for group in groups:
        (derivation,) = group.DerivationImageSequence
        (item,) = derivation.SourceImageSequence
        place = place_of[str(item.ReferencedSOPInstanceUID)]
        places.append(place)
        item.ReferencedSOPClassUID = frames[place].sop_class
        item.ReferencedSOPInstanceUID = frames[place].sop_instance
        if frames[place].number is not None:
            item.ReferencedFrameNumber = frames[place].number
    order = np.argsort(places)
    keyword = "FloatPixelData" if "FloatPixelData" in result else "PixelData"
    dtype = np.float32 if keyword == "FloatPixelData" else np.uint8
    count = len(groups) * result.Rows * result.Columns
    pixels = np.frombuffer(result.get(keyword), dtype, count).reshape(len(groups), -1)
    packed = pixels[order].tobytes()
    setattr(result, keyword, packed + b"\0" * (len(packed) % 2))
    result.PerFrameFunctionalGroupsSequence = [groups[i] for i in order]
    for index, group in enumerate(result.PerFrameFunctionalGroupsSequence, start=1):
        (content,) = group.FrameContentSequence
        values = content.DimensionIndexValues
        if len(groups) > 1:
            earlier = list(values)[:-1] if hasattr(values, "__len__") else []
            content.DimensionIndexValues = [*earlier, index]
