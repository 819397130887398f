"""The stored thresholds of each level, what they do on the test set, and tables of decisions.

All thresholds come from normal validation images only, for one target rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.artifacts.scores import ScoreRow
from medad_fast.errors import InputError
from medad_fast.evaluation.figures import Resampler, Sample
from medad_fast.evaluation.levels import Aggregation, Items, number_in_order
from medad_fast.evaluation.slices import SliceData
from medad_fast.training.thresholds import choose, conformal_p

__all__ = ["Cut", "decided_items", "decided_pixels", "level_tables", "stored_cuts"]

_NO_GROUPS = "the run does not tell the patients of its validation images apart"
_TABLE = ("label", "images", "anomaly_score", "threshold", "prediction", "p_value")


@dataclass(frozen=True)
class Cut:
    """A threshold from normal validation images: abnormal is what scores above it."""

    value: float | None
    expected_fpr: float | None = None
    calibration: tuple[float, ...] = ()
    """Rising scores of the normal validation items that it was chosen on."""
    reason: str | None = None
    """Why there is none."""


def stored_cuts(thresholds: Mapping[str, Any], aggregation: Aggregation) -> dict[str, Cut]:
    """The threshold of each level, all for the same target, from normal validation images only.

    Scores of volumes and patients are larger than those of their slices, so they have thresholds of
    their own: the validation volumes and patients are scored by the same rules.
    """
    score = thresholds["score"]
    own = tuple(score.get("calibration", ()))
    cuts = {"image": Cut(score["threshold"], score["expected_fpr"], own)}
    for level, items in _calibration_levels(score, aggregation).items():
        chosen = choose(items.scores, target_fpr=score["target_fpr"])["score"]
        cuts[level] = Cut(chosen["threshold"], chosen["expected_fpr"], tuple(chosen["calibration"]))
    for level in ("volume", "patient"):
        cuts.setdefault(level, Cut(None, reason=_NO_GROUPS))
    if "map" in thresholds:
        cuts["pixel"] = Cut(thresholds["map"]["threshold"])
    else:
        cuts["pixel"] = Cut(None, reason="the run has no threshold for maps")
    return cuts


def _calibration_levels(score: Mapping[str, Any], aggregation: Aggregation) -> dict[str, Items]:
    calibration, volumes, patients = (
        score.get(name) or [] for name in ("calibration", "volumes", "patients")
    )
    if not (calibration and volumes and patients):
        return {}
    if not len(calibration) == len(volumes) == len(patients):
        raise InputError(
            "predict.json: thresholds.score must have one volume and one patient for each "
            "calibration score"
        )
    images = Items(
        np.array(calibration, dtype=np.float64),
        np.zeros(len(calibration), dtype=np.bool_),
        number_in_order(patients),
        number_in_order(volumes),
    )
    levels = aggregation.levels(images)
    return {level: levels[level] for level in ("volume", "patient")}


def decided_items(items: Items, cut: Cut, resampler: Resampler) -> dict[str, Sample]:
    """``fpr``, ``tpr`` and ``dice`` of the decision "abnormal above the threshold"."""
    ill, clusters = items.abnormal, items.resampled
    called = np.zeros(len(ill), dtype=np.bool_) if cut.value is None else items.scores > cut.value
    known = np.full(len(ill), cut.value is not None)
    hits = called & ill
    no_ill, no_well = (cut.reason or f"no {kind} {items.item}" for kind in ("abnormal", "normal"))
    found = {
        "fpr": (called & ~ill, ~ill & known, no_well),
        "tpr": (hits, ill & known, no_ill),
        # Without abnormal items Dice would be 0 whatever the decision.
        "dice": (2.0 * hits, (1.0 * called + ill) * (known & ill.any()), no_ill),
    }
    return {
        name: resampler.ratio(above, below, clusters, reason)
        for name, (above, below, reason) in found.items()
    }


def decided_pixels(slices: SliceData, cut: Cut, resampler: Resampler) -> dict[str, Sample]:
    """The same of pixels, with Dice pooled over all, per abnormal image and per such patient."""
    sizes, clusters = slices.sizes, slices.clusters
    decided = slices.decided if slices.decided is not None else np.zeros((len(sizes), 3), np.int64)
    hits, alarms, missed = decided.T
    lesion = hits + missed
    normal = (sizes - lesion) * (cut.value is not None)
    no_lesion = cut.reason or slices.reason or "no abnormal pixel"
    no_normal = cut.reason or "no normal pixel"

    def mean_dice(owner: np.ndarray[Any, Any], owner_clusters: np.ndarray[Any, Any]) -> Sample:
        h, a, m = (np.bincount(owner, part).astype(np.float64) for part in (hits, alarms, missed))
        ill = h + m > 0
        dice = np.divide(2 * h, 2 * h + a + m, out=np.zeros_like(h), where=ill)
        return resampler.ratio(dice, ill, owner_clusters, no_lesion)

    patients = slices.patients
    return {
        "fpr": resampler.ratio(alarms, normal, clusters, no_normal),
        "tpr": resampler.ratio(hits, lesion, clusters, no_lesion),
        "dice": resampler.ratio(
            2 * hits, (2 * hits + alarms + missed) * bool(lesion.any()), clusters, no_lesion
        ),
        "dice_per_image": mean_dice(np.arange(len(sizes)), clusters),
        "dice_per_patient": mean_dice(patients, np.arange(patients.max(initial=-1) + 1)),
    }


def level_tables(
    rows: Sequence[ScoreRow], aggregation: Aggregation, cuts: Mapping[str, Cut]
) -> dict[str, tuple[tuple[str, ...], list[tuple[object, ...]]]]:
    """Columns and rows of the tables ``volumes`` and ``patients``.

    The scores of slices made into one for each volume and patient, also unlabeled ones, with
    decisions. ``threshold``, ``prediction`` and ``p_value`` are empty where the run does not tell
    the patients of its validation images apart.
    """
    levels = aggregation.levels(Items.of_rows(rows))
    images = levels["image"]
    labels = np.array([("normal", "unlabeled", "abnormal").index(row.label) for row in rows])
    tables: dict[str, tuple[tuple[str, ...], list[tuple[object, ...]]]] = {}
    for level, owner, names in (
        ("volume", images.volumes, ("path", "patient")),
        ("patient", images.patients, ("patient",)),
    ):
        first = [rows[place] for place in np.unique(owner, return_index=True)[1]]
        told = [tuple(getattr(row, name) for name in names) for row in first]
        decided = _decided(levels[level].scores, labels, owner, cuts[level])
        found = [(*own, *cells) for own, cells in zip(told, decided, strict=True)]
        tables[f"{level}s"] = ((*names, *_TABLE), found)
    return tables


def _decided(
    scores: NDArray[np.float64], labels: NDArray[np.int64], owner: NDArray[np.int64], cut: Cut
) -> Iterator[tuple[object, ...]]:
    worst = np.zeros(len(scores), dtype=np.int64)
    np.maximum.at(worst, owner, labels)
    images = np.bincount(owner)
    for score, label, count in zip(scores.tolist(), worst.tolist(), images.tolist(), strict=True):
        told = ("normal", "unlabeled", "abnormal")[label]
        if cut.value is None:
            yield told, count, score, math.nan, "", math.nan
        else:
            verdict = "abnormal" if score > cut.value else "normal"
            yield told, count, score, cut.value, verdict, conformal_p(score, cut.calibration)
