"""DICOM: the values a pixel ends with, and every odd file with its documented outcome."""

from __future__ import annotations

import time
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless, RLELossless

from medad_fast.data import read
from medad_fast.data.formats.dicom.file import HEADER_TAGS, MAX_INFLATED_BYTES, open_dataset
from medad_fast.errors import InputError, LimitError
from python_tests.data.files import dicom_dataset, write_dicom

CANARY = "CANARY^PATIENT"


def test_inversion_does_not_depend_on_the_picture(tmp_path):
    """The same stored value must become the same grey in a bright and in a dark picture."""
    results = []
    for other in (0, 4095):
        stored = np.array([[1000, other]], np.uint16)
        path = write_dicom(
            tmp_path / f"{other}.dcm",
            stored,
            BitsStored=12,
            PhotometricInterpretation="MONOCHROME1",
        )
        results.append(read(path).pixels[0, 0, 0])
    assert results == [4095 - 1000] * 2


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("slope", [1, -1])
def test_padding_becomes_the_darkest_storable_value(tmp_path, photometric, slope):
    stored = np.array([[-2000, 5, -1990, 300]], np.int16)
    path = write_dicom(
        tmp_path / "a.dcm",
        stored,
        BitsStored=12,
        PhotometricInterpretation=photometric,
        PixelPaddingValue=-2000,
        PixelPaddingRangeLimit=-1990,
        RescaleSlope=slope,
        RescaleIntercept=100,
    )
    values = read(path).pixels[0, 0]
    ends = [slope * -2048 + 100, slope * 2047 + 100]
    assert values[0] == values[2] == min(ends)
    plain = slope * 300 + 100
    assert values[3] == (sum(ends) - plain if photometric == "MONOCHROME1" else plain)


def test_a_modality_lut_is_looked_up(tmp_path):
    table = Dataset()
    table.LUTDescriptor = [4, 10, 16]
    table.LUTData = np.array([100, 200, 400, 800], "<u2").tobytes()
    table.ModalityLUTType = "US"
    stored = np.array([[0, 10, 11, 13, 200]], np.uint8)
    path = write_dicom(
        tmp_path / "a.dcm",
        stored,
        ModalityLUTSequence=[table],
        PhotometricInterpretation="MONOCHROME1",
    )
    expected = 900 - np.array([100, 100, 200, 800, 800])
    np.testing.assert_array_equal(read(path).pixels[0, 0], expected)


def test_the_recommended_window_is_applied_only_when_asked(tmp_path):
    stored = np.array([[0, 40, 60, 100]], np.uint8)
    path = write_dicom(tmp_path / "a.dcm", stored, WindowCenter=["50.5", "1"], WindowWidth=[21, 2])
    np.testing.assert_array_equal(read(path).pixels[0], stored)
    windowed = read(path, voi_window=True)
    np.testing.assert_array_equal(windowed.pixels[0, 0], [40, 40, 60, 60])
    assert windowed.provenance.window == (40, 60)


def test_overlays_in_unused_bits_are_not_pixels(tmp_path):
    stored = np.array([[5, 5 | 1 << 13]], np.uint16)
    assert read(write_dicom(tmp_path / "a.dcm", stored, BitsStored=12)).pixels.tolist() == [
        [[5, 5]]
    ]
    signed = np.array([[-5, -5 & 0x0FFF]], np.int16)
    path = write_dicom(tmp_path / "b.dcm", signed, BitsStored=12)
    assert read(path).pixels.tolist() == [[[-5, -5]]]


def test_colour_is_kept(tmp_path):
    stored = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    image = read(write_dicom(tmp_path / "a.dcm", stored))
    np.testing.assert_array_equal(image.pixels[0], stored)
    assert image.geometry is None


def test_every_16_bit_level_survives(tmp_path):
    ramp = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(read(write_dicom(tmp_path / "a.dcm", ramp)).pixels[0], ramp)


PACKAGED = {
    "CT_small.dcm": (1, 128, 128),
    "MR_small.dcm": (1, 64, 64),
    "MR_small_RLE.dcm": (1, 64, 64),
    "MR_small_bigendian.dcm": (1, 64, 64),
    "MR_small_implicit.dcm": (1, 64, 64),
    "MR_small_padded.dcm": (1, 64, 64),
    "ExplVR_BigEnd.dcm": (1, 60, 80, 3),
    "image_dfl.dcm": (1, 512, 512),
    "rtdose_1frame.dcm": (1, 10, 10),
    "SC_rgb_rle_16bit.dcm": (1, 100, 100, 3),
    "SC_ybr_full_422_uncompressed.dcm": (1, 100, 100, 3),
    "examples_palette.dcm": (1, 350, 800, 3),
    "SC_rgb_rle_2frame.dcm": (2, 100, 100, 3),
    "rtdose.dcm": (15, 10, 10),
    "MR_truncated.dcm": "cut off",
    "rtplan_truncated.dcm": "cut off",
    "no_meta.dcm": "is not a DICOM",
    "meta_missing_tsyntax.dcm": "lacks the tag TransferSyntaxUID",
    "UN_sequence.dcm": "lacks the tag Rows",
    "test-SR.dcm": "lacks the tag Rows",
    "badVR.dcm": "cannot be read as a DICOM image",
}


