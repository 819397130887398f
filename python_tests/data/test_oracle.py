"""Every kind of file gives the numbers that an independent reader gives, to the last digit.

SimpleITK is the independent reader. It inverts MONOCHROME1 in its own way, so that there the
formula of ``docs/reading.md`` is written out.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import PIL.Image
import pydicom
import pytest
import SimpleITK
from numpy.typing import NDArray

from medad_fast.artifacts.grids import write_on_grid
from medad_fast.data import read
from python_tests.data.files import write_dicom, write_series

SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)


def peer(source: Path | Sequence[Path]) -> NDArray[Any]:
    """What SimpleITK reads: ``(S, rows, columns[, 3])`` in the order of the file."""
    path = str(source) if isinstance(source, Path) else [str(each) for each in source]
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))


def assert_same(ours: NDArray[Any], theirs: NDArray[Any]) -> None:
    """Equal as float32, in which everything is scored."""
    np.testing.assert_array_equal(ours.astype(np.float32), theirs.astype(np.float32), strict=True)


def storable(bits: int, signed: bool) -> tuple[int, int]:
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def stored_values(bits: int, signed: bool, shape: tuple[int, ...] = (6, 8)) -> NDArray[Any]:
    low, high = storable(bits, signed)
    stored = np.random.default_rng(bits).integers(low, high + 1, shape)
    stored.flat[:2] = low, high
    return stored.astype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2 if bits <= 16 else 4}")


GREY = list(itertools.product((8, 12, 16, 32), (False, True), (False, True)))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("bits", "signed", "rescale"), GREY)
def test_grey_dicom(bits, signed, rescale, photometric, tmp_path):
    stored = stored_values(bits, signed)
    tags = {"RescaleSlope": "-2.5", "RescaleIntercept": "7"} if rescale else {}
    tags["PhotometricInterpretation"] = photometric
    path = write_dicom(tmp_path / "a.dcm", stored, BitsStored=bits, **tags)
    image = read(path)
    if photometric == "MONOCHROME2":
        assert_same(image.pixels, peer(path))
    slope, intercept = (-2.5, 7.0) if rescale else (1.0, 0.0)
    expected = slope * stored.astype(np.float64) + intercept
    if photometric == "MONOCHROME1":
        low, high = (slope * end + intercept for end in storable(bits, signed))
        expected = low + high - expected
    assert_same(image.pixels[0], expected)
    assert image.provenance.bits_stored == bits
    assert image.provenance.rescaled == rescale
    assert image.provenance.inverted == (photometric == "MONOCHROME1")


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("bits", [8, 16])
def test_colour_dicom(bits, planar, tmp_path):
    stored = stored_values(bits, False, (5, 7, 3))
    data = (stored.transpose(2, 0, 1) if planar else stored).tobytes()
    path = write_dicom(
        tmp_path / "a.dcm",
        stored,
        PlanarConfiguration=planar,
        PixelData=data + b"\0" * (len(data) % 2),
    )
    assert_same(read(path).pixels[0], peer(path).reshape(5, 7, 3))


LOSSLESS = ("RLE", "bigendian", "implicit", "padded", "jp2klossless", "jpeg_ls_lossless")
COLOURS = (
    "SC_ybr_full_422_uncompressed",
    "SC_rgb_dcmtk_+eb+cy+n1",
    "SC_rgb_jls_lossy_line",
    "SC_rgb_jpeg_gdcm",
    "SC_rgb_rle",
    "SC_rgb_small_odd_jpeg",
    "GDCMJ2K_TextGBR",
    "examples_jpeg2k",
    "examples_ybr_color",
)


def packaged(name: str) -> Path:
    return Path(pydicom.__file__).parent / "data" / "test_files" / f"{name}.dcm"


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_a_lossless_syntax_changes_no_pixel(syntax):
    pytest.importorskip("gdcm")
    again = read(packaged(f"MR_small_{syntax}"))
    assert_same(again.pixels, read(packaged("MR_small")).pixels)
    assert_same(again.pixels, peer(packaged("MR_small")))


@pytest.mark.parametrize("name", COLOURS)
def test_compressed_colours_and_ybr(name):
    pytest.importorskip("gdcm")
    theirs = peer(packaged(name))
    assert_same(read(packaged(name)).pixels, theirs.reshape(-1, *theirs.shape[-3:]))


def test_a_16_bit_palette():
    # SimpleITK keeps the upper eight bits of each colour.
    pixels = read(packaged("examples_palette")).pixels
    assert_same(pixels >> 8, peer(packaged("examples_palette")))


def test_a_dicom_series_is_ordered_and_scaled(tmp_path):
    volume = stored_values(12, True, (4, 5, 6))
    paths = write_series(
        tmp_path, volume, BitsStored=12, RescaleSlope="1", RescaleIntercept="-1024", Modality="CT"
    )
    ordered = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    assert_same(read(paths).pixels, peer([Path(each) for each in ordered]))


# Data type, NIfTI version, suffix, slope and intercept.
NIFTI: list[tuple[str, int, str, tuple[float, float] | None]] = [
    ("u1", 1, ".nii", None),
    ("i1", 1, ".nii", None),
    ("<i2", 1, ".nii", None),
    ("<u2", 1, ".nii", None),
    ("<i4", 1, ".nii", None),
    ("<u4", 1, ".nii", None),
    ("<i8", 1, ".nii", None),
    ("<f4", 1, ".nii.gz", None),
    ("<f8", 1, ".nii.gz", None),
    (">i2", 1, ".nii", None),
    (">u2", 1, ".nii.gz", None),
    (">f4", 1, ".nii", None),
    (">f8", 1, ".nii.gz", None),
    ("<i2", 1, ".nii.gz", (2.0, -1024.0)),
    ("<u2", 1, ".nii", (0.1, 7.0)),
    ("u1", 1, ".nii.gz", (-0.5, 3.0)),
    ("<f4", 1, ".nii", (3.0, 1.0)),
    ("<i2", 2, ".nii", None),
    (">f4", 2, ".nii.gz", None),
    ("<u2", 2, ".nii", (0.25, -3.0)),
]

ORIENTATIONS = ["".join(axes) for axes in itertools.product("LR", "AP", "SI")] + ["SAR", "ILP"]


def oblique(codes: str) -> NDArray[np.float64]:
    """An affine with these directions, turned by a few degrees."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (code, step_mm) in enumerate(zip(codes, (2.0, 3.0, 4.0), strict=True)):
        world = ["LR", "PA", "IS"].index(next(p for p in ("LR", "PA", "IS") if code in p))
        affine[world, axis] = step_mm * (1 if code in "RAS" else -1)
    turn = np.deg2rad(10)
    turned = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    )
    affine[:3, :3] = turned @ affine[:3, :3]
    affine[:3, 3] = 10, -20, 30
    return affine


