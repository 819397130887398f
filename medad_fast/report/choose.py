"""Which images a page shows: by a rule that is printed beside them, never by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from medad_fast.artifacts.scores import ScoreRow

T = TypeVar("T")

WORST = 12
"""Files in each half of the reading list."""
LABELS = ("abnormal", "normal", "unlabeled")


@dataclass(frozen=True)
class Entry:
    """A file to show, opened at one of its slices."""

    rows: tuple[ScoreRow, ...]
    """Its scored slices in their order."""
    first: ScoreRow
    """The slice that is shown first."""
    alike: int = 1
    """In the reading list: how many of its slices are errors of the same kind."""


@dataclass(frozen=True)
class Selection:
    """What a page would show if it had room for everything."""

    parts: dict[str, list[Entry]]
    """The reading list: files with normal slices above the threshold, highest score first, and
    with abnormal slices not above it, lowest score first. Then by label the other files, the most
    important first: any beginning of it is spread evenly over the scores."""
    errors: dict[str, int]
    """How many files with errors there are for each part of the reading list."""


def select(rows: Sequence[ScoreRow]) -> Selection:
    """Sort the scored files into a reading list of errors, and the others by label."""
    files: dict[str, list[ScoreRow]] = {}
    for row in rows:
        files.setdefault(row.path, []).append(row)
    alarms = [row for row in rows if row.label == "normal" and row.prediction == "abnormal"]
    missed = [row for row in rows if row.label == "abnormal" and row.prediction == "normal"]
    errors = {
        "false_positives": _by_file(sorted(alarms, key=_score, reverse=True), files),
        "false_negatives": _by_file(sorted(missed, key=_score), files),
    }
    reading = {part: entries[:WORST] for part, entries in errors.items()}
    read = {entry.first.path for entries in reading.values() for entry in entries}
    others: dict[str, list[Entry]] = {label: [] for label in LABELS}
    for path, found in files.items():
        if path not in read:
            others[_label(found)].append(Entry(tuple(found), _shown_first(found)))
    for label, entries in others.items():
        ordered = sorted(entries, key=lambda entry: _score(entry.first), reverse=True)
        others[label] = in_halves(ordered)
    return Selection(
        {**reading, **others}, {part: len(entries) for part, entries in errors.items()}
    )


def in_halves(entries: Sequence[T]) -> list[T]:
    """The first, the last, the middle, the quarters ...: any beginning is spread over the whole."""
    places, seen = list[int](), set[int]()
    count = len(entries)
    steps = 1
    while len(places) < count:
        for part in range(steps + 1):
            place = round(part * (count - 1) / steps)
            if place not in seen:
                seen.add(place)
                places.append(place)
        steps *= 2
    return [entries[place] for place in places]


def _by_file(ordered: Iterable[ScoreRow], files: dict[str, list[ScoreRow]]) -> list[Entry]:
    errors: dict[str, list[ScoreRow]] = {}
    for row in ordered:
        errors.setdefault(row.path, []).append(row)
    return [Entry(tuple(files[path]), found[0], len(found)) for path, found in errors.items()]


def _label(rows: Sequence[ScoreRow]) -> str:
    """A file is abnormal where one of its slices is."""
    labels = {row.label for row in rows}
    return next(label for label in LABELS if label in labels)


def _shown_first(rows: Sequence[ScoreRow]) -> ScoreRow:
    """The highest score, of the abnormal slices where there are any."""
    ill = [row for row in rows if row.label == "abnormal"]
    return max(ill or rows, key=_score)


def _score(row: ScoreRow) -> tuple[float, str, int]:
    return row.anomaly_score, row.path, row.slice
