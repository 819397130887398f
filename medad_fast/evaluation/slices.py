"""Anomaly maps and masks back from disk, one volume at a time."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.artifacts.scores import ScoreRow, in_plane
from medad_fast.data import Image, Provenance, read, read_mask
from medad_fast.data.geometry import Axis
from medad_fast.errors import InputError
from medad_fast.evaluation.pixels import PixelCollector, SortedPixels, aupro, float32_up_to
from medad_fast.evaluation.ranking import average_precision

__all__ = ["MAP_PERCENTILE", "SliceData", "number_in_order", "read_map", "read_slices"]

MAP_PERCENTILE = 99.0


@dataclass
class SliceData:
    """What the maps and masks of a folder of predictions say."""

    pixels: SortedPixels
    """All pixels of the slices that are normal or have a mask, on the source's grid."""
    unit: str
    """What the clusters of ``pixels`` are: ``patient``, or ``image`` where there is one patient."""
    reason: str | None
    """Why there are no abnormal pixels, where the tables alone would not tell."""
    patients: NDArray[np.int64]
    """Number of each of these slices' patient."""
    clusters: NDArray[np.int64]
    """Number of what each of these slices is resampled with."""
    decided: NDArray[np.int64] | None
    """``(slices, 3)``: true-positive, false-positive and false-negative pixels of each of these
    slices at the stored threshold; ``None`` without one."""
    of_patient: dict[str, NDArray[np.float64]]
    """``average_precision`` and ``aupro`` of each patient's pixels alone, NaN without lesions."""
    sizes: NDArray[np.int64]
    """How many pixels each of these slices has."""
    percentiles: dict[str, list[float]] = field(default_factory=dict)
    """99th percentile of the map of each slice, by label."""

    def median_percentile(self, label: str) -> float | None:
        """Median over the slices of one label; ``None`` where there are none."""
        values = self.percentiles.get(label)
        return float(np.median(values)) if values else None


def read_slices(
    folder: Path,
    root: Path,
    rows: Sequence[ScoreRow],
    axis: Axis,
    threshold: float | None = None,
) -> SliceData:
    """Read each map once, and the mask beside it.

    Args:
        folder: holds the maps.
        root: of the data set, holds the masks.
        rows: of ``scores.csv``; the rows of one volume follow each other.
        axis: the plane in which the run slices volumes.
        threshold: of the run; a pixel is called abnormal where the map is above it.

    Raises:
        InputError: a map or a mask is missing, damaged, or not on the grid of the other.
    """
    rows = _by_patient(rows)
    known = [row for row in rows if _is_known(row)]
    patients = number_in_order(row.patient for row in known)
    single = not len(patients) or int(patients.max()) == 0
    clusters = np.arange(len(known)) if single else patients
    cut = None if threshold is None else float32_up_to(threshold)
    sizes, decided = list[int](), list[tuple[int, int, int]]()
    collector, percentiles = PixelCollector(), dict[str, list[float]]()
    alone = _EachPatient()
    for row, anomaly_map, mask in _volumes(folder, root, rows, axis):
        percentile = float(np.percentile(anomaly_map, MAP_PERCENTILE))
        percentiles.setdefault(row.label, []).append(percentile)
        if _is_known(row):
            collector.add(anomaly_map, mask, int(clusters[len(sizes)]))
            alone.add(anomaly_map, mask, int(patients[len(sizes)]))
            sizes.append(anomaly_map.size)
            if cut is not None:
                decided.append(_decisions(np.asarray(anomaly_map, dtype=np.float32) > cut, mask))
    no_masks = any(row.label == "abnormal" for row in rows) and not any(row.mask for row in rows)
    reason = "no abnormal image has a mask" if no_masks else None
    return SliceData(
        pixels=collector.sort(),
        unit="image" if single else "patient",
        reason=reason,
        patients=patients,
        clusters=clusters,
        decided=None if cut is None else np.array(decided, dtype=np.int64).reshape(-1, 3),
        of_patient=alone.metrics(),
        sizes=np.array(sizes, dtype=np.int64),
        percentiles=percentiles,
    )


def _is_known(row: ScoreRow) -> bool:
    """Whether it is known of each pixel of a slice if it is normal."""
    return bool(row.mask) or row.label == "normal"


def _by_patient(rows: Sequence[ScoreRow]) -> list[ScoreRow]:
    """One patient after the other, in the order in which their first known slices come."""
    first = [row.patient for row in rows if _is_known(row)]
    numbers = number_in_order([*first, *(row.patient for row in rows)])[len(first) :]
    return [rows[place] for place in np.argsort(numbers, kind="stable").tolist()]


class _EachPatient:
    """Metrics of each patient's pixels alone, from slices that come patient by patient."""

    def __init__(self) -> None:
        self._collector = PixelCollector()
        self._patient = 0
        self._values: list[tuple[float, float]] = []

    def add(self, anomaly_map: NDArray[Any], mask: NDArray[Any] | None, patient: int) -> None:
        if patient != self._patient:
            self._finish()
        self._patient = patient
        self._collector.add(anomaly_map, mask, 0)

    def metrics(self) -> dict[str, NDArray[np.float64]]:
        self._finish()
        table = np.array(self._values, dtype=np.float64).reshape(-1, 2)
        return {"average_precision": table[:, 0], "aupro": table[:, 1]}

    def _finish(self) -> None:
        pixels = self._collector.sort()
        if pixels.pixels:
            ranking = pixels.ranking()
            found = (average_precision(ranking, "pixel").value, aupro(ranking).value)
            first, second = (np.nan if value is None else value for value in found)
            self._values.append((first, second))


def _decisions(called: NDArray[np.bool_], mask: NDArray[Any] | None) -> tuple[int, int, int]:
    """True-positive, false-positive and false-negative pixels of one slice."""
    above = int(np.count_nonzero(called))
    if mask is None:
        return 0, above, 0
    hits = int(np.count_nonzero(called & (mask != 0)))
    return hits, above - hits, int(np.count_nonzero(mask)) - hits


def number_in_order(names: Iterable[Hashable]) -> NDArray[np.int64]:
    """0 for the first name, 1 for the next new one, and so on."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def _volumes(
    folder: Path, root: Path, rows: Sequence[ScoreRow], axis: Axis
) -> Iterator[tuple[ScoreRow, NDArray[Any], NDArray[Any] | None]]:
    for (map_name, mask_name), group in groupby(rows, key=lambda row: (row.map, row.mask)):
        image = _map_image(folder / map_name)
        maps = in_plane(image.pixels, image, axis)
        mask = None
        if mask_name:
            mask = in_plane(read_mask(root / mask_name, image), image, axis)
        for row in group:
            if row.slice >= len(maps):
                raise InputError(f"{folder / map_name}: no slice {row.slice} of {len(maps)}")
            yield row, maps[row.slice], None if mask is None else mask[row.slice]


def read_map(path: Path) -> NDArray[Any]:
    """An anomaly map ``(S, H, W)``, slices as those of the image that it was made from.

    Raises:
        InputError: it is missing, or no map.
    """
    return _map_image(path).pixels


def _map_image(path: Path) -> Image:
    if path.suffix != ".npy":
        return read(path)
    try:
        found: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as an anomaly map: {error}") from error
    if found.ndim not in (2, 3) or not np.issubdtype(found.dtype, np.floating):
        raise InputError(f"{path}: floating point (H, W) expected, got {found.dtype} {found.shape}")
    return Image(
        pixels=found[None] if found.ndim == 2 else found,
        modality="OT",
        spacing_mm=None,
        geometry=None,
        provenance=Provenance(path, "map", 8 * found.dtype.itemsize),
    )
