"""Anomaly maps as DICOM objects in the study of their source: map, segmentation, picture.

All are marked as research results that are not for diagnosis, say what made them, and refer to the
frame of the source that each of their frames was made from. Needs highdicom (the ``dicom`` extra).
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.artifacts.overlay import colourise, overlay
from medad_fast.data.formats import quiet
from medad_fast.data.image import Image
from medad_fast.data.limits import naming
from medad_fast.dicom_out.mark import burn_in
from medad_fast.dicom_out.reference import finish, stand_in
from medad_fast.dicom_out.source import DicomSource, SourceFrame, dicom_source
from medad_fast.errors import InputError
from medad_fast.files import atomic_write

NOT_FOR_DIAGNOSIS = "NOT FOR DIAGNOSIS"
_LABEL = "NOT_DIAGNOSTIC"  # a ContentLabel has 16 capitals at most
_PLACE = (
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SliceThickness",
    "SpacingBetweenSlices",
)
"""No attributes of a secondary capture: with them it is a Standard Extended SOP Class, and readers
that know nothing of the extension may ignore them (DICOM PS3.2)."""


@dataclass(frozen=True)
class MapOrigin:
    """What made a map, and the scale that it is shown on."""

    method: str
    run: str
    """sha256 of the run's ``manifest.json``, or ``unsaved``."""
    version: str
    """Of medad_fast."""
    low: float
    """Map value, from normal validation images, at and below which nothing is shown."""
    high: float
    """Map value, from normal validation images, at and above which the colour stays the same."""

    def sentence(self) -> str:
        """All of it in words, at most 1,024 characters."""
        return (
            f"{NOT_FOR_DIAGNOSIS}. Anomaly map by medad_fast {self.version}, method {self.method}, "
            f"run sha256 {self.run}. Unitless; larger is less like the normal images of the run; "
            f"not a probability. Shown on the scale from {self.low:.6g} to {self.high:.6g}, which "
            "the run's normal validation images set."
        )[:1024]


def require_highdicom() -> None:
    """Refuse to go on without highdicom.

    Raises:
        InputError: it is not installed; says how to install it.
    """
    if find_spec("highdicom") is None:
        raise InputError('DICOM results need highdicom: pip install "medad-fast[dicom]"')


def write_results(
    folder: Path, image: Image, files: Sequence[Path], maps: NDArray[np.float32], origin: MapOrigin
) -> None:
    """Write the anomaly map of a DICOM image as DICOM objects, all of them or none.

    - ``map.dcm``: the map's own float32 values, one frame for each frame of the source. Only where
      the source has a frame of reference.
    - ``segmentation.dcm``: a fractional segmentation, 0 to 255 for ``low`` to ``high`` of the
      scale. A source without a frame of reference gets one object for each of its frames
      (``segmentation-0001.dcm`` and so on), since only the reference to that frame tells where the
      pixels lie.
    - ``overlay.dcm``, or ``overlay-0001.dcm`` and so on: pictures of the map over the image, marked
      as not for diagnosis. They are one series of secondary captures that lie where their frames
      lie.

    Args:
        folder: where to; what it holds is removed.
        image: what :func:`medad_fast.data.read` made of ``files``.
        files: of the image.
        maps: ``(S, H, W)``, slices as those of ``image``.
        origin: what made the map, and its scale.

    Raises:
        InputError: highdicom is missing, a file lacks an identifier that nothing could refer to it
            without, or its attributes make no valid object.
        DeviceError: the disk is full or not writable.
    """
    require_highdicom()
    shutil.rmtree(folder, ignore_errors=True)
    source = dicom_source(image, files)
    stored = source.as_stored(maps)
    shown = np.stack([colourise(each, low=origin.low, high=origin.high) for each in stored])
    pictures = _pictures(source.as_stored(image.pixels), stored, origin)
    apart = [(frame,) for frame in source.frames]
    try:
        with naming(image.provenance.source, "the source of a DICOM result", tell=False), quiet():
            results = _Results(folder, source, origin, _highdicom())
            if source.placed:
                results.write("map", [(source.frames, stored)])
                results.write("segmentation", [(source.frames, shown)])
            else:
                results.write("segmentation", list(zip(apart, shown[:, None], strict=True)))
            results.write("overlay", list(zip(apart, pictures, strict=True)))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _pictures(
    pixels: NDArray[Any], maps: NDArray[np.float32], origin: MapOrigin
) -> list[NDArray[np.uint8]]:
    """Overlays in stored order, all frames of an image on one grey scale, marked."""
    small_print = (
        f"{origin.method}, run {origin.run[:12]}, medad_fast {origin.version}, "
        f"map {origin.low:.3g} to {origin.high:.3g} (no unit)"
    )
    darkest, brightest = (float(np.percentile(pixels, share)) for share in (0.5, 99.5))
    draw = partial(overlay, low=origin.low, high=origin.high, darkest=darkest, brightest=brightest)
    return [
        burn_in(draw(each, shown), NOT_FOR_DIAGNOSIS, small_print)
        for each, shown in zip(pixels, maps, strict=True)
    ]


