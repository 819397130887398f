"""PNG and JPEG pictures, at the bit depth they are stored in.

Pillow cuts 16-bit colour PNGs to 8 bits, so those are decoded here. A PNG filter predicts each byte
from the bytes of the same place within the neighbouring pixels, so the first bytes of all pixels,
the second bytes and so on are filtered independently. Each such lane, with the filters of its rows,
is a grey 8-bit PNG that Pillow decodes.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.data.formats import Format, ReadOptions
from medad_fast.data.image import Image, Provenance
from medad_fast.data.limits import MAX_PICTURE_PIXELS, check_size, naming, regular_file_size
from medad_fast.errors import InputError, LimitError

_EXIF_ORIENTATION = 0x0112
_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: np.swapaxes(pixels, 0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.swapaxes(np.rot90(pixels, 2), 0, 1),
    8: np.rot90,
}
"""What shows a picture upright, by its EXIF orientation."""
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_CHANNELS = {2: 3, 4: 2, 6: 4}
"""Samples per pixel of PNGs in colour or with opacity, by their colour type."""


def _read(path: Path, options: ReadOptions) -> Image:
    """Read one PNG or JPEG file.

    16 bits keep all their levels. A palette is expanded to its colours. Transparent parts are
    put on black, with a warning. An EXIF rotation is applied, so that rows and columns are those
    that a viewer shows.

    Raises:
        InputError: damaged, animated, interlaced 16-bit colour, or CMYK.
        LimitError: more than 100 million pixels.
    """
    import PIL.Image
    import PIL.ImageOps

    regular_file_size(path)
    with naming(path, "a PNG or JPEG picture"):
        bits, is_deep_colour = _png_depth(path)
        try:
            with warnings.catch_warnings():
                # Our own limit is checked below; Pillow's warning comes before it.
                warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
                picture = PIL.Image.open(path, formats=("PNG", "JPEG"))
        except PIL.Image.DecompressionBombError as error:
            raise LimitError(
                f"{path}: claims more than {MAX_PICTURE_PIXELS} pixels per slice"
            ) from error
        with picture:
            check_size(path, 1, picture.height, picture.width, 1)
            if getattr(picture, "n_frames", 1) != 1:
                raise InputError(f"{path}: is animated; one picture per file is read")
            turn = _TURNS.get(picture.getexif().get(_EXIF_ORIENTATION, 1))
            if is_deep_colour:
                pixels = _deep_pixels(path)
                pixels = pixels if turn is None else turn(pixels)
            else:
                pixels = _pixels(path, PIL.ImageOps.exif_transpose(picture))
    return Image(
        pixels=pixels[None],
        modality="OT",
        spacing_mm=None,
        geometry=None,
        provenance=Provenance(
            source=path, reader="picture", bits_stored=bits, rotated=turn is not None
        ),
    )


def _png_depth(path: Path) -> tuple[int, bool]:
    """Bits per sample, and whether Pillow would cut the colours to 8 bits."""
    with path.open("rb") as file:
        start = file.read(26)
    if not start.startswith(_PNG) or len(start) < 26:
        return 8, False
    bits, colour_type = start[24], start[25]
    return bits, bits == 16 and colour_type in _CHANNELS


def _pixels(path: Path, picture: Any) -> NDArray[Any]:
    """``(H, W)`` or ``(H, W, 3)``, uint8 or uint16."""
    see_through = picture.info.get("transparency")
    if picture.mode in ("I;16", "I;16B", "I;16L", "I"):
        grey: NDArray[Any] = np.asarray(picture).astype(np.uint16)
        if isinstance(see_through, int):
            grey = _on_black(path, grey, grey != see_through)
        return grey
    if picture.mode in ("P", "PA"):
        transparent = picture.mode == "PA" or see_through is not None
        picture = picture.convert("RGBA" if transparent else "RGB")
    elif see_through is not None and picture.mode in ("1", "L", "RGB"):
        picture = picture.convert("RGBA" if picture.mode == "RGB" else "LA")
    if picture.mode == "1":
        return np.asarray(picture).astype(np.uint8) * np.uint8(255)
    if picture.mode in ("L", "RGB"):
        return np.asarray(picture)
    if picture.mode in ("LA", "RGBA"):
        samples = np.asarray(picture)
        colour = samples[..., 0] if picture.mode == "LA" else samples[..., :3]
        return _on_black(path, colour, samples[..., -1] / 255)
    raise InputError(f"{path}: is a {picture.mode} picture; grey, RGB and palette ones are read")


def _on_black(path: Path, colour: NDArray[Any], opacity: NDArray[Any]) -> NDArray[Any]:
    if (opacity == 1).all():
        return colour
    warnings.warn(f"{path}: is partly transparent; put on black", stacklevel=2)
    if colour.ndim == 3:
        opacity = opacity[..., None]
    blended: NDArray[Any] = np.rint(colour * opacity).astype(colour.dtype)
    return blended


def _deep_pixels(path: Path) -> NDArray[Any]:
    """``(H, W)`` or ``(H, W, 3)`` of a 16-bit PNG of one of the colour types in ``_CHANNELS``."""
    chunks = list(_chunks(path))
    header = next((data for name, data in chunks if name == b"IHDR"), b"")
    width, height, _, colour_type, _, _, interlace = struct.unpack(">IIBBBBB", header)
    channels = _CHANNELS[colour_type]
    check_size(path, 1, height, width, 2 * channels)
    if interlace:
        raise InputError(f"{path}: is an interlaced 16-bit colour PNG; save it without interlacing")
    wanted = height * (1 + 2 * channels * width)
    inflater = zlib.decompressobj()
    packed = b"".join(data for name, data in chunks if name == b"IDAT")
    filtered = inflater.decompress(packed, wanted)
    if len(filtered) < wanted:
        raise InputError(f"{path}: is cut off: {wanted} bytes of pixels expected")
    rows = np.frombuffer(filtered, np.uint8).reshape(height, 1 + 2 * channels * width)
    lanes = [_unfiltered(rows[:, :1], rows[:, 1 + k :: 2 * channels]) for k in range(2 * channels)]
    samples = np.stack(
        [lanes[2 * c].astype(np.uint16) << 8 | lanes[2 * c + 1] for c in range(channels)], axis=-1
    )
    if colour_type != 2:
        colour = samples[..., 0] if channels == 2 else samples[..., :3]
        return _on_black(path, colour, samples[..., -1] / 65535)
    see_through = next((data for name, data in chunks if name == b"tRNS"), None)
    if see_through is None:
        return samples
    key = np.array(struct.unpack(">HHH", see_through))
    return _on_black(path, samples, (samples != key).any(axis=-1))


def _chunks(path: Path) -> list[tuple[bytes, bytes]]:
    data = path.read_bytes()
    found = []
    at = len(_PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        body = data[at + 4 : at + 8 + length]
        checksum = data[at + 8 + length : at + 12 + length]
        if len(checksum) < 4 or zlib.crc32(body) != int.from_bytes(checksum):
            raise InputError(f"{path}: is damaged: a chunk of it has another checksum")
        found.append((body[:4], body[4:]))
        at += 12 + length
    if not found or found[-1][0] != b"IEND":
        raise InputError(f"{path}: is cut off")
    return found


def _unfiltered(filters: NDArray[np.uint8], lane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One byte of each pixel ``(H, W)``, from what a filter per row left of it."""
    import PIL.Image

    height, width = lane.shape
    body = zlib.compress(np.concatenate([filters, lane], axis=1).tobytes(), 0)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    written = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )
    with PIL.Image.open(io.BytesIO(_PNG + written), formats=("PNG",)) as picture:
        return np.asarray(picture)


FORMAT = Format(
    name="picture",
    kinds=("PNG", "JPEG"),
    suffixes=(".png", ".jpg", ".jpeg"),
    sniff=lambda path, start: start.startswith((_PNG, _JPEG)),
    read=_read,
    packages=("pillow",),
    loggers=("PIL",),
)