def _packaged() -> Path:
    return Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_files_have_their_documented_outcome(name):
    outcome = PACKAGED[name]
    if isinstance(outcome, tuple):
        assert read(_packaged() / name).pixels.shape == outcome
        return
    with pytest.raises(InputError, match=outcome) as caught:
        read(_packaged() / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("tag", ["Rows", "BitsStored", "PhotometricInterpretation", "PixelData"])
def test_a_missing_required_tag_is_named(tmp_path, tag):
    stored = np.zeros((4, 4), np.uint8)
    with pytest.raises(InputError, match=f"lacks the tag {tag}"):
        read(write_dicom(tmp_path / "a.dcm", stored, HighBit=7, **{tag: None}))


LIES = {
    "huge": ({"Rows": 65535, "Columns": 65535}, "at most"),
    "many frames": ({"NumberOfFrames": 2**31 - 1}, "at most"),
    "no rows": ({"Rows": 0}, "no pixels"),
    "bits": ({"BitsStored": 12, "HighBit": 11}, "12 bits stored in 8"),
    "high bit": ({"HighBit": 3}, "HighBit"),
    "samples": ({"SamplesPerPixel": 3, "PlanarConfiguration": 0}, "photometric"),
    "photometric": ({"PhotometricInterpretation": "SECRET"}, "photometric"),
    "slope": ({"RescaleSlope": "0", "RescaleIntercept": "1"}, "slope"),
    "slope inf": ({"RescaleSlope": "1e300", "RescaleIntercept": "1"}, "slope"),
    "RLE frames": (
        {"NumberOfFrames": 4000, "Rows": 300, "Columns": 300, "TransferSyntaxUID": RLELossless},
        "run-length",
    ),
    "JPEG frames": (
        {"NumberOfFrames": 4000, "Rows": 300, "Columns": 300, "TransferSyntaxUID": JPEGLSLossless},
        "is damaged|is cut off|no decoder",
    ),
    "RLE": ({"Rows": 9000, "Columns": 9000, "TransferSyntaxUID": RLELossless}, "run-length"),
}


@pytest.mark.parametrize("name", LIES)
def test_lying_headers_are_refused_quickly_and_by_name(tmp_path, name):
    tags, reason = LIES[name]
    if "TransferSyntaxUID" in tags:
        tags = {**tags, "PixelData": pydicom.encaps.encapsulate([b"\0" * 64])}
    path = write_dicom(tmp_path / "lie.dcm", np.zeros((4, 4), np.uint8), PatientName=CANARY, **tags)
    start = time.perf_counter()
    with pytest.raises(InputError, match=reason) as caught:
        read(path)
    assert time.perf_counter() - start < 1
    assert "lie.dcm" in str(caught.value)


def _deflated(path: Path, payload: bytes) -> Path:
    dataset = dicom_dataset(np.zeros((2, 2), np.uint8))
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    data = path.read_bytes()
    start = 144 + int.from_bytes(data[140:144], "little")
    squeezed = zlib.compressobj(9, wbits=-15)
    path.write_bytes(data[:start] + squeezed.compress(payload) + squeezed.flush())
    return path


@pytest.mark.parametrize("tags", [None, HEADER_TAGS])
def test_a_deflate_bomb_is_not_inflated(tmp_path, tags):
    path = _deflated(tmp_path / "bomb.dcm", b"\0" * (MAX_INFLATED_BYTES + 1))
    with pytest.raises(LimitError, match=r"bomb\.dcm: inflates"):
        open_dataset(path, tags=tags)


def test_an_element_longer_than_the_file_is_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((4, 4), np.uint8), PatientID=CANARY)
    data = bytearray(path.read_bytes())
    at = data.index(b"\xe0\x7f\x10\x00OW") + 8 if b"\xe0\x7f\x10\x00OW" in data else None
    at = at or data.index(b"\xe0\x7f\x10\x00OB") + 8
    data[at : at + 4] = (0xFFFFFFF0).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"cut off") as caught:
        read(path)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("depth", [50, 80, 2000])
def test_sequences_nested_too_deep_are_refused(tmp_path, depth):
    # Written by hand: pydicom itself cannot write what it cannot read.
    item = b""
    for _ in range(depth):
        item = (
            b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
            + item
            + b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
        )
    path = write_dicom(tmp_path / "a.dcm", np.zeros((4, 4), np.uint8))
    data = path.read_bytes()
    start = 144 + int.from_bytes(data[140:144], "little")
    modality = data.index(b"\x08\x00\x60\x00CS", start)
    path.write_bytes(data[:modality] + data[modality:].replace(b"", item, 1))
    if depth <= 64:
        assert read(path).pixels.shape == (1, 4, 4)
    else:
        with pytest.raises(InputError, match=r"a\.dcm"):
            read(path)


def test_truncated_and_mutated_files_end_in_our_errors_without_patient_data(tmp_path):
    rng = np.random.default_rng(0)
    path = write_dicom(
        tmp_path / "a.dcm",
        rng.integers(0, 4096, (12, 12), np.uint16),
        BitsStored=12,
        PatientName=CANARY,
        PatientID=CANARY,
        RescaleSlope="2",
        RescaleIntercept="-5",
    )
    whole = path.read_bytes()
    cut = tmp_path / "cut.dcm"
    for length in range(0, len(whole), 29):
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.dcm") as caught:
            read(cut)
        assert CANARY not in str(caught.value)
    for _ in range(300):
        mutated = bytearray(whole)
        mutated[rng.integers(128, len(whole) - 288)] = rng.integers(256)
        cut.write_bytes(mutated)
        message = _refusal(cut)
        assert message is None or "cut.dcm" in message
        assert CANARY not in (message or "")


def _refusal(path: Path) -> str | None:
    """Why a file is refused; ``None`` if it is read."""
    try:
        assert np.isfinite(read(path).pixels).all()
    except InputError as error:
        return str(error)
    return None