def write_volume(
    path: Path,
    stored: NDArray[Any],
    affine: NDArray[Any],
    version: int = 1,
    scale: tuple[float, float] | None = None,
) -> Path:
    """Write stored values, and a slope and intercept of which they know nothing."""
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    order = ">" if stored.dtype.byteorder == ">" else "<"
    image = kind(stored, affine, kind.header_class(endianness=order), dtype=stored.dtype)
    # Nibabel would write the values of the slope away.
    image.header.set_slope_inter(*(scale or (1, 0)))
    image.to_filename(path)
    return path


@pytest.mark.parametrize(("dtype", "version", "suffix", "scale"), NIFTI)
def test_nifti(dtype, version, suffix, scale, tmp_path, request):
    case = NIFTI.index((dtype, version, suffix, scale))
    kind = np.dtype(dtype)
    stored = np.random.default_rng(case).integers(0, 100, (3, 4, 5))
    if kind.kind == "i":
        stored = stored - 50
    if kind.kind == "f":
        stored = stored / 7
    affine = oblique(ORIENTATIONS[case % len(ORIENTATIONS)])
    path = write_volume(tmp_path / f"a{suffix}", stored.astype(kind), affine, version, scale)
    # SimpleITK does not read NIfTI-2, so the same volume as NIfTI-1 stands for it.
    known = path
    if version == 2:
        known = write_volume(tmp_path / "known.nii", stored.astype(kind), affine, 1, scale)
    theirs = peer(known)
    image = read(path)
    assert image.geometry is not None
    assert_same(image.geometry.to_source(image.pixels), theirs.T)
    assert image.provenance.bits_stored == 8 * kind.itemsize
    assert image.provenance.rescaled == (scale is not None)

    written = SimpleITK.ReadImage(str(write_on_grid(tmp_path / "map", image.pixels, image)))
    assert_same(SimpleITK.GetArrayFromImage(written), theirs)
    source = SimpleITK.ReadImage(str(known))
    for place in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(
            getattr(written, place)(), getattr(source, place)(), rtol=1e-6, atol=1e-5
        )


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("volume", [0, 1, 2])
def test_one_volume_of_a_nifti_file_with_several(volume, suffix, tmp_path):
    stored = np.random.default_rng(0).integers(-99, 99, (3, 4, 5, 3)).astype("<i2")
    path = write_volume(tmp_path / f"a{suffix}", stored, oblique("LPS"))
    image = read(path, volume=volume)
    assert image.geometry is not None
    assert_same(image.geometry.to_source(image.pixels), peer(path)[volume].T)


