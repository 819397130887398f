"""NIfTI volumes: read with limits and a known orientation, written back on the same grid."""

from __future__ import annotations

import gzip
import importlib
import math
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from medad_fast.data.formats import Format, ReadOptions
from medad_fast.data.geometry import Axis, geometry_of, nearest_axis, slice_spacing_mm
from medad_fast.data.image import Image, Provenance
from medad_fast.data.limits import MAX_HEADER_BYTES, check_size, naming, regular_file_size
from medad_fast.errors import InputError, LimitError
from medad_fast.files import atomic_write

_HEADER_BYTES = {348: 352, 540: 544}
"""Size of the header of NIfTI-1 and -2, and where its pixels start at the earliest."""

_STARTS = tuple(size.to_bytes(4, order) for size in _HEADER_BYTES for order in ("little", "big"))
_GZIP = b"\x1f\x8b"
_CHUNK_BYTES = 2**22

_REAL_TYPES = frozenset((2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280))
"""NIfTI datatype codes of plain integers and floats up to 64 bits."""

_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""By the spatial part of ``xyzt_units``: unknown, metre, millimetre, micrometre."""


@dataclass(frozen=True)
class _Layout:
    """What the header says, checked."""

    shape: tuple[int, int, int]
    volumes: int
    """Along the fourth axis."""
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    affine: NDArray[np.float64]


def _sniff(path: Path, start: bytes) -> bool:
    if not start.startswith(_GZIP):
        return start.startswith(_STARTS)
    try:
        with gzip.open(path) as file:
            return file.read(4) in _STARTS
    except (OSError, EOFError, zlib.error):
        return False


def _read_image(path: Path, options: ReadOptions) -> Image:
    """Read a NIfTI-1 or -2 volume as axial slices of float32; a single slice in its own plane.

    Raises:
        InputError: not a NIfTI file, damaged, of a kind that is not read (see
            ``docs/reading.md``), or of several volumes and ``options`` does not say which.
        LimitError: larger than the stated limits.
    """
    voxels, layout = _read(path, options.volume)
    geometry = geometry_of(layout.affine, _plane_of(layout))
    return Image(
        pixels=geometry.to_slices(voxels),
        modality="OT",
        spacing_mm=slice_spacing_mm(geometry),
        geometry=geometry,
        provenance=Provenance(
            source=path,
            reader="nifti",
            bits_stored=8 * layout.dtype.itemsize,
            rescaled=(layout.slope, layout.intercept) != (1.0, 0.0),
        ),
    )


def _plane_of(layout: _Layout) -> Axis:
    """That of the only slice where there is one, as for a single DICOM slice; else axial."""
    flat = [axis for axis, side in enumerate(layout.shape) if side == 1]
    return nearest_axis(layout.affine[:3, flat[0]]) if len(flat) == 1 else "axial"


def read_nifti(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Voxels ``(X, Y, Z)`` in the order of the file, and its voxel-to-millimetre matrix.

    Raises:
        InputError: not a NIfTI file, damaged, of several volumes, or of a kind that is not read.
        LimitError: larger than the stated limits.
    """
    voxels, layout = _read(path, None)
    return voxels, layout.affine


def write_nifti(path: Path, volume: NDArray[Any], affine: NDArray[np.float64]) -> None:
    """Write ``(X, Y, Z)`` voxels as they are, whole or not at all.

    Raises:
        DeviceError: the disk is full or not writable.
    """
    nibabel = _nibabel()
    image = nibabel.Nifti1Image(np.ascontiguousarray(volume), affine)
    image.header.set_xyzt_units("mm")
    with atomic_write(path) as temporary:
        nibabel.save(image, temporary)


def _nibabel() -> Any:
    """Nibabel, loaded when first needed; its published types leave most calls untyped."""
    return importlib.import_module("nibabel")


def _read(path: Path, chosen: int | None) -> tuple[NDArray[np.float32], _Layout]:
    size = regular_file_size(path)
    with naming(path, "a NIfTI volume"), path.open("rb") as file:
        zipped = file.read(2) == _GZIP
        file.seek(0)
        # Decompressed piece by piece: the header decides how much of it is wanted.
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if zipped else file
        layout = _read_layout(path, stream)
        volume = _chosen(path, layout, chosen)
        bytes_each = math.prod(layout.shape) * layout.dtype.itemsize
        wanted = layout.offset + layout.volumes * bytes_each
        if not zipped and size < wanted:
            raise InputError(f"{path}: is cut off: {wanted} bytes expected, {size} found")
        stream.seek(layout.offset + volume * bytes_each)
        stored = _read_exactly(path, stream, bytes_each)
        if zipped:
            _check_trailer(path, stream, (layout.volumes - volume - 1) * bytes_each)
        raw = np.frombuffer(stored, layout.dtype).reshape(layout.shape, order="F")
        return _scaled(path, raw, layout), layout


