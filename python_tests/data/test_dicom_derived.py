"""What highdicom writes for a series is read on the grid of that series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from medad_fast.data import read, read_mask

highdicom = pytest.importorskip("highdicom")

DEVICE = {
    "series_number": 1,
    "instance_number": 1,
    "manufacturer": "none",
    "manufacturer_model_name": "none",
    "software_versions": "1",
    "device_serial_number": "1",
}


def _series() -> list[Path]:
    """Five slices of a CT, at uneven names and in no order."""
    folder = Path(pydicom.__file__).parent / "data/test_files/dicomdirtests/98892001/CT5N"
    return sorted(folder.iterdir())


def _uids() -> dict[str, str]:
    return {"series_instance_uid": generate_uid(), "sop_instance_uid": generate_uid()}


def _code(meaning: str) -> Any:
    return highdicom.sr.CodedConcept("1", "99LOCAL", meaning)


def _segmentation(values: np.ndarray, kind: str) -> Any:
    algorithm = highdicom.AlgorithmIdentificationSequence("none", _code("none"), "1")
    segment = highdicom.seg.SegmentDescription(
        1,
        "lesion",
        _code("abnormal"),
        _code("lesion"),
        highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm,
    )
    return highdicom.seg.Segmentation(
        source_images=[pydicom.dcmread(path) for path in _series()],
        pixel_array=values,
        segmentation_type=kind,
        segment_descriptions=[segment],
        omit_empty_frames=False,
        **_uids(),
        **DEVICE,
    )


def _parametric_map(values: np.ndarray) -> Any:
    mapping = highdicom.pm.RealWorldValueMapping(
        lut_label="1",
        lut_explanation="score",
        unit=highdicom.sr.CodedConcept("1", "UCUM", "no units"),
        value_range=[0.0, 1.0],
        slope=1.0,
        intercept=0.0,
    )
    return highdicom.pm.ParametricMap(
        source_images=[pydicom.dcmread(path) for path in _series()],
        pixel_array=values[..., None],
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[[mapping]],
        window_center=0.5,
        window_width=1.0,
        **_uids(),
        **DEVICE,
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "map"])
def test_segmentations_and_maps_lie_on_their_source(kind, tmp_path):
    source = read(_series())
    assert source.geometry is not None
    heights = [pydicom.dcmread(path).ImagePositionPatient[2] for path in _series()]
    values = np.random.default_rng(0).random((5, 16, 16)).astype(np.float32)
    stored = {"BINARY": values > 0.5, "FRACTIONAL": np.around(255 * values), "map": values}[kind]
    given = stored.astype(np.uint8) if kind == "BINARY" else values
    dataset = _parametric_map(given) if kind == "map" else _segmentation(given, kind)
    dataset.save_as(tmp_path / "a.dcm")
    image = read(tmp_path / "a.dcm")
    # Shown from feet to head, as axial slices are.
    np.testing.assert_array_equal(image.pixels, stored[np.argsort(heights)])
    assert image.geometry is not None
    np.testing.assert_array_equal(image.geometry.affine, source.geometry.affine)
    assert read_mask(tmp_path / "a.dcm", source).shape == source.pixels.shape
