"""Anomaly maps as DICOM objects in the study of their source: map, segmentation, picture.

All are marked as research results that are not for diagnosis, say what made them, and refer to the
frame of the source that each of their frames was made from. Needs highdicom (the ``dicom`` extra).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.data.formats import quiet
from medad_fast.data.limits import naming
from medad_fast.dicom_out.origin import NOT_FOR_DIAGNOSIS, MapOrigin
from medad_fast.dicom_out.reference import finish, stand_in
from medad_fast.dicom_out.source import DicomSource, SourceFrame
from medad_fast.errors import InputError
from medad_fast.files import atomic_write

__all__ = [
    "require_highdicom",
    "write_captures",
    "write_parametric_map",
    "write_segmentation",
]

_LABEL = "NOT_DIAGNOSTIC"  # a ContentLabel has 16 capitals at most
_SERIES_NUMBERS = {"map": 9001, "segmentation": 9002, "capture": 9003}
_PLACE = (
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SliceThickness",
    "SpacingBetweenSlices",
)
"""No attributes of a secondary capture: with them it is a Standard Extended SOP Class, and readers
that know nothing of the extension may ignore them (DICOM PS3.2)."""


def require_highdicom() -> None:
    """Refuse to go on without highdicom.

    Raises:
        InputError: it is not installed; says how to install it.
    """
    if find_spec("highdicom") is None:
        raise InputError('DICOM results need highdicom: pip install "medad-fast[dicom]"')


def write_parametric_map(
    path: Path, maps: NDArray[np.float32], source: DicomSource, origin: MapOrigin
) -> None:
    """Write the map's own float32 values, one frame for each frame of the source.

    Args:
        path: where to.
        maps: ``(frames, rows, columns)``, as :meth:`DicomSource.as_stored` gives them.
        source: what it refers to; must be ``placed``.
        origin: what made the map.

    Raises:
        InputError: the source's own attributes make no valid object.
        DeviceError: the disk is full or not writable.
    """
    with naming(source.image.provenance.source, "the source of a DICOM result", tell=False):
        hd = _highdicom()
        stand_ins = [stand_in(source, frame, source.frames[0]) for frame in source.frames]
        with quiet():
            window = hd.VOILUTTransformation(
                window_center=(origin.low + origin.high) / 2,
                window_width=origin.high - origin.low,
                voi_lut_function="LINEAR_EXACT",  # plain LINEAR takes widths from 1 on only
            )
            result = hd.pm.ParametricMap(
                stand_ins,
                np.ascontiguousarray(maps),
                real_world_value_mappings=[_unitless(maps)],
                voi_lut_transformations=[window],
                # A residual of the face is still a face.
                contains_recognizable_visual_features=True,
                content_label=_LABEL,
                content_description=_short(f"{NOT_FOR_DIAGNOSIS}: anomaly map, {origin.method}"),
                **_common(hd, origin, "map", "Anomaly map"),
            )
            finish(result, source, source.frames, stand_ins, origin.sentence())
    _save(result, path)


def write_segmentation(
    folder: Path, shown: NDArray[np.uint8], source: DicomSource, origin: MapOrigin
) -> list[Path]:
    """Write the map as a fractional segmentation: 0 to 255 for ``low`` to ``high`` of the scale.

    A source without a frame of reference gets one object for each of its frames, since only the
    reference to that frame tells where the pixels lie.

    Args:
        folder: where to: ``segmentation.dcm``, or ``segmentation-0001.dcm`` and so on.
        shown: ``(frames, rows, columns)``, the map on its scale, stored order.
        source: what it refers to.
        origin: what made the map.

    Returns:
        The files.

    Raises:
        InputError: the source's own attributes make no valid object.
        DeviceError: the disk is full or not writable.
    """
    with naming(source.image.provenance.source, "the source of a DICOM result", tell=False):
        hd = _highdicom()
        series = str(hd.UID())
        groups = [source.frames] if source.placed else [(frame,) for frame in source.frames]
        paths, start = [], 0
        for number, frames in enumerate(groups, start=1):
            stand_ins = [stand_in(source, frame, frames[0]) for frame in frames]
            part = shown[start : start + len(frames)]
            start += len(frames)
            with quiet():
                result = hd.seg.Segmentation(
                    stand_ins,
                    (part / np.float32(255)).astype(np.float32),
                    segmentation_type="FRACTIONAL",
                    fractional_type="OCCUPANCY",
                    max_fractional_value=255,
                    omit_empty_frames=False,
                    segment_descriptions=[_segment(hd, origin)],
                    content_label=_LABEL,
                    content_description=_short(
                        f"{NOT_FOR_DIAGNOSIS}: anomaly map, {origin.method}"
                    ),
                    **_common(hd, origin, "segmentation", "Anomaly map, scaled", series, number),
                )
                finish(result, source, frames, stand_ins, origin.sentence())
            paths.append(_numbered(folder, "segmentation", number, len(groups)))
            _save(result, paths[-1])
    return paths


def write_captures(
    folder: Path, pictures: Sequence[NDArray[np.uint8]], source: DicomSource, origin: MapOrigin
) -> list[Path]:
    """Write pictures as one series of secondary captures, one for each frame of the source.

    They lie where their frame lies: position, orientation and spacing are those of the source.

    Args:
        folder: where to: ``overlay.dcm``, or ``overlay-0001.dcm`` and so on.
        pictures: ``(rows, columns, 3)`` RGB, stored order, with their mark burned in.
        source: what they refer to.
        origin: what made the map.

    Returns:
        The files.

    Raises:
        InputError: the source's own attributes make no valid object.
        DeviceError: the disk is full or not writable.
    """
    paths = []
    with naming(source.image.provenance.source, "the source of a DICOM result", tell=False):
        hd = _highdicom()
        series = str(hd.UID())
        for number, (pixels, frame) in enumerate(
            zip(pictures, source.frames, strict=True), start=1
        ):
            with quiet():
                result = _capture(hd, pixels, source, frame, origin, series, number)
            paths.append(_numbered(folder, "overlay", number, len(pictures)))
            _save(result, paths[-1])
    return paths


def _numbered(folder: Path, name: str, number: int, count: int) -> Path:
    return folder / (f"{name}.dcm" if count == 1 else f"{name}-{number:04d}.dcm")


def _highdicom() -> Any:
    """Highdicom, loaded when first needed: it takes seconds."""
    require_highdicom()
    for part in ("pm", "seg", "sc"):
        importlib.import_module(f"highdicom.{part}")
    return importlib.import_module("highdicom")


def _common(
    hd: Any, origin: MapOrigin, kind: str, name: str, series: str | None = None, number: int = 1
) -> dict[str, Any]:
    return {
        "series_instance_uid": series or str(hd.UID()),
        "series_number": _SERIES_NUMBERS[kind],
        "sop_instance_uid": str(hd.UID()),
        "instance_number": number,
        "manufacturer": "medad_fast",
        "manufacturer_model_name": _short(origin.method),
        "software_versions": _short(origin.version),
        "device_serial_number": _short(origin.run),
        "series_description": _short(f"{name} - {NOT_FOR_DIAGNOSIS}"),
        "specific_character_set": "ISO_IR 192",
    }


def _unitless(maps: NDArray[np.float32]) -> Any:
    from highdicom.pm import RealWorldValueMapping
    from pydicom.sr.codedict import codes

    return RealWorldValueMapping(
        lut_label="ANOMALY",
        lut_explanation="Unitless; larger is less normal; not a probability",
        unit=codes.UCUM.NoUnits,
        value_range=(float(maps.min()), float(maps.max())),
        slope=1.0,
        intercept=0.0,
    )


def _segment(hd: Any, origin: MapOrigin) -> Any:
    from pydicom.sr.codedict import codes

    abnormal = codes.SCT.MorphologicallyAbnormalStructure
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=f"Anomaly map - {NOT_FOR_DIAGNOSIS}",
        segmented_property_category=abnormal,
        segmented_property_type=abnormal,
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=_short(f"medad_fast {origin.method}"),
            family=codes.DCM.ArtificialIntelligence,
            version=_short(origin.version),
            parameters={
                "run_sha256": origin.run,
                "value_of_0": f"{origin.low:.9g}",
                "value_of_255": f"{origin.high:.9g}",
            },
        ),
    )
    segment.SegmentDescription = origin.sentence()
    return segment


def _capture(
    hd: Any,
    pixels: NDArray[np.uint8],
    source: DicomSource,
    frame: SourceFrame,
    origin: MapOrigin,
    series: str,
    number: int,
) -> Any:
    told = stand_in(source, frame, source.frames[0])
    result = hd.sc.SCImage.from_ref_dataset(
        told,
        pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        content_qualification="RESEARCH",
        **_common(hd, origin, "capture", "Anomaly overlay", series, number),
    )
    if "PixelSpacing" in told:
        result.PixelSpacing = told.PixelSpacing
    for tag in _PLACE if source.placed else ():
        if tag in told:
            setattr(result, tag, told.get(tag))
    # Whether the picture itself names the patient: as far as the source says.
    if "BurnedInAnnotation" in source.shared:
        result.BurnedInAnnotation = source.shared["BurnedInAnnotation"]
    result.RecognizableVisualFeatures = "YES"
    result.LossyImageCompression = source.shared.get("LossyImageCompression", "00")
    finish(result, source, (frame,), [told], origin.sentence())
    return result


def _save(result: Any, path: Path) -> None:
    with quiet(), atomic_write(path) as temporary:
        result.save_as(temporary, enforce_file_format=True)


def _short(text: str) -> str:
    return text[:64]
