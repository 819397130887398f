"""Pixel metrics of a whole test set from one sort, and their counts per patient for resampling.

Each pixel is one 64-bit number: its score, mapped to an integer that falls as the score rises,
above its owner: the patient for a normal pixel, the lesion for an abnormal one. One sort of these
puts all pixels in falling order of score, equal scores side by side, and everything else is read
off the places of the abnormal pixels in it.

AUPRO: Bergmann et al., "The MVTec anomaly detection dataset", 2021: mean over lesions of the share
of each lesion that is found, integrated over the false-positive rate from 0 to 0.3 and divided by
0.3. Lesions are the 8-connected regions of a slice's mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.errors import InputError
from medad_fast.evaluation.ranking import Metric, Ranking, tie_starts

FPR_LIMIT = 0.3
BINS = 4096
_LESION = np.uint64(1 << 31)
_OWNER = np.uint64((1 << 31) - 1)
_SHIFT = np.uint64(32)


@dataclass(frozen=True, eq=False)
class PixelRanking(Ranking):
    """Counts of pixels by falling score, with how much of the lesions stands at each.

    Runs of scores that only normal pixels have are one entry, under the largest of them: the
    metrics of this package cannot see the difference, and the table stays as small as the lesions.
    """

    coverage: NDArray[np.float64]
    """``(G)`` sum over the pixels of an entry of 1 / (pixels of its lesion)."""
    lesions: int


def aupro(ranking: PixelRanking) -> Metric:
    """Area under the per-region overlap up to a false-positive rate of 0.3, over 0.3: 0 to 1."""
    if reason := ranking.one_class("pixel"):
        return Metric(None, reason)
    value = aupro_of_counts(ranking.normal, ranking.coverage, np.asarray(ranking.lesions))
    return Metric(float(value))


def aupro_of_counts(
    normal: NDArray[Any], coverage: NDArray[np.float64], lesions: NDArray[Any]
) -> NDArray[np.float64]:
    """AUPRO of tables ``(..., G)`` in falling order of score; NaN without lesions or normals.

    A pixel found at the step from rate ``before`` to ``after`` counts half within the step and
    fully from there to the limit, so the integral is a plain sum over pixels.
    """
    alarms = np.cumsum(normal, axis=-1)
    total = alarms[..., -1:]
    safe_total = np.maximum(total, 1)
    after = alarms / safe_total
    before = (alarms - normal) / safe_total
    reach = np.minimum(after, FPR_LIMIT)
    within = np.maximum(reach - before, 0)
    # At `reach` a step that the limit cuts has found only this share of its pixels.
    share = np.divide(within, after - before, out=np.ones_like(after), where=after > before)
    area = (within * share / 2 + (FPR_LIMIT - reach)) / FPR_LIMIT
    defined = (lesions > 0) & (total.sum(axis=-1) > 0)
    result = np.full(np.shape(defined), np.nan)
    np.divide(np.sum(coverage * area, axis=-1), lesions, out=result, where=defined)
    # Rounding of the shares 1 / size must not take a perfect map above 1.
    return np.minimum(result, 1.0)


class PixelCollector:
    """Takes the slices of a test set one by one and sorts their pixels once, at the end.

    Holds 8 bytes a pixel, twice that for a moment in :meth:`sort`.
    """

    def __init__(self) -> None:
        self._packed: list[NDArray[np.uint64]] = []
        self._lesion_sizes: list[int] = []
        self._lesion_clusters: list[int] = []
        self._clusters = 0

    def add(self, anomaly_map: NDArray[Any], mask: NDArray[Any] | None, cluster: int) -> None:
        """Take one slice.

        Args:
            anomaly_map: ``(H, W)``, compared as float32.
            mask: ``(H, W)``, non-zero where abnormal; ``None`` where the slice is known normal.
            cluster: number of the patient (or image), from 0.

        Raises:
            InputError: shapes that differ, or a NaN in the map.
        """
        values = np.asarray(anomaly_map, dtype=np.float32)
        if np.isnan(values).any():
            raise InputError(f"anomaly_map has {np.isnan(values).sum()} NaN of {values.size}")
        owners = np.full(values.shape, cluster, dtype=np.uint64)
        if mask is not None:
            self._own_lesions(owners, np.asarray(mask) != 0, cluster)
        self._clusters = max(self._clusters, cluster + 1)
        self._packed.append(((falling_keys(values) << _SHIFT) | owners).ravel())

    def _own_lesions(
        self, owners: NDArray[np.uint64], mask: NDArray[np.bool_], cluster: int
    ) -> None:
        from scipy import ndimage

        if mask.shape != owners.shape:
            raise InputError(f"mask has shape {mask.shape}, but the anomaly map has {owners.shape}")
        regions, count = ndimage.label(mask, structure=np.ones((3, 3), dtype=np.int64))
        inside = regions[mask].astype(np.uint64) - np.uint64(1 if count else 0)
        owners[mask] = _LESION | (inside + np.uint64(len(self._lesion_sizes)))
        self._lesion_sizes.extend(np.bincount(inside.astype(np.int64), minlength=count).tolist())
        self._lesion_clusters.extend([cluster] * count)

    def sort(self) -> SortedPixels:
        """Sort all pixels taken so far; the collector is empty afterwards."""
        packed = np.concatenate([np.zeros(0, dtype=np.uint64), *self._packed])
        self._packed.clear()
        packed.sort()
        found = SortedPixels(
            packed,
            np.asarray(self._lesion_sizes, dtype=np.int64),
            np.asarray(self._lesion_clusters, dtype=np.int64),
            self._clusters,
        )
        self._lesion_sizes.clear()
        self._lesion_clusters.clear()
        self._clusters = 0
        return found


class SortedPixels:
    """All pixels of a test set in falling order of score."""

    def __init__(
        self,
        packed: NDArray[np.uint64],
        lesion_sizes: NDArray[np.int64],
        lesion_clusters: NDArray[np.int64],
        clusters: int,
    ) -> None:
        self._packed = packed
        self._places = np.flatnonzero(packed & _LESION)
        lesion = (packed[self._places] & _OWNER).astype(np.int64)
        self._coverage = 1.0 / lesion_sizes[lesion]
        self._abnormal_clusters = lesion_clusters[lesion]
        self._lesion_clusters = lesion_clusters
        self.clusters = clusters

    @property
    def pixels(self) -> int:
        """How many pixels there are."""
        return len(self._packed)

    @property
    def lesion_pixels(self) -> int:
        """How many of them are abnormal."""
        return len(self._places)

    @property
    def lesions(self) -> int:
        """How many 8-connected lesions they form."""
        return len(self._lesion_clusters)

    def ranking(self) -> PixelRanking:
        """The table that the metrics read."""
        keys = self._packed[self._places] >> _SHIFT
        firsts = tie_starts(keys)
        begin, end = self._tie_edges(keys[firsts])
        # Entries take turns: the normal pixels above a score with lesions, then that score's own.
        edges = np.concatenate(([0], np.column_stack((begin, end)).ravel(), [self.pixels]))
        sizes = np.diff(edges)
        abnormal = np.zeros(len(sizes), dtype=np.int64)
        coverage = np.zeros(len(sizes))
        if len(firsts):
            abnormal[1::2] = np.diff(firsts, append=len(keys))
            # reduceat adds one by one: in float64 a tie of 10^5 pixels would lose five digits.
            coverage[1::2] = np.add.reduceat(self._coverage, firsts, dtype=np.longdouble)
        filled = sizes > 0
        scores = falling_scores(self._packed[edges[:-1][filled]] >> _SHIFT)
        return PixelRanking(
            scores, (sizes - abnormal)[filled], abnormal[filled], coverage[filled], self.lesions
        )

    def lesions_by_cluster(self) -> NDArray[np.int64]:
        """Number of lesions of each patient, ``(clusters)``."""
        return np.bincount(self._lesion_clusters, minlength=self.clusters)

    def binned_counts(
        self, bins: int = BINS, at_once: int = 128
    ) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Counts of each patient in quantile bins of the score, from the largest score down.

        Half of the bins hold equal shares of all pixels, half equal shares of the lesions' pixels,
        so that the few scores which decide precision are told apart. Equal scores share a bin.

        Yields:
            The bins' places and ``(3, clusters, len)`` float64: normal pixels, abnormal pixels,
            and lesion coverage.
        """
        edges = self._bin_edges(bins)
        places = np.searchsorted(self._places, edges)
        for first in range(0, len(edges) - 1, at_once):
            last = min(first + at_once, len(edges) - 1)
            owners = self._packed[edges[first] : edges[last]]
            bin_of = np.repeat(np.arange(last - first), np.diff(edges[first : last + 1]))
            normal = (owners & _LESION) == 0
            inside = slice(places[first], places[last])
            bin_of_abnormal = np.repeat(np.arange(last - first), np.diff(places[first : last + 1]))
            patients, lesion_patients = owners[normal] & _OWNER, self._abnormal_clusters[inside]
            cells = (
                self._cells(patients.astype(np.int64), bin_of[normal], last - first),
                self._cells(lesion_patients, bin_of_abnormal, last - first),
                self._cells(lesion_patients, bin_of_abnormal, last - first, self._coverage[inside]),
            )
            yield slice(first, last), np.stack(cells)

    def _cells(
        self,
        cluster: NDArray[np.int64],
        bin_of: NDArray[np.int64],
        bins: int,
        weights: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        counts = np.bincount(cluster * bins + bin_of, weights, minlength=self.clusters * bins)
        return counts.reshape(self.clusters, bins).astype(np.float64)

    def _bin_edges(self, bins: int) -> NDArray[np.int64]:
        if not self.pixels:
            return np.zeros(1, dtype=np.int64)
        steps = np.arange(1, bins // 2 + 1)
        places = (self.pixels * steps - 1) // (bins // 2)
        if self.lesion_pixels:
            lesion_places = self._places[
                np.maximum(self.lesion_pixels * steps - 1, 0) // (bins // 2)
            ]
            places = np.concatenate((places, lesion_places))
        _, ends = self._tie_edges(self._packed[np.unique(places)] >> _SHIFT)
        return np.unique(np.concatenate((np.zeros(1, dtype=np.int64), ends)))

    def _tie_edges(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the pixels with each of these keys begin and end."""
        begin = np.searchsorted(self._packed, keys << _SHIFT)
        return begin, np.searchsorted(self._packed, (keys + np.uint64(1)) << _SHIFT)


def float32_up_to(threshold: float) -> np.float32:
    """The largest float32 that is not above ``threshold``: the same values lie above both."""
    with np.errstate(over="ignore"):
        nearest = np.float32(threshold)
    if float(nearest) > threshold:  # as float64: numpy would round the threshold first
        nearest = np.nextafter(nearest, np.float32(-np.inf))
    return nearest


def falling_keys(values: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Integers below 2^32 that fall as ``values`` rise; 0.0 and -0.0 are one value."""
    bits = (values + np.float32(0)).view(np.uint32)
    negative = bits >> np.uint32(31) != 0
    return np.where(negative, bits, ~bits & np.uint32(0x7FFFFFFF)).astype(np.uint64)


def falling_scores(keys: NDArray[np.uint64]) -> NDArray[np.float32]:
    """The values of :func:`falling_keys`."""
    bits = keys.astype(np.uint32)
    negative = bits >> np.uint32(31) != 0
    return np.where(negative, bits, ~bits & np.uint32(0x7FFFFFFF)).view(np.float32)
