"""The same figures within each scanner, sex, age ...: whatever else the manifest tells.

A column becomes a table where it has a few values that several patients share. Ages always stand in
bins, other numbers with many values in quarters. Columns that could name a person do not leave the
dataset: their values are not looked at, whatever they hold. Predicting applies these rules and
stores the groups, so that evaluating needs no manifest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from medad_fast.artifacts.predictions import Groups
from medad_fast.artifacts.scores import ScoreRow
from medad_fast.errors import InputError
from medad_fast.evaluation.levels import Cut, Items
from medad_fast.evaluation.metrics import Resampler, decided_items, figure

SMALL = 10
"""A group with fewer normal images, abnormal images or patients than this is called small."""
MANY = 12
"""More different words than this make no table."""
FEW = 6
"""Up to this many different numbers stand as they are (field strengths); more stand in quarters."""
NOT_GIVEN = "not given"
_FIGURES = ("auroc", "average_precision", "fpr", "tpr")

_AGES = ((0, 18), (18, 40), (40, 60), (60, 80))
_PERSONAL = {
    *("id", "ids", "uid", "uuid", "mrn", "ssn", "accession"),
    *("name", "names", "surname", "initials", "physician", "doctor", "operator", "reader"),
    *("birth", "birthdate", "birthday", "born", "dob", "date", "datetime", "time", "timestamp"),
    *("phone", "telephone", "address", "street", "zip", "postcode", "email", "mail"),
    *("comment", "comments", "note", "notes", "text", "description", "url", "file", "filename"),
}
"""A column with one of these words in its name is never shown."""
_AGE = re.compile(r"0*(\d{1,3}(?:\.\d+)?)\s*(?:y|yr|yrs|years)?", re.IGNORECASE)


def groups_of(
    columns: Mapping[str, Mapping[str, str]], images: Mapping[str, int], patients: int
) -> Groups:
    """Sort scored files into groups. Only the groups leave the dataset, never the values.

    Args:
        columns: for each file what its manifest tells, by column.
        images: for each file how many labelled images of it were scored.
        patients: of how many patients.
    """
    groups = Groups()
    for name in dict.fromkeys(name for path in images for name in columns.get(path, {})):
        values = {path: columns.get(path, {}).get(name, "") for path in images}
        try:
            groups.columns[name] = _binned(name, values, images, patients)
        except InputError as error:
            groups.left_out[name] = str(error)
    return groups


def subgroups(
    rows: Sequence[ScoreRow], groups: Groups, cut: Cut, resampler: Resampler
) -> dict[str, Any]:
    """Figures of the images of each group, exactly as they are computed of all.

    Args:
        rows: the scored slices; unlabeled ones count nowhere.
        groups: of their files.
        cut: the stored threshold of images.
        resampler: of the whole evaluation: each group is resampled with the same seed.

    Returns:
        ``columns``: for each column its groups, each with ``group``, ``images``, ``normal``,
        ``abnormal``, ``patients``, ``small``, and ``auroc``, ``average_precision``, ``fpr`` and
        ``tpr`` (the latter two at the stored threshold). ``left_out``: why a column has no table.
    """
    columns: dict[str, list[dict[str, Any]]] = {}
    for name, bins in groups.columns.items():
        group_of = {path: group for group, paths in bins.items() for path in paths}
        members: dict[str | None, list[ScoreRow]] = {group: [] for group in bins}
        for row in rows:
            if row.label != "unlabeled":
                members.setdefault(group_of.get(row.path), []).append(row)
        columns[name] = [
            {"group": group, **_figures(members[group], cut, resampler)}
            for group in bins
            if members[group]
        ]
    return {"small": SMALL, "columns": columns, "left_out": groups.left_out}


def _figures(rows: list[ScoreRow], cut: Cut, resampler: Resampler) -> dict[str, Any]:
    items = Items.of_rows(rows)
    samples = {**resampler.scores(items), **decided_items(items, cut, resampler)}
    abnormal = int(items.abnormal.sum())
    counts = {
        "images": len(rows),
        "normal": len(rows) - abnormal,
        "abnormal": abnormal,
        "patients": items.clusters,
    }
    return {
        **counts,
        "small": min(counts["normal"], counts["abnormal"], counts["patients"]) < SMALL,
        **{name: figure(samples[name])[0] for name in _FIGURES},
    }


def _binned(
    name: str, values: Mapping[str, str], images: Mapping[str, int], patients: int
) -> dict[str, list[str]]:
    """Which files are in which group, the groups in a sensible order.

    Raises:
        InputError: the column makes no table; says why, and never what stands in it.
    """
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
    if words & _PERSONAL:
        raise InputError("its name sounds like something that tells persons apart")
    if len(set(values.values())) < 2:
        raise InputError("all images have the same value")
    given = {value for value in values.values() if value}
    is_age = bool(words & {"age", "ages"})
    numbers = _numbers(given, is_age=is_age)
    if numbers is None:
        if len(given) > MANY or 2 * len(given) > patients:
            raise InputError(f"{len(given)} different values in {patients} patients")
        order = {value: value for value in sorted(given)}
    else:
        rising = sorted(given, key=numbers.__getitem__)
        if is_age:
            order = {value: _age_bin(numbers[value]) for value in rising}
        elif len(given) <= FEW:
            order = {value: f"{numbers[value]:g}" for value in rising}
        else:
            of_images = [
                numbers[value]
                for path, value in values.items()
                if value
                for _ in range(images[path])
            ]
            order = _quarters(numbers, of_images)
    bins: dict[str, list[str]] = {group: [] for group in order.values()}
    for path, value in values.items():
        bins.setdefault(order[value] if value else NOT_GIVEN, []).append(path)
    return bins


def _numbers(values: set[str], *, is_age: bool) -> dict[str, float] | None:
    """The values as numbers, ages as ``57``, ``057Y`` or ``57 years``; ``None`` if one is not."""
    numbers = {}
    for value in values:
        age = _AGE.fullmatch(value) if is_age else None
        try:
            numbers[value] = float(age[1] if age else value)
        except ValueError:
            return None
    return numbers if all(np.isfinite(list(numbers.values()))) else None


def _age_bin(age: float) -> str:
    for low, high in _AGES:
        if low <= age < high:
            return f"under {high}" if low == 0 else f"{low} to {high - 1}"
    return "80 and over" if age >= 80 else "below 0"


def _quarters(numbers: Mapping[str, float], of_rows: Sequence[float]) -> dict[str, str]:
    edges = np.unique(np.quantile(of_rows, (0, 0.25, 0.5, 0.75, 1), method="inverted_cdf"))
    texts = [f"{edge:g}" for edge in edges.tolist()]
    if len(set(texts)) < 3:
        raise InputError("its numbers do not fall into quarters")
    names = [f"{texts[0]} to {texts[1]}", *(f"above {a} to {b}" for a, b in pairwise(texts[1:]))]
    places = np.clip(np.searchsorted(edges, list(numbers.values())) - 1, 0, len(names) - 1)
    found = dict(zip(numbers, places.tolist(), strict=True))
    return {value: names[found[value]] for value in sorted(numbers, key=numbers.__getitem__)}
