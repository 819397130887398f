"""16-bit colour PNG at full depth, which Pillow would cut to 8 bits.

A PNG filter predicts each byte from the bytes of the same place within the neighbouring pixels, so
the first bytes of all pixels, the second bytes and so on are filtered independently. Each such
lane, with the filters of its rows, is a grey 8-bit PNG that Pillow decodes.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medad_fast.data.limits import check_size
from medad_fast.errors import InputError

__all__ = ["CHANNELS", "DeepPicture", "read_deep_png"]

CHANNELS = {2: 3, 4: 2, 6: 4}
"""Samples per pixel by PNG's colour type: RGB, grey with opacity, RGB with opacity."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, eq=False)
class DeepPicture:
    """The samples of a file, before opacity is applied."""

    colour: NDArray[np.uint16]
    """``(H, W)`` or ``(H, W, 3)``."""
    opacity: NDArray[np.float64] | None
    """``(H, W)`` from 0 to 1, where the file has any."""


def read_deep_png(path: Path) -> DeepPicture:
    """Decode a 16-bit PNG of one of the colour types in ``CHANNELS``.

    Raises:
        InputError: damaged, or interlaced.
        LimitError: more than 100 million pixels.
    """
    chunks = list(_chunks(path))
    header = next((data for name, data in chunks if name == b"IHDR"), b"")
    width, height, _, colour_type, _, _, interlace = struct.unpack(">IIBBBBB", header)
    channels = CHANNELS[colour_type]
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
        return DeepPicture(colour, samples[..., -1] / 65535)
    see_through = next((data for name, data in chunks if name == b"tRNS"), None)
    if see_through is None:
        return DeepPicture(samples, None)
    key = np.array(struct.unpack(">HHH", see_through))
    return DeepPicture(samples, (samples != key).any(axis=-1).astype(np.float64))


def _chunks(path: Path) -> list[tuple[bytes, bytes]]:
    data = path.read_bytes()
    found = []
    at = len(_SIGNATURE)
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
    with PIL.Image.open(io.BytesIO(_SIGNATURE + written), formats=("PNG",)) as picture:
        return np.asarray(picture)