def chunk(name: bytes, data: bytes) -> bytes:
    body = name + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def write_png(
    path: Path, bits: int, colour_type: int, samples: NDArray[Any], *further: tuple[bytes, bytes]
) -> Path:
    """A PNG written by hand, so that every mode is exactly the one that is named."""
    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1)
    if bits == 16:
        lines = [row.astype(">u2").tobytes() for row in rows]
    elif bits == 8:
        lines = [row.astype(np.uint8).tobytes() for row in rows]
    else:
        planes = (rows[..., None] >> np.arange(bits)[::-1]) & 1
        lines = [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in planes]
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + line for line in lines))
    parts = [(b"IHDR", header), *further, (b"IDAT", data), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


GREY_PNG, RGB_PNG, PALETTE_PNG, GREY_ALPHA_PNG, RGBA_PNG = 0, 2, 3, 4, 6

# Bits, colour type, whether a tRNS chunk makes colours transparent.
PNG_MODES = [
    *((bits, GREY_PNG, False) for bits in (1, 2, 4, 8, 16)),
    *((bits, PALETTE_PNG, False) for bits in (1, 2, 4, 8)),
    (8, RGB_PNG, False),
    (8, GREY_ALPHA_PNG, False),
    (8, RGBA_PNG, False),
    (16, RGB_PNG, False),
    (16, GREY_ALPHA_PNG, False),
    (16, RGBA_PNG, False),
    (16, RGB_PNG, True),
    (8, PALETTE_PNG, True),
    (8, GREY_PNG, True),
]


@pytest.mark.parametrize(("bits", "colour_type", "transparent"), PNG_MODES)
@pytest.mark.filterwarnings("ignore:.*partly transparent")
def test_png(bits, colour_type, transparent, tmp_path):
    rng = np.random.default_rng(bits + colour_type)
    channels = {GREY_PNG: 1, PALETTE_PNG: 1, RGB_PNG: 3, GREY_ALPHA_PNG: 2, RGBA_PNG: 4}
    samples = rng.integers(0, 2**bits, (6, 9, channels[colour_type]))
    samples.flat[0] = 0
    further = []
    if colour_type == PALETTE_PNG:
        further.append((b"PLTE", rng.integers(0, 256, 3 * 2**bits, np.uint8).tobytes()))
    if transparent:
        opacity = rng.integers(0, 256, 2**bits, np.uint8).tobytes()
        key = samples.flat[5] if colour_type == GREY_PNG else samples[3, 4]
        colour = struct.pack(f">{np.size(key)}H", *np.atleast_1d(key).tolist())
        further.append((b"tRNS", opacity if colour_type == PALETTE_PNG else colour))
    path = write_png(tmp_path / "a.png", bits, colour_type, samples, *further)
    image = read(path)
    if colour_type == GREY_ALPHA_PNG or (transparent and colour_type == GREY_PNG):
        # SimpleITK knows no grey with opacity: the samples themselves.
        most = 2**bits - 1
        opaque = samples[..., 0] != samples.flat[5] if transparent else samples[..., 1] / most
        theirs = np.rint(samples[..., 0] * opaque)
    else:
        theirs = peer(path)
        if theirs.shape[2:] == (4,):  # alpha, which SimpleITK leaves to the caller
            theirs = np.rint(theirs[..., :3] * (theirs[..., 3:] / (2**bits - 1)))
    assert_same(image.pixels[0], theirs)
    assert image.provenance.bits_stored == bits


def test_jpeg(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)
    PIL.Image.fromarray(picture).save(tmp_path / "a.jpg", quality=80)
    assert_same(read(tmp_path / "a.jpg").pixels[0], peer(tmp_path / "a.jpg"))
