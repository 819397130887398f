"""The images of a folder, and the three ways in which it says what they are."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import cast, get_args

from medad_fast.data.dataset import Label, Split
from medad_fast.data.formats import is_image_file, stem
from medad_fast.data.limits import MAX_HEADER_BYTES, regular_file_size
from medad_fast.errors import InputError

__all__ = [
    "Entry",
    "check_loose_normals",
    "has_folder_layout",
    "image_files",
    "masks_by_stem",
    "read_data_json",
    "read_folder_layout",
    "read_manifest",
    "without_repeats",
]

_LABELS: dict[Split, tuple[Label, ...]] = {
    "train": ("normal", "unlabeled"),
    "validation": ("normal",),
    "test": ("normal", "abnormal"),
}
"""Which labels each split can use, named alike on disk and in a case."""
_INNER = ("normal", "abnormal", "unlabeled", "masks")
_OWN_COLUMNS = ("path", "label", "split", "patient", "mask")


@dataclass(frozen=True)
class Entry:
    """Files with what the layout says of them."""

    files: tuple[Path, ...]
    label: Label
    split: Split
    patient: str = ""
    mask: Path | None = None
    groups: dict[str, str] = field(default_factory=dict)


def image_files(folder: Path) -> list[Path]:
    """All images below ``folder``, sorted by path, each file once.

    Links to folders are not followed, links to files are; pipes, devices, hidden files and folders
    of finished predictions (their maps are no images of patients) are passed over. A file that is
    found under two names is listed under the first.

    Raises:
        InputError: a folder cannot be listed.
    """
    return without_repeats(sorted(_walk(folder)))


def without_repeats(paths: list[Path]) -> list[Path]:
    """The paths in order, without those that lead to a file already listed."""
    seen: set[tuple[int, int]] = set()
    kept = []
    for path in paths:
        status = path.stat()
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            kept.append(path)
    return kept


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    for here, folders, names in os.walk(folder, onerror=refuse, followlinks=False):
        folders[:] = [
            name
            for name in folders
            if not _is_hidden(name) and not Path(here, name, "predict.json").is_file()
        ]
        yield from (Path(here, name) for name in names if is_image_file(Path(here, name)))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def has_folder_layout(root: Path) -> bool:
    """Whether a folder holds any of ``train``, ``validation`` and ``test``."""
    return any((root / split).is_dir() for split in _LABELS)


def check_loose_normals(root: Path, files: Sequence[Path]) -> None:
    """Refuse to take images as normal that lie in a folder whose name says otherwise.

    Raises:
        InputError: one lies in a folder ``abnormal``, ``masks``, ``test`` or ``unlabeled``, however
            written.
    """
    for file in files:
        for part in file.relative_to(root).parent.parts:
            if part.casefold() in ("abnormal", "masks", "test", "unlabeled"):
                raise InputError(
                    f"{file}: lies in a folder {part}, but without the folders "
                    f"{', '.join(_LABELS)} in {root} all images count as normal ones"
                )


def read_folder_layout(root: Path) -> Iterator[Entry]:
    """Folders ``train/{normal,unlabeled}``, ``validation/normal``, ``test/{normal,abnormal}``.

    Raises:
        InputError: a folder of another name beside them, or a mask without an image.
    """
    for each in sorted(root.iterdir()):
        if each.name not in _LABELS and any((each / name).is_dir() for name in _INNER):
            raise InputError(
                f"{each}: is not a folder of this layout, which has {', '.join(_LABELS)}"
            )
    for split, labels in _LABELS.items():
        allowed = (*labels, "masks") if split == "test" else labels
        if not (root / split).is_dir():
            continue
        for each in sorted((root / split).iterdir()):
            if each.is_dir() and not each.name.startswith(".") and each.name not in allowed:
                known = ", ".join(f"{split}/{name}" for name in allowed)
                raise InputError(f"{each}: is not a folder of this layout, which has {known}")
            if is_image_file(each):
                raise InputError(f"{each}: lies outside of {', '.join(allowed)}")
        for label in labels:
            if (root / split / label).is_dir():
                yield Entry(tuple(image_files(root / split / label)), label, split)


def masks_by_stem(root: Path) -> dict[str, Path]:
    """The lesion masks of ``test/masks``, by path below it without suffix.

    Raises:
        InputError: two masks for one image.
    """
    folder = root / "test" / "masks"
    masks: dict[str, Path] = {}
    for path in image_files(folder) if folder.is_dir() else []:
        key = stem(path.relative_to(folder).as_posix())
        if key in masks:
            raise InputError(f"{path}: is a second mask beside {masks[key].name}")
        masks[key] = path
    return masks


def read_manifest(path: Path) -> Iterator[Entry]:
    """A CSV table with the columns ``path,label,split`` and, where wanted, ``patient,mask``.

    Further columns become the groups of a case. Paths are relative to the manifest's folder.

    Raises:
        InputError: a column is missing, or a row names an unknown label, split or file.
    """
    text = _text(path)
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = [column.strip() for column in rows.fieldnames or ()]
        missing = [column for column in _OWN_COLUMNS[:3] if column not in columns]
        if missing or len(set(columns)) < len(columns):
            # Not quoted: without a line of names, the first row would be, and it names patients.
            fault = f"{', '.join(missing)} missing" if missing else "one stands twice"
            raise InputError(
                f"{path}: wants the columns path,label,split and may have patient,mask and others, "
                f"each once; {fault}"
            )
        rows.fieldnames = columns
        for line, row in enumerate(rows, start=2):
            if None in row or None in row.values():
                raise InputError(f"{path}: line {line} does not have {len(columns)} fields")
            yield _manifest_entry(path, line, {key: text.strip() for key, text in row.items()})
    except csv.Error as error:
        raise InputError(f"{path}: is not a CSV table: {error}") from error


def _manifest_entry(path: Path, line: int, row: dict[str, str]) -> Entry:
    where = f"{path}: line {line}"
    label, split = _label(row["label"], where), _split(row["split"], where)
    if label not in _LABELS[split] and (split, label) != ("test", "unlabeled"):
        raise InputError(f"{where}: {label} images have no use in the split {split}")
    source = _inside(path.parent, row["path"], where)
    files = tuple(image_files(source)) if source.is_dir() else (source,)
    if not files or not source.exists():
        raise InputError(f"{where}: {source} does not exist or holds no image")
    mask = _inside(path.parent, row["mask"], where) if row.get("mask") else None
    if mask is not None and not mask.is_file():
        raise InputError(f"{where}: the mask {mask} does not exist")
    groups = {key: text for key, text in row.items() if key not in _OWN_COLUMNS}
    return Entry(files, label, split, row.get("patient", ""), mask, groups)


def _label(text: str, where: str) -> Label:
    for label in get_args(Label):
        if text == label:
            return cast("Label", label)
    raise InputError(f"{where}: its label is none of {', '.join(get_args(Label))}")


def _split(text: str, where: str) -> Split:
    for split in _LABELS:
        if text == split:
            return split
    raise InputError(f"{where}: its split is none of {', '.join(_LABELS)}")


def read_data_json(path: Path) -> Iterator[Entry]:
    """The public layout of DDAD-ASR and MedIAnomaly: lists of file names in ``images/``.

    ``train.0`` and ``test.0`` are normal, ``test.1`` abnormal, ``train.unlabeled.0`` and ``.1``
    the two unlabeled pools, whose truth no method is told: it is the group ``pool`` of a case.

    Raises:
        InputError: another structure, or a file that does not exist.
    """
    try:
        table = json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON: {error}") from error
    train, test = (
        _mapping(path, _mapping(path, table, "", {"train", "test"}).get(split, {}), split, keys)
        for split, keys in (("train", {"0", "unlabeled"}), ("test", {"0", "1"}))
    )
    pool = _mapping(path, train.get("unlabeled", {}), "train.unlabeled", {"0", "1"})
    pools = {"train.unlabeled.0": {"pool": "normal"}, "train.unlabeled.1": {"pool": "abnormal"}}
    lists: tuple[tuple[str, object, Label, Split], ...] = (
        ("train.0", train.get("0", []), "normal", "train"),
        ("train.unlabeled.0", pool.get("0", []), "unlabeled", "train"),
        ("train.unlabeled.1", pool.get("1", []), "unlabeled", "train"),
        ("test.0", test.get("0", []), "normal", "test"),
        ("test.1", test.get("1", []), "abnormal", "test"),
    )
    for where, names, label, split in lists:
        if not isinstance(names, list):
            raise InputError(f"{path}: {where} must be a list of file names")
        for name in names:
            if not isinstance(name, str):
                raise InputError(f"{path}: {where} must be a list of file names")
            file = _inside(path.parent / "images", name, f"{path}: {where}")
            if not file.is_file():
                raise InputError(f"{path}: {where} names {file}, which does not exist")
            yield Entry((file,), label, split, groups=pools.get(where, {}))


def _mapping(path: Path, value: object, where: str, keys: set[str]) -> dict[str, object]:
    if not isinstance(value, dict) or not value.keys() <= keys:
        raise InputError(
            f"{path}: {where or 'the whole'} must be an object with no keys but "
            f"{', '.join(sorted(keys))}"
        )
    return value


def _inside(folder: Path, name: str, where: str) -> Path:
    """A file named by a table; it must not lead out of the data set's folder."""
    path = PurePosixPath(name)
    if not name or "\0" in name or ".." in path.parts:
        raise InputError(f"{where}: {name!r} is not a path inside {folder}")
    whole = folder / path
    if not whole.is_relative_to(folder):
        raise InputError(f"{where}: {name!r} is not a path inside {folder}")
    return whole


def _text(path: Path) -> str:
    if regular_file_size(path) > MAX_HEADER_BYTES:
        raise InputError(f"{path}: is larger than {MAX_HEADER_BYTES} bytes")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text: {error}") from error