@dataclass(frozen=True)
class _Results:
    """Writes the objects of one source."""

    folder: Path
    source: DicomSource
    origin: MapOrigin
    hd: Any
    """The module highdicom."""

    def write(self, kind: str, groups: Sequence[tuple[Sequence[SourceFrame], Any]]) -> None:
        """Write one series: an object for each group of frames and their pixels."""
        build, series_number, title = {
            "map": (self._parametric_map, 9001, "Anomaly map"),
            "segmentation": (self._segmentation, 9002, "Anomaly map, scaled"),
            "overlay": (self._capture, 9003, "Anomaly overlay"),
        }[kind]
        series = str(self.hd.UID())
        for number, (frames, pixels) in enumerate(groups, start=1):
            first = self.source.frames[0] if self.source.placed else frames[0]
            stand_ins = [stand_in(self.source, frame, first) for frame in frames]
            common = {
                "series_instance_uid": series,
                "series_number": series_number,
                "sop_instance_uid": str(self.hd.UID()),
                "instance_number": number,
                "manufacturer": "medad_fast",
                "manufacturer_model_name": _short(self.origin.method),
                "software_versions": _short(self.origin.version),
                "device_serial_number": _short(self.origin.run),
                "series_description": _short(f"{title} - {NOT_FOR_DIAGNOSIS}"),
                "specific_character_set": "ISO_IR 192",
            }
            result = build(stand_ins, pixels, common)
            finish(result, self.source, frames, stand_ins, self.origin.sentence())
            name = f"{kind}.dcm" if len(groups) == 1 else f"{kind}-{number:04d}.dcm"
            with atomic_write(self.folder / name) as temporary:
                result.save_as(temporary, enforce_file_format=True)

    def _parametric_map(self, stand_ins: list[Any], maps: Any, common: dict[str, Any]) -> Any:
        from pydicom.sr.codedict import codes

        window = self.hd.VOILUTTransformation(
            window_center=(self.origin.low + self.origin.high) / 2,
            window_width=self.origin.high - self.origin.low,
            voi_lut_function="LINEAR_EXACT",  # plain LINEAR takes widths from 1 on only
        )
        unitless = self.hd.pm.RealWorldValueMapping(
            lut_label="ANOMALY",
            lut_explanation="Unitless; larger is less normal; not a probability",
            unit=codes.UCUM.NoUnits,
            value_range=(float(maps.min()), float(maps.max())),
            slope=1.0,
            intercept=0.0,
        )
        return self.hd.pm.ParametricMap(
            stand_ins,
            np.ascontiguousarray(maps),
            real_world_value_mappings=[unitless],
            voi_lut_transformations=[window],
            # A residual of the face is still a face.
            contains_recognizable_visual_features=True,
            **self._content(),
            **common,
        )

    def _segmentation(self, stand_ins: list[Any], shown: Any, common: dict[str, Any]) -> Any:
        from pydicom.sr.codedict import codes

        abnormal = codes.SCT.MorphologicallyAbnormalStructure
        segment = self.hd.seg.SegmentDescription(
            segment_number=1,
            segment_label=f"Anomaly map - {NOT_FOR_DIAGNOSIS}",
            segmented_property_category=abnormal,
            segmented_property_type=abnormal,
            algorithm_type="AUTOMATIC",
            algorithm_identification=self.hd.AlgorithmIdentificationSequence(
                name=_short(f"medad_fast {self.origin.method}"),
                family=codes.DCM.ArtificialIntelligence,
                version=_short(self.origin.version),
                parameters={
                    "run_sha256": self.origin.run,
                    "value_of_0": f"{self.origin.low:.9g}",
                    "value_of_255": f"{self.origin.high:.9g}",
                },
            ),
        )
        segment.SegmentDescription = self.origin.sentence()
        return self.hd.seg.Segmentation(
            stand_ins,
            (shown / np.float32(255)).astype(np.float32),
            segmentation_type="FRACTIONAL",
            fractional_type="OCCUPANCY",
            max_fractional_value=255,
            omit_empty_frames=False,
            segment_descriptions=[segment],
            **self._content(),
            **common,
        )

    def _capture(self, stand_ins: list[Any], pixels: Any, common: dict[str, Any]) -> Any:
        (told,) = stand_ins
        result = self.hd.sc.SCImage.from_ref_dataset(
            told,
            pixels,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "P"),
            content_qualification="RESEARCH",
            **common,
        )
        if "PixelSpacing" in told:
            result.PixelSpacing = told.PixelSpacing
        for tag in _PLACE if self.source.placed else ():
            if tag in told:
                setattr(result, tag, told.get(tag))
        # Whether the picture itself names the patient: as far as the source says.
        if "BurnedInAnnotation" in self.source.shared:
            result.BurnedInAnnotation = self.source.shared["BurnedInAnnotation"]
        result.RecognizableVisualFeatures = "YES"
        result.LossyImageCompression = self.source.shared.get("LossyImageCompression", "00")
        return result

    def _content(self) -> dict[str, str]:
        description = _short(f"{NOT_FOR_DIAGNOSIS}: anomaly map, {self.origin.method}")
        return {"content_label": _LABEL, "content_description": description}


def _highdicom() -> Any:
    """Highdicom, loaded when first needed: it takes seconds."""
    for part in ("pm", "seg", "sc"):
        importlib.import_module(f"highdicom.{part}")
    return importlib.import_module("highdicom")


def _short(text: str) -> str:
    return text[:64]
