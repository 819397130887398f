"""PNG and JPEG keep the depth they were stored in."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import SimpleITK

from medad_fast.data import read
from medad_fast.errors import InputError, LimitError


def _png(path: Path, bits: int, colour_type: int, rows: list[bytes], width: int) -> Path:
    """A PNG written by hand, for kinds that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    body = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def test_a_16_bit_ramp_keeps_every_level(tmp_path):
    ramp = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    PIL.Image.fromarray(ramp).save(tmp_path / "ramp.png")
    image = read(tmp_path / "ramp.png")
    np.testing.assert_array_equal(image.pixels, ramp[None])
    assert image.provenance.bits_stored == 16


def test_8_bit_grey_and_colour_are_as_stored(tmp_path):
    rng = np.random.default_rng(0)
    for shape in ((5, 7), (5, 7, 3)):
        pixels = rng.integers(0, 256, shape, np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
        np.testing.assert_array_equal(read(tmp_path / "a.png").pixels, pixels[None])


def test_one_bit_is_black_and_white(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2, (5, 9)).astype(bool)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, 255 * pixels[None])
    assert image.provenance.bits_stored == 1


@pytest.mark.parametrize("bits", [2, 4])
def test_few_bits_are_spread_over_the_8_bit_range(tmp_path, bits):
    path = _png(tmp_path / "a.png", bits, 0, [bytes([0b00011011])], 8 // bits)
    samples = [0, 1, 2, 3] if bits == 2 else [1, 11]
    expected = [value * 255 // (2**bits - 1) for value in samples]
    assert read(path).pixels[0, 0].tolist() == expected


def test_a_palette_is_expanded_to_its_colours(tmp_path):
    picture = PIL.Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8), mode=None).convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture.save(tmp_path / "a.png")
    expected = np.array([[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [10, 20, 30]]])
    np.testing.assert_array_equal(read(tmp_path / "a.png").pixels[0], expected)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_parts_are_put_on_black_with_a_warning(tmp_path, mode):
    samples = np.full((2, 2, len(mode)), 200, np.uint8)
    samples[..., -1] = [[0, 51], [255, 255]]
    PIL.Image.fromarray(samples).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match=r"a\.png: is partly transparent"):
        pixels = read(tmp_path / "a.png").pixels
    grey = pixels[0] if mode == "LA" else pixels[0, ..., 2]
    assert grey.tolist() == [[0, 40], [200, 200]]


def test_an_opaque_alpha_channel_is_no_reason_to_warn(tmp_path):
    PIL.Image.fromarray(np.full((2, 2, 4), 255, np.uint8)).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png").pixels.shape == (1, 2, 2, 3)


def test_an_exif_rotation_is_applied(tmp_path):
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:, :16] = 255
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show it
    PIL.Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=100)
    image = read(tmp_path / "a.jpg")
    shown = image.pixels[0]
    assert image.provenance.rotated
    assert shown.shape == (32, 16)
    assert shown[:15].min() > 250
    assert shown[17:].max() < 5


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.filterwarnings("ignore:.*partly transparent")
def test_16_bit_colour_keeps_its_levels_whatever_filters_it_was_written_with(tmp_path, channels):
    """SimpleITK writes with libpng, which chooses a filter for each row."""
    rows, columns = np.mgrid[:60, :80]
    ramp = (rows[..., None] * 800 + columns[..., None] ** 2 * np.arange(1, channels + 1)) % 2**16
    ramp = ramp.astype(np.uint16)
    ramp[..., 3:] = 65535
    picture = SimpleITK.GetImageFromArray(ramp, isVector=True)
    SimpleITK.WriteImage(picture, str(tmp_path / "a.png"), useCompression=True)
    image = read(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels[0], ramp[..., :3], strict=True)
    assert image.provenance.bits_stored == 16


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_colour_is_turned_as_8_bit_colour_is(tmp_path, orientation):
    samples = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(samples).save(tmp_path / "a.png", exif=exif)
    rows = [(samples[i].astype(">u2") * 257).tobytes() for i in range(3)]
    deep = _png(tmp_path / "b.png", 16, 2, rows, 5).read_bytes()
    plain = (tmp_path / "a.png").read_bytes()
    at = plain.index(b"eXIf") - 4
    length = 12 + int.from_bytes(plain[at : at + 4])
    (tmp_path / "b.png").write_bytes(deep[:33] + plain[at : at + length] + deep[33:])
    shallow, turned = read(tmp_path / "a.png"), read(tmp_path / "b.png")
    np.testing.assert_array_equal(turned.pixels, shallow.pixels.astype(np.uint16) * 257)
    assert turned.provenance.rotated == shallow.provenance.rotated == (orientation > 1)


def test_damaged_and_interlaced_16_bit_colour_is_refused(tmp_path):
    path = _png(tmp_path / "a.png", 16, 2, [b"\1\2\3\4\5\6" * 4] * 3, 4)
    whole = path.read_bytes()
    for cut in range(33, len(whole) - 1, 5):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"a\.png"):
            read(path)
    interlaced = bytearray(whole)
    interlaced[28] = 1
    interlaced[29:33] = struct.pack(">I", zlib.crc32(bytes(interlaced[12:29])))
    path.write_bytes(interlaced)
    with pytest.raises(InputError, match="interlaced"):
        read(path)
    path = _png(tmp_path / "short.png", 16, 2, [b"\1\2\3\4\5\6" * 4] * 2, 4)
    data = bytearray(path.read_bytes())
    data[20:24] = struct.pack(">I", 3)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(data)
    with pytest.raises(InputError, match="75 bytes of pixels expected"):
        read(path)


def test_an_animation_and_a_cmyk_picture_are_refused(tmp_path):
    frames = [PIL.Image.new("L", (4, 4), grey) for grey in (0, 9)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="animated"):
        read(tmp_path / "a.png")
    PIL.Image.new("CMYK", (4, 4)).save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="CMYK"):
        read(tmp_path / "a.jpg")


@pytest.mark.parametrize("side", [10_001, 13_000, 65_000])
def test_more_than_100_million_pixels_are_refused_before_decoding(tmp_path, side):
    path = _png(tmp_path / "a.png", 8, 0, [b"\0"], 1)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(data)
    with pytest.raises(LimitError, match=r"a\.png: claims"):
        read(path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_and_mutated_pictures_end_in_our_errors(tmp_path, suffix):
    rng = np.random.default_rng(0)
    path = tmp_path / f"a.{suffix}"
    PIL.Image.fromarray(rng.integers(0, 256, (24, 24), np.uint8)).save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 12, 41):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=rf"a\.{suffix}"):
            read(path)
    for _ in range(200):
        mutated = bytearray(whole)
        mutated[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(mutated)
        message = _refusal(path)
        assert message is None or str(path) in message


def _refusal(path: Path) -> str | None:
    """Why a file is refused; ``None`` if it is read."""
    try:
        with warnings.catch_warnings():
            # A flipped bit can declare a transparent colour.
            warnings.filterwarnings("ignore", message=".*partly transparent")
            read(path)
    except InputError as error:
        return str(error)
    return None
