"""All metrics of one folder of predictions, with their resamples: what a report or test needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medad_fast.artifacts.scores import FORMAT_VERSION, ScoreRow, read_scores
from medad_fast.errors import InputError
from medad_fast.evaluation.figures import Items, Resampler, Sample
from medad_fast.evaluation.levels import Rule, rule_named
from medad_fast.evaluation.slices import SliceData, number_in_order, read_slices
from medad_fast.training.thresholds import choose

__all__ = [
    "Aggregation",
    "Cut",
    "Judgement",
    "Predictions",
    "judge",
    "read_predictions",
]

_NEEDED = (
    ("data", "root"),
    ("preprocess", "axis"),
    ("counts", "skipped_slices"),
    ("counts", "failed_files"),
    *(("thresholds", "score", name) for name in ("threshold", "target_fpr", "expected_fpr")),
)
"""What must be in ``predict.json``."""
_NO_GROUPS = "the run does not tell the patients of its validation images apart"


@dataclass(frozen=True)
class Predictions:
    """What ``medad predict`` wrote into one folder."""

    folder: Path
    root: Path
    """Of the data set."""
    about: dict[str, Any]
    """``predict.json``."""
    rows: list[ScoreRow]
    manifest: Path | None = None
    """The table that lists the data set, where it has one."""


@dataclass(frozen=True)
class Aggregation:
    """How slices make a volume's score and volumes a patient's: names of rules."""

    volume: str = "max"
    patient: str = "max"

    def levels(self, images: Items) -> dict[str, Items]:
        """The same scores at the level of images, volumes and patients.

        Raises:
            InputError: no such rule.
        """
        of_volume = rule_named(self.volume, "volume_score")
        of_patient: Rule = rule_named(self.patient, "patient_score")
        volumes = images.by_volume(of_volume)
        return {"image": images, "volume": volumes, "patient": volumes.by_patient(of_patient)}


@dataclass(frozen=True)
class Cut:
    """A threshold from normal validation images: abnormal is what scores above it."""

    value: float | None
    expected_fpr: float | None = None
    calibration: tuple[float, ...] = ()
    """Rising scores of the normal validation items that it was chosen on."""
    reason: str | None = None
    """Why there is none."""


@dataclass(frozen=True)
class Judgement:
    """Each metric by level and name, with its resamples."""

    levels: dict[str, Items]
    slices: SliceData
    cuts: dict[str, Cut]
    """By level: ``image``, ``volume``, ``patient`` and ``pixel``."""
    ranking: dict[str, dict[str, Sample]]
    """Figures of the order of the scores, by level and name."""
    decisions: dict[str, dict[str, Sample]]
    """What the stored thresholds do on the test set, by level and name."""

    def units(self) -> dict[str, str]:
        """What is resampled at each level."""
        units = {level: items.unit for level, items in self.levels.items()}
        return {**units, "pixel": self.slices.unit}


def read_predictions(folder: str | Path, data: str | Path | None = None) -> Predictions:
    """Read the tables of a folder of finished predictions.

    Args:
        folder: what :func:`medad_fast.predict` wrote.
        data: where the data set lies now, if it moved since.

    Raises:
        InputError: no finished prediction there, no rows, or a damaged table.
    """
    folder = Path(folder)
    about = _about(folder)
    rows = read_scores(folder / "scores.csv")
    if not rows:
        raise InputError(f"{folder / 'scores.csv'}: at least one scored slice expected, got none")
    given = Path(data) if data is not None else folder / about["data"]["root"]
    root = given.parent if given.is_file() else given
    listed = given if given.is_file() else root / (about["data"].get("manifest") or "manifest.csv")
    known = listed.suffix == ".csv" and listed.is_file()
    return Predictions(folder, root, about, rows, listed if known else None)


def judge(predictions: Predictions, aggregation: Aggregation, resampler: Resampler) -> Judgement:
    """Compute every metric at every level. Unlabeled slices count nowhere.

    Raises:
        InputError: no such rule of aggregation, or a map or mask is missing or damaged.
    """
    about, rows = predictions.about, predictions.rows
    thresholds = about["thresholds"]
    images = Items.of_rows([row for row in rows if row.label != "unlabeled"])
    levels = aggregation.levels(images)
    cuts = stored_cuts(thresholds, aggregation)
    slices = read_slices(
        predictions.folder, predictions.root, rows, about["preprocess"]["axis"], cuts["pixel"].value
    )
    ranking = {level: resampler.scores(items) for level, items in levels.items()}
    decisions = {
        level: _decided_items(items, cuts[level], resampler) for level, items in levels.items()
    }
    return Judgement(
        levels,
        slices,
        cuts,
        {
            **ranking,
            "pixel": {**resampler.pixels(slices), **resampler.pixels_of_patients(slices)},
        },
        {**decisions, "pixel": _decided_pixels(slices, cuts["pixel"], resampler)},
    )


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


def _decided_items(items: Items, cut: Cut, resampler: Resampler) -> dict[str, Sample]:
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


def _decided_pixels(slices: SliceData, cut: Cut, resampler: Resampler) -> dict[str, Sample]:
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


def _about(folder: Path) -> dict[str, Any]:
    path = folder / "predict.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: no predict.json, so this is no folder of finished predictions"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    for entries in _NEEDED:
        found: Any = about
        for depth, name in enumerate(entries, start=1):
            if not isinstance(found, dict) or name not in found:
                raise InputError(f"{path}: the entry {'.'.join(entries[:depth])} is missing")
            found = found[name]
    version = about.get("format_version", 1)
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise InputError(
            f"{path}: has format version {version!r}, this release reads versions 1 to "
            f"{FORMAT_VERSION}: evaluate it with the medad-fast that wrote it, or run medad "
            "predict again"
        )
    return dict(about)
