"""The stored values of a DICOM file: check its header, decode its pixel data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medad_fast.data.limits import MAX_FRAMES, check_size
from medad_fast.errors import InputError, LimitError

GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")

# fmt: off
_MODALITIES = frozenset((
    "AR", "BDUS", "BI", "BMD", "CFM", "CR", "CT", "DG", "DMS", "DX", "EC", "EM", "ES", "FA", "FS",
    "GM", "IO", "IOL", "IVOCT", "IVUS", "KER", "LEN", "LP", "LS", "MA", "MG", "MR", "MS", "NM",
    "OAM", "OCT", "OP", "OPM", "OPR", "OPT", "OPTBSV", "OPTENF", "OPV", "OSS", "OT", "PA", "PT",
    "PX", "RF", "RG", "RTDOSE", "RTIMAGE", "SEG", "SM", "SMR", "ST", "TG", "US", "VA", "VF", "XA",
    "XC",
))
# fmt: on
"""Defined terms of images (DICOM PS3.3 C.7.3.1.1.1), and retired ones that old files have."""

_REQUIRED = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "PhotometricInterpretation")
_REQUIRED_OF_WHOLE_NUMBERS = ("BitsStored", "PixelRepresentation", "PixelData")
_FLOATS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}
"""Where parametric maps hold their values, and with how many bits."""
_RLE = "1.2.840.10008.1.2.5"
_RLE_MOST = 64
"""Bytes that one byte of run-length code can stand for, at most."""
_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
_EXTRA = 'pip install "medad-fast[dicom]"'


def check_header(path: Path, dataset: Any) -> int:
    """Refuse what is not read, before anything is decoded; returns the number of frames.

    Raises:
        InputError: a required tag is missing or has a value that is not read.
        LimitError: the file claims more than the stated limits.
    """
    floats = next((bits for tag, bits in _FLOATS.items() if dataset.get(tag) is not None), None)
    for tag in _REQUIRED if floats else (*_REQUIRED, *_REQUIRED_OF_WHOLE_NUMBERS):
        if dataset.get(tag) is None:
            raise InputError(f"{path}: lacks the tag {tag}")
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    allocated = int(dataset.BitsAllocated)
    stored = floats or int(dataset.BitsStored)
    samples = int(dataset.SamplesPerPixel)
    pixel_bytes = samples * max(allocated // 8, 1)
    check_size(path, frames, int(dataset.Rows), int(dataset.Columns), pixel_bytes)
    if frames > MAX_FRAMES:
        raise LimitError(f"{path}: claims {frames} frames, at most {MAX_FRAMES} are read")
    possible = (floats,) if floats else (1, 8, 16, 32)
    if allocated not in possible or not 1 <= stored <= allocated:
        raise InputError(f"{path}: claims {stored} bits stored in {allocated} allocated")
    if not floats and int(dataset.get("HighBit", stored - 1)) != stored - 1:
        raise InputError(f"{path}: its HighBit must be BitsStored - 1")
    photometric = str(dataset.PhotometricInterpretation)
    one_sample = photometric in (*GREY, "PALETTE COLOR")
    read = ("MONOCHROME2",) if floats else (*GREY, *_COLOUR)
    if photometric not in read or samples != (1 if one_sample else 3):
        known = ", ".join(read)
        raise InputError(
            f"{path}: has a photometric interpretation and samples per pixel that are not read; "
            f"read are {known}"
        )
    return frames


def known_modality(dataset: Any) -> str:
    """The file's modality if it is a defined one, else ``"OT"``: free text is never shown."""
    told = str(dataset.get("Modality", "") or "").strip()
    return told if told in _MODALITIES else "OT"


def decoded_frames(path: Path, dataset: Any, count: int) -> NDArray[Any]:
    """``(frames, rows, columns)`` as stored, or ``(frames, rows, columns, 3)`` RGB.

    Palettes are looked up and YBR becomes RGB.

    Raises:
        InputError: damaged, or no installed decoder reads it.
    """
    from pydicom.pixels.processing import apply_color_lut

    pixels = _decoded(path, dataset)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)[..., :3]
    # For a single frame pydicom gives no axis of frames.
    grey = str(dataset.PhotometricInterpretation) in GREY
    pixels = pixels if pixels.ndim == (3 if grey else 4) else pixels[None]
    if len(pixels) != count:
        raise InputError(f"{path}: claims {count} frames, holds {len(pixels)}")
    return pixels


def _decoded(path: Path, dataset: Any) -> NDArray[Any]:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import pixel_array

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        name = "a private transfer syntax" if syntax.name == syntax else syntax.name
        raise InputError(f"{path}: is in {name}, which is not read") from error
    if not decoder.is_available:
        raise InputError(
            f"{path}: no decoder for the transfer syntax {syntax.name} is installed: "
            f"{_remedy(decoder.missing_dependencies)}"
        )
    _check_run_lengths(path, dataset)
    try:
        return pixel_array(dataset)
    except StopIteration as error:
        raise InputError(f"{path}: is cut off: it holds fewer frames than it claims") from error
    except RuntimeError as error:
        missing = decoder.missing_dependencies
        if syntax == _JPEG_EXTENDED and int(dataset.BitsStored) > 8:
            missing = [each for each in missing if not each.startswith("gdcm")]
            raise InputError(
                f"{path}: no decoder for 12-bit {syntax.name} is installed: {_remedy(missing)}"
            ) from error
        if any(each.startswith("gdcm") for each in missing):
            raise InputError(
                f"{path}: is damaged, or of a kind of {syntax.name} that only another decoder "
                f"reads: {_EXTRA}"
            ) from error
        raise InputError(f"{path}: is damaged: no decoder of {syntax.name} reads it") from error


def decoders() -> dict[str, bool]:
    """Whether each kind of compression can be decoded here."""
    from pydicom import uid
    from pydicom.pixels.decoders.base import get_decoder

    syntaxes = {
        "uncompressed": uid.ExplicitVRLittleEndian,
        "RLE": uid.RLELossless,
        "JPEG": uid.JPEGBaseline8Bit,
        "JPEG lossless": uid.JPEGLosslessSV1,
        "JPEG-LS": uid.JPEGLSLossless,
        "JPEG 2000": uid.JPEG2000Lossless,
    }
    return {name: get_decoder(syntax).is_available for name, syntax in syntaxes.items()}


def _remedy(missing: list[str]) -> str:
    """What to install, from pydicom's list ``name - requires packages``."""
    if any(each.startswith("gdcm") for each in missing):
        return f"gdcm reads it: {_EXTRA}"
    needed = [each.partition(" - requires ")[2] for each in missing]
    return f"pip install {' or '.join(needed)}".replace(" and ", " ")


def _check_run_lengths(path: Path, dataset: Any) -> None:
    if dataset.file_meta.TransferSyntaxUID != _RLE:
        return
    claimed = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel)
    claimed *= int(dataset.get("NumberOfFrames", 1) or 1) * max(int(dataset.BitsAllocated) // 8, 1)
    if claimed > _RLE_MOST * len(dataset.PixelData):
        raise InputError(
            f"{path}: {len(dataset.PixelData)} bytes of run-length code cannot hold {claimed} bytes"
        )
