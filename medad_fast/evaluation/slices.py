"""What the maps and masks of a prediction say, read one volume at a time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.artifacts.predictions import Predictions
from medad_fast.artifacts.scores import ScoreRow
from medad_fast.evaluation.levels import Items, number_in_order
from medad_fast.evaluation.pixels import PixelCollector, SortedPixels, aupro, float32_up_to
from medad_fast.evaluation.ranking import average_precision

MAP_PERCENTILE = 99.0


@dataclass
class SliceData:
    """What the maps and masks of a folder of predictions say."""

    pixels: SortedPixels
    """All pixels of the slices that are normal or have a mask, on the source's grid."""
    items: Items
    """These slices: the clusters of ``pixels`` are what they are resampled with."""
    reason: str | None
    """Why there are no abnormal pixels, where the tables alone would not tell."""
    decided: NDArray[np.int64]
    """``(slices, 3)``: true-positive, false-positive and false-negative pixels of each of these
    slices at the stored threshold."""
    of_patient: dict[str, NDArray[np.float64]]
    """``average_precision`` and ``aupro`` of each patient's pixels alone, NaN without lesions."""
    sizes: NDArray[np.int64]
    """How many pixels each of these slices has."""
    masks: dict[tuple[str, int], bytes]
    """A digest of the mask of each slice that has one, by path and slice."""
    percentiles: dict[str, list[float]] = field(default_factory=dict)
    """99th percentile of the map of each slice, by label."""

    def median_percentile(self, label: str) -> float | None:
        """Median over the slices of one label; ``None`` where there are none."""
        values = self.percentiles.get(label)
        return float(np.median(values)) if values else None


def read_slices(predictions: Predictions, threshold: float = math.inf) -> SliceData:
    """Read each map once, and the mask beside it.

    Args:
        predictions: the rows of one volume follow each other.
        threshold: of the run; a pixel is called abnormal where the map is above it.

    Raises:
        InputError: a map or a mask is missing, damaged, or not on the grid of the other.
    """
    rows = _by_patient(predictions.rows)
    items = Items.of_rows([row for row in rows if _is_known(row)])
    clusters, patients = items.resampled.tolist(), items.patients.tolist()
    cut = float32_up_to(threshold)
    sizes, decided = list[int](), list[tuple[int, int, int]]()
    collector, percentiles = PixelCollector(), dict[str, list[float]]()
    alone, masks = _EachPatient(), dict[tuple[str, int], bytes]()
    for row, anomaly_map, mask in predictions.slices(rows):
        percentile = float(np.percentile(anomaly_map, MAP_PERCENTILE))
        percentiles.setdefault(row.label, []).append(percentile)
        if mask is not None:
            masks[row.path, row.slice] = hashlib.sha256(np.packbits(mask).tobytes()).digest()
        if _is_known(row):
            collector.add(anomaly_map, mask, clusters[len(sizes)])
            alone.add(anomaly_map, mask, patients[len(sizes)])
            sizes.append(anomaly_map.size)
            decided.append(decisions(anomaly_map, mask, cut))
    no_masks = any(row.label == "abnormal" for row in rows) and not any(row.mask for row in rows)
    reason = "no abnormal image has a mask" if no_masks else None
    return SliceData(
        pixels=collector.sort(),
        items=items,
        reason=reason,
        decided=np.array(decided, dtype=np.int64).reshape(-1, 3),
        of_patient=alone.metrics(),
        sizes=np.array(sizes, dtype=np.int64),
        masks=masks,
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


def decisions(
    anomaly_map: NDArray[Any], mask: NDArray[Any] | None, cut: np.float32
) -> tuple[int, int, int]:
    """True-positive, false-positive and false-negative pixels of one slice, positive above ``cut``.

    Args:
        anomaly_map: ``(H, W)``, compared as float32.
        mask: ``(H, W)``, non-zero where abnormal; ``None`` where the slice is known normal.
        cut: from :func:`float32_up_to`.
    """
    called = np.asarray(anomaly_map, dtype=np.float32) > cut
    lesion = np.zeros_like(called) if mask is None else mask != 0
    hits = int(np.count_nonzero(called & lesion))
    return hits, int(np.count_nonzero(called)) - hits, int(np.count_nonzero(lesion)) - hits
