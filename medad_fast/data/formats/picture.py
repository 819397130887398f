"""PNG and JPEG pictures, at the bit depth they are stored in."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.data.formats.deep_png import CHANNELS, read_deep_png
from medad_fast.data.image import Image, Provenance
from medad_fast.data.limits import MAX_PICTURE_PIXELS, check_size, naming, regular_file_size
from medad_fast.errors import InputError, LimitError

__all__ = ["PICTURE_SUFFIXES", "read_picture"]

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")

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
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_picture(path: Path) -> Image:
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
                deep = read_deep_png(path)
                opacity = deep.opacity
                pixels = deep.colour if opacity is None else _on_black(path, deep.colour, opacity)
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
    if not start.startswith(_PNG_SIGNATURE) or len(start) < 26:
        return 8, False
    bits, colour_type = start[24], start[25]
    return bits, bits == 16 and colour_type in CHANNELS


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
