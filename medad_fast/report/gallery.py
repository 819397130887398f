"""The pictures of a page, within the bytes that it may take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from medad_fast.errors import InputError
from medad_fast.report.choose import LABELS, Entry, Selection, in_halves, select
from medad_fast.report.pictures import Picture, draw
from medad_fast.report.shown import ImageGone, Results, ShownSlice

LARGEST_PAGE = 13_000_000
"""Bytes that the pictures of a page may take together; its words take far less than a million."""
READ_CLOSELY = 4
"""How much more room a file of the reading list has than another."""
SLICES_AT_ONCE = 24
"""Slices of a volume that should fit at a good size; further ones come as far as there is room."""


@dataclass(frozen=True)
class Viewer:
    """One file as a page shows it: one slice at a time, one panel a method."""

    entry: Entry
    slices: list[tuple[Picture, ...]]
    """Each with one picture a method."""
    first: int
    """Place of the slice that is shown first."""
    of: int
    """How many slices the file has, scored or not."""

    @property
    def left_out(self) -> int:
        """How many scored slices are not shown."""
        return len(self.entry.rows) - len(self.slices)

    @property
    def is_volume(self) -> bool:
        return self.of > 1


@dataclass(frozen=True)
class Gallery:
    """All viewers of a page."""

    parts: dict[str, list[Viewer]]
    """As in the :class:`Selection`; the files of each label with falling score."""
    errors: dict[str, int]
    """How many files there are with false positives and with false negatives."""
    files: int
    """How many scored files there are."""
    left_out: int
    """Files that are not shown for want of room."""
    smaller: bool
    """Whether slices of volumes are left out."""
    gone: dict[str, str]
    """Files that cannot be shown, since the image is missing or cannot be read, with the reason."""

    @property
    def empty(self) -> bool:
        """Whether no image could be shown."""
        return not any(self.parts.values())


def draw_gallery(methods: Mapping[str, Results], pictures: int) -> Gallery:
    """Draw the reading list of the first method, then the other files while there is room.

    Args:
        methods: results on the same images, at least one, each with a scale for its maps.
        pictures: how many files to show at most.

    Raises:
        InputError: ``pictures`` is below 1, or a map or mask is missing or damaged.
    """
    if pictures < 1:
        raise InputError(f"pictures must be at least 1, got {pictures}")
    first = next(iter(methods.values()))
    rows = first.predictions.rows
    chosen = select(rows)
    places = _in_order(chosen, pictures)
    found: dict[str, list[Viewer]] = {part: [] for part in chosen.parts}
    gone: dict[str, str] = {}
    weights = [1 if part in LABELS else READ_CLOSELY for part, _ in places]
    shown, left, weight = set[str](), float(LARGEST_PAGE), sum(weights)
    for (part, entry), own in zip(places, weights, strict=True):
        room = left * own / weight
        weight -= own
        try:
            viewer = _view(methods, entry, room)
        except ImageGone as error:
            gone[entry.first.path] = str(error)
            continue
        size = sum(picture.size for panels in viewer.slices for picture in panels)
        if size > left:
            continue
        left -= size
        shown.add(entry.first.path)
        found[part].append(viewer)
    for label in LABELS:
        found[label].sort(key=_score, reverse=True)
    files = len({row.path for row in rows})
    return Gallery(
        parts=found,
        errors=chosen.errors,
        files=files,
        left_out=files - len(shown) - len(gone),
        smaller=any(viewer.left_out for viewers in found.values() for viewer in viewers),
        gone=gone,
    )


def _in_order(chosen: Selection, pictures: int) -> list[tuple[str, Entry]]:
    """Errors in turn, then the labels in turn, until there are enough files."""
    others = {label: chosen.parts[label] for label in LABELS}
    reading = {part: entries for part, entries in chosen.parts.items() if part not in others}
    return [*_in_turn(reading), *_in_turn(others)][:pictures]


def _in_turn(parts: Mapping[str, Sequence[Entry]]) -> Iterator[tuple[str, Entry]]:
    for place in range(max(map(len, parts.values()), default=0)):
        for part, entries in parts.items():
            if place < len(entries):
                yield part, entries[place]


def _view(methods: Mapping[str, Results], entry: Entry, room: float) -> Viewer:
    """One file, its first slice before all and the others while there is room."""
    panels = [
        {shown.row.slice: shown for shown in results.shown(entry.first.path)}
        for results in methods.values()
    ]
    share = room / len(panels) / min(len(entry.rows), SLICES_AT_ONCE)
    drawn: dict[int, tuple[Picture, ...]] = {}
    left = room
    for place in _slices_in_order(entry):
        pictures = tuple(_draw_all(methods, [panel[place] for panel in panels], share))
        size = sum(picture.size for picture in pictures)
        if drawn and size > left:
            break
        drawn[place] = pictures
        left -= size
    order = sorted(drawn)
    return Viewer(
        entry=entry,
        slices=[drawn[place] for place in order],
        first=order.index(entry.first.slice),
        of=panels[0][entry.first.slice].slices,
    )


def _slices_in_order(entry: Entry) -> list[int]:
    spread = in_halves([row.slice for row in entry.rows])
    return list(dict.fromkeys([entry.first.slice, *spread]))


def _draw_all(
    methods: Mapping[str, Results], shown: Sequence[ShownSlice], share: float
) -> Iterator[Picture]:
    for results, one in zip(methods.values(), shown, strict=True):
        if results.scale is None:
            raise InputError(f"{results.predictions.folder}: its run has no scale for its maps")
        yield draw(one, results.scale, share)


def _score(viewer: Viewer) -> tuple[float, str]:
    return viewer.entry.first.anomaly_score, viewer.entry.first.path
