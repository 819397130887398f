"""From scores of slices to those of volumes and patients, with a threshold at each level.

The rule is chosen before the test set is seen and is the same for every volume:

- ``max``: the largest score. Grows with the number of slices, normal ones included.
- ``top-K``: mean of the ``K`` largest scores, of all where there are fewer.
- ``quantile-Q``: the smallest score that at least a share ``Q`` of the scores do not exceed.

All thresholds come from normal validation images only, for one target rate.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medad_fast.artifacts.scores import ScoreRow
from medad_fast.errors import InputError
from medad_fast.evaluation.ranking import Ranking, rank
from medad_fast.training.thresholds import choose, conformal_p

Rule = Callable[[NDArray[np.float64]], float]
"""Rising scores of one volume or patient, at least one, to one score."""
Table = tuple[tuple[str, ...], list[tuple[object, ...]]]
"""The names of the columns, and the rows."""

_NO_GROUPS = "the run does not tell the patients of its validation images apart"
_OF_LEVEL = ("label", "images", "anomaly_score", "threshold", "prediction", "p_value")


@dataclass(frozen=True)
class Items:
    """What is ranked at one level: images, volumes or patients."""

    scores: NDArray[np.float64]
    abnormal: NDArray[np.bool_]
    patients: NDArray[np.int64]
    """Number of each item's patient, in order of first appearance: hashes change between runs."""
    volumes: NDArray[np.int64]
    """Number of each item's volume, in order of first appearance."""
    item: str = "image"

    @classmethod
    def of_rows(cls, rows: Sequence[ScoreRow]) -> Items:
        return cls(
            np.array([row.anomaly_score for row in rows], dtype=np.float64),
            np.array([row.label == "abnormal" for row in rows], dtype=np.bool_),
            number_in_order(row.patient for row in rows),
            number_in_order(row.path for row in rows),
        )

    def by_volume(self, rule: Rule) -> Items:
        """One item a volume; abnormal where one of the slices is."""
        return self._grouped(self.volumes, rule, "volume")

    def by_patient(self, rule: Rule) -> Items:
        """One item a patient; abnormal where one of the items is."""
        return self._grouped(self.patients, rule, "patient")

    def _grouped(self, owner: NDArray[np.int64], rule: Rule, item: str) -> Items:
        _, first = np.unique(owner, return_index=True)
        abnormal = np.zeros(len(first), dtype=np.bool_)
        np.logical_or.at(abnormal, owner, self.abnormal)
        scores = aggregate(self.scores, owner, rule)
        return Items(scores, abnormal, self.patients[first], self.volumes[first], item)

    @property
    def clusters(self) -> int:
        """How many patients there are."""
        return int(self.patients.max()) + 1 if len(self.patients) else 0

    @property
    def unit(self) -> str:
        """What is resampled."""
        return "patient" if self.clusters > 1 else self.item

    @property
    def resampled(self) -> NDArray[np.int64]:
        """Number of what each item is resampled with: its patient, or itself for a lone patient."""
        return self.patients if self.clusters > 1 else np.arange(len(self.scores))

    def ranking(self) -> Ranking:
        return rank(self.scores, self.abnormal)


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


def number_in_order(names: Iterable[Hashable]) -> NDArray[np.int64]:
    """0 for the first name, 1 for the next new one, and so on."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


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


def level_tables(
    rows: Sequence[ScoreRow], aggregation: Aggregation, cuts: Mapping[str, Cut]
) -> dict[str, Table]:
    """Columns and rows of the tables ``volumes`` and ``patients``.

    The scores of slices made into one for each volume and patient, also unlabeled ones, with
    decisions. ``threshold``, ``prediction`` and ``p_value`` are empty where the run does not tell
    the patients of its validation images apart.
    """
    levels = aggregation.levels(Items.of_rows(rows))
    images = levels["image"]
    labels = np.array([("normal", "unlabeled", "abnormal").index(row.label) for row in rows])
    tables: dict[str, Table] = {}
    for level, owner, names in (
        ("volume", images.volumes, ("path", "patient")),
        ("patient", images.patients, ("patient",)),
    ):
        first = [rows[place] for place in np.unique(owner, return_index=True)[1]]
        told = [tuple(getattr(row, name) for name in names) for row in first]
        decided = _decided(levels[level].scores, labels, owner, cuts[level])
        found = [(*own, *cells) for own, cells in zip(told, decided, strict=True)]
        tables[f"{level}s"] = ((*names, *_OF_LEVEL), found)
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


def rule_named(text: str, argument: str = "rule") -> Rule:
    """The rule of a name: ``max``, ``top-3``, ``quantile-0.9``.

    Raises:
        InputError: no such rule; names ``argument``.
    """
    found = re.fullmatch(r"(max)|top-([0-9]{1,9})|quantile-([0-9.]{1,20})", text)
    if found and found[1]:
        return lambda rising: float(rising[-1])
    if found and found[2] and (count := int(found[2])) >= 1:
        return lambda rising: math.fsum(rising[-count:].tolist()) / min(count, len(rising))
    if found and found[3] and found[3].count(".") <= 1 and found[3] != ".":
        share = Fraction(found[3])
        if 0 < share <= 1:
            # In rational numbers of the decimal that was written: 0.9 of 10 is the ninth.
            return lambda rising: float(rising[math.ceil(share * len(rising)) - 1])
    raise InputError(
        f"{argument} must be max, top-K with K from 1, or quantile-Q with Q above 0 and at most "
        f"1, got {text!r}"
    )


def aggregate(
    scores: NDArray[np.float64], owner: NDArray[np.int64], rule: Rule
) -> NDArray[np.float64]:
    """The score of each owner: ``(N)`` scores and owners 0 to ``G - 1``, each with one or more."""
    order = np.lexsort((scores, owner))
    ends = np.cumsum(np.bincount(owner))[:-1] if len(owner) else np.zeros(0, dtype=np.int64)
    parts = np.split(scores[order], ends) if len(owner) else []
    return np.array([rule(part) for part in parts], dtype=np.float64)