def _read_layout(path: Path, stream: IO[bytes]) -> _Layout:
    start = stream.read(max(_HEADER_BYTES))
    lengths = {int.from_bytes(start[:4], order) for order in ("little", "big")}
    known = lengths & _HEADER_BYTES.keys()
    if not known or len(start) < max(known):
        raise InputError(f"{path}: is not a NIfTI file (.nii or .nii.gz)")
    length = known.pop()
    nibabel = _nibabel()
    kind = nibabel.Nifti1Header if length == 348 else nibabel.Nifti2Header
    # No check: nibabel's would repair lies that are to be refused below.
    header = kind(start[:length], check=False)
    if bytes(header["magic"])[:3] not in (b"n+1", b"n+2"):
        raise InputError(f"{path}: is not a single NIfTI file; convert .hdr/.img pairs to .nii")

    *shape, volumes = _checked_shape(path, [int(n) for n in header["dim"]])
    if int(header["datatype"]) not in _REAL_TYPES:
        raise InputError(
            f"{path}: holds {header.get_value_label('datatype')} voxels; "
            "integers and floats of up to 64 bits are read"
        )
    dtype = header.get_data_dtype()
    check_size(path, shape[2] * volumes, shape[1], shape[0], dtype.itemsize)
    offset = float(header["vox_offset"])
    if not _HEADER_BYTES[length] <= offset <= MAX_HEADER_BYTES:
        raise InputError(f"{path}: claims that its voxels start at byte {offset:.0f}")
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite((slope, intercept)).all():
        raise InputError(f"{path}: its slope and intercept ({slope}, {intercept}) must be finite")
    if slope == 0:  # the format's way to say that values are stored as they are
        slope, intercept = 1.0, 0.0
    x, y, z = shape
    return _Layout((x, y, z), volumes, dtype, int(offset), slope, intercept, _affine(path, header))


def _checked_shape(path: Path, dim: list[int]) -> tuple[int, int, int, int]:
    """Length of the three axes of space, and of the fourth."""
    rank = dim[0]
    if not 1 <= rank <= 7 or any(n < 1 for n in dim[1 : rank + 1]):
        raise InputError(f"{path}: claims impossible dimensions {dim[: max(1, min(rank, 7)) + 1]}")
    if any(n > 1 for n in dim[5 : rank + 1]):
        shape = " x ".join(str(n) for n in dim[1 : rank + 1])
        raise InputError(f"{path}: holds {shape} voxels; three or four axes are read")
    x, y, z, t = (dim[i] if i <= rank else 1 for i in (1, 2, 3, 4))
    return x, y, z, t


def _chosen(path: Path, layout: _Layout, chosen: int | None) -> int:
    if layout.volumes == 1:
        return 0
    if chosen is None:
        raise InputError(
            f"{path}: holds {layout.volumes} volumes; choose one, from 0, with the preprocess "
            "setting volume"
        )
    if not 0 <= chosen < layout.volumes:
        raise InputError(f"{path}: has no volume {chosen}, only 0 to {layout.volumes - 1}")
    return chosen


def _affine(path: Path, header: Any) -> NDArray[np.float64]:
    if int(header["qform_code"]) == 0 and int(header["sform_code"]) == 0:
        warnings.warn(
            f"{path}: does not tell its orientation; first axis taken as right to left, second as "
            "posterior to anterior, third as inferior to superior",
            stacklevel=2,
        )
    units = int(header["xyzt_units"]) & 7
    affine = np.array(header.get_best_affine(), dtype=np.float64)
    affine[:3] *= _MM_PER_UNIT.get(units, 1.0)
    try:
        geometry_of(affine)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return affine


def _read_exactly(path: Path, stream: IO[bytes], count: int) -> bytearray:
    stored = bytearray()
    while len(stored) < count:
        chunk = stream.read(min(_CHUNK_BYTES, count - len(stored)))
        if not chunk:
            raise InputError(
                f"{path}: is cut off: {count} bytes of voxels expected, {len(stored)} found"
            )
        stored += chunk
    return stored


def _check_trailer(path: Path, stream: IO[bytes], further: int) -> None:
    """Read on to the end, past ``further`` bytes: only there does gzip compare its checksum."""
    left = MAX_HEADER_BYTES + further
    while chunk := stream.read(_CHUNK_BYTES):
        left -= len(chunk)
        if left < 0:
            raise LimitError(f"{path}: holds more than {MAX_HEADER_BYTES} bytes after its voxels")
    if left > MAX_HEADER_BYTES:
        missing = left - MAX_HEADER_BYTES
        raise InputError(f"{path}: is cut off: {missing} bytes of further volumes are missing")


def _scaled(path: Path, raw: NDArray[Any], layout: _Layout) -> NDArray[np.float32]:
    if (layout.slope, layout.intercept) == (1.0, 0.0):
        with np.errstate(over="ignore"):
            values = raw.astype(np.float32)
    else:
        values = np.empty(raw.shape, np.float32, order="F")
        with np.errstate(over="ignore"):
            for z in range(raw.shape[2]):  # slice by slice: float64 of it all would be too much
                values[:, :, z] = raw[:, :, z].astype(np.float64) * layout.slope + layout.intercept
    if (np.isinf(values) & np.isfinite(raw)).any():
        raise InputError(
            f"{path}: its values times slope {layout.slope:g} plus {layout.intercept:g} are "
            "too large for float32"
        )
    return values


FORMAT = Format(
    name="nifti",
    kinds=("NIfTI",),
    suffixes=(".nii", ".nii.gz"),
    sniff=_sniff,
    read=_read_image,
    trusts_suffix=True,
    packages=("nibabel",),
    loggers=("nibabel",),
)
