"""From what the user points at to a dataset: its files, and three ways to say what they are."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar, get_args

from medad_fast.data.dataset import Case, Dataset, Label, Split
from medad_fast.data.formats import (
    FileGroup,
    all_suffixes,
    group_files,
    is_image_file,
    is_index,
    stem,
)
from medad_fast.data.limits import MAX_HEADER_BYTES, regular_file_size
from medad_fast.errors import InputError

T = TypeVar("T", bound=str)

_LABELS: dict[Split, tuple[Label, ...]] = {
    "train": ("normal", "unlabeled"),
    "validation": ("normal",),
    "test": ("normal", "abnormal"),
}
"""Which labels each split can use, named alike on disk and in a case."""
_INNER = ("normal", "abnormal", "unlabeled", "masks")
_OWN_COLUMNS = ("path", "label", "split", "patient", "mask")
_SUBJECT = re.compile(r"(?:^|[/_])(sub-[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*)(?=[/_.]|$)")
"""The subject part of a BIDS path, also with hyphens in the label."""


@dataclass(frozen=True)
class _Entry:
    """Files with what the layout says of them."""

    files: tuple[Path, ...]
    label: Label
    split: Split
    patient: str = ""
    mask: Path | None = None
    groups: dict[str, str] = field(default_factory=dict)


def load_dataset(
    data: Path | str, *, loose_files_are: Literal["unlabeled", "normal"] = "unlabeled"
) -> Dataset:
    """Find the images of a dataset, and what is known of them. No pixels are read.

    Args:
        data: a folder with a ``manifest.csv``, with a ``data.json``, with the folders ``train``,
            ``validation`` and ``test``, or with just images (looked for in this order); one of
            these two files; a ``DICOMDIR``, which stands for its folder; one image; or a glob
            pattern.
        loose_files_are: what images without any layout are: ``"unlabeled"`` ones to score (split
            test), or ``"normal"`` ones to learn from (split train).

    Raises:
        InputError: there are no images, a layout contradicts itself, a file stands in two places,
            or a patient is in two splits.
    """
    root, entries = _entries(data, loose_files_are)
    masks = _masks_by_stem(root) if _has_folder_layout(root) else {}
    cases = tuple(case for entry in entries for case in _cases(root, entry, masks))
    if masks:
        unused = sorted(set(masks.values()) - {case.mask for case in cases if case.mask})
        if unused:
            raise InputError(f"{unused[0]}: is a mask without an image in test/abnormal")
    if not cases:
        raise InputError(f"{data}: holds no image ({', '.join(all_suffixes())})")
    _check_files_once(cases)
    _check_patients_once(cases)
    return Dataset(root, cases)


def _entries(data: Path | str, loose: Literal["unlabeled", "normal"]) -> tuple[Path, list[_Entry]]:
    path = Path(data)
    if is_index(path) and path.is_file():
        # The paths that it lists are not followed: the files beside it tell what they are.
        path = path.parent
    if path.is_dir():
        if (path / "manifest.csv").is_file():
            return path, list(_read_manifest(path / "manifest.csv"))
        if (path / "data.json").is_file():
            return path, list(_read_data_json(path / "data.json"))
        if _has_folder_layout(path):
            return path, list(_read_folder_layout(path))
        files = _image_files(path)
        if (path / "normal").is_dir() or (path / "abnormal").is_dir():
            # The folder test of a layout, given by itself: its masks are no images.
            files = [file for file in files if path / "masks" not in file.parents]
        if loose == "normal":
            _check_loose_normals(path, files)
        return path, [_loose(files, loose)]
    if path.is_file():
        if path.suffix == ".csv":
            return path.parent, list(_read_manifest(path))
        if path.suffix == ".json":
            return path.parent, list(_read_data_json(path))
        return path.parent, [_loose([path], loose)]
    if glob.has_magic(str(data)):
        matches = glob.glob(str(data), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute
        found = (each for each in sorted(map(Path, matches)) if is_image_file(each))
        files = _without_repeats(found)
        return _fixed_part(path), [_loose(files, loose)]
    if path.exists():
        raise InputError(f"{data}: is neither a folder nor a regular file")
    raise InputError(f"{data}: does not exist")


def _fixed_part(pattern: Path) -> Path:
    """The folder above the first part of a pattern that has a wildcard."""
    fixed = Path(pattern.anchor)
    for part in pattern.relative_to(pattern.anchor).parts:
        if glob.has_magic(part):
            break
        fixed = fixed / part
    return fixed


def _loose(files: list[Path], loose: Literal["unlabeled", "normal"]) -> _Entry:
    return _Entry(tuple(files), loose, "test" if loose == "unlabeled" else "train")


def _cases(root: Path, entry: _Entry, masks: dict[str, Path]) -> Iterator[Case]:
    for group in group_files(entry.files):
        name = _relative(root, group.files[0])
        yield Case(
            files=group.files,
            name=name,
            label=entry.label,
            split=entry.split,
            patient=entry.patient or _patient_of(name, group, root),
            mask=entry.mask or _mask_of(name, group, entry, masks),
            groups=entry.groups,
        )


def _patient_of(name: str, group: FileGroup, root: Path) -> str:
    """What the files say, else the ``sub-X`` part of the name, else the series."""
    subject = _SUBJECT.search(name)
    return group.patient_id or (subject.group(1) if subject else _relative(root, group.series))


def _relative(root: Path, path: Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix().lstrip("/")


def _mask_of(name: str, group: FileGroup, entry: _Entry, masks: dict[str, Path]) -> Path | None:
    if entry.label != "abnormal" or not masks:
        return None
    below = name.removeprefix("test/abnormal/")
    keys = [stem(below)]
    if len(group.files) > 1 and "/" in below:
        keys.append(below.rpartition("/")[0])  # a series' mask is named as its folder
    return next((masks[key] for key in keys if key in masks), None)


def _check_files_once(cases: Iterable[Case]) -> None:
    seen: dict[tuple[int, int], Path] = {}
    for path in (path for case in cases for path in case.files):
        other = seen.setdefault(_identity(path), path)
        if other is not path:
            raise InputError(f"{path}: is the same file as {other}; each may be listed once")


def _check_patients_once(cases: Iterable[Case]) -> None:
    """Patients are told by their files: an identifier is never printed."""
    first: dict[str, Case] = {}
    for case in cases:
        other = first.setdefault(case.patient, case)
        if other.split != case.split:
            raise InputError(
                f"{case.name}: is of the same patient as {other.name}, but one is in the split "
                f"{case.split} and the other in {other.split}"
            )


def _image_files(folder: Path) -> list[Path]:
    """All images below ``folder``, sorted by path, each file once.

    Links to folders are not followed, links to files are; pipes, devices, hidden files and folders
    of finished predictions (their maps are no images of patients) are passed over. A file that is
    found under two names is listed under the first.

    Raises:
        InputError: a folder cannot be listed.
    """
    return _without_repeats(sorted(_walk(folder)))


def _without_repeats(paths: Iterable[Path]) -> list[Path]:
    """The paths in order, without those that lead to a file already listed."""
    first: dict[tuple[int, int], Path] = {}
    for path in paths:
        first.setdefault(_identity(path), path)
    return list(first.values())


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    for here, folders, names in os.walk(folder, onerror=refuse, followlinks=False):
        folders[:] = [name for name in folders if not _is_passed_over(Path(here, name))]
        yield from (Path(here, name) for name in names if is_image_file(Path(here, name)))


def _is_passed_over(folder: Path) -> bool:
    hidden = folder.name.startswith(".") or folder.name == "__MACOSX"
    return hidden or (folder / "predict.json").is_file()


def _has_folder_layout(root: Path) -> bool:
    """Whether a folder holds any of ``train``, ``validation`` and ``test``."""
    return any((root / split).is_dir() for split in _LABELS)


def _check_loose_normals(root: Path, files: Sequence[Path]) -> None:
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


def _read_folder_layout(root: Path) -> Iterator[_Entry]:
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
                yield _Entry(tuple(_image_files(root / split / label)), label, split)


def _masks_by_stem(root: Path) -> dict[str, Path]:
    """The lesion masks of ``test/masks``, by path below it without suffix.

    Raises:
        InputError: two masks for one image.
    """
    folder = root / "test" / "masks"
    masks: dict[str, Path] = {}
    for path in _image_files(folder) if folder.is_dir() else []:
        key = stem(path.relative_to(folder).as_posix())
        if key in masks:
            raise InputError(f"{path}: is a second mask beside {masks[key].name}")
        masks[key] = path
    return masks


def _read_manifest(path: Path) -> Iterator[_Entry]:
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


def _manifest_entry(path: Path, line: int, row: dict[str, str]) -> _Entry:
    where = f"{path}: line {line}"
    labels: tuple[Label, ...] = get_args(Label)
    label = _one_of(labels, row["label"], "label", where)
    split = _one_of(_LABELS, row["split"], "split", where)
    if label not in _LABELS[split] and (split, label) != ("test", "unlabeled"):
        raise InputError(f"{where}: {label} images have no use in the split {split}")
    source = _inside(path.parent, row["path"], where)
    files = tuple(_image_files(source)) if source.is_dir() else (source,)
    if not files or not source.exists():
        raise InputError(f"{where}: {source} does not exist or holds no image")
    mask = _inside(path.parent, row["mask"], where) if row.get("mask") else None
    if mask is not None and not mask.is_file():
        raise InputError(f"{where}: the mask {mask} does not exist")
    groups = {key: text for key, text in row.items() if key not in _OWN_COLUMNS}
    return _Entry(files, label, split, row.get("patient", ""), mask, groups)


def _one_of(known: Iterable[T], text: str, what: str, where: str) -> T:
    for each in known:
        if text == each:
            return each
    raise InputError(f"{where}: its {what} is none of {', '.join(known)}")


def _read_data_json(path: Path) -> Iterator[_Entry]:
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
            yield _Entry((file,), label, split, groups=pools.get(where, {}))


def _mapping(path: Path, value: object, where: str, keys: set[str]) -> dict[str, object]:
    if not isinstance(value, dict) or not value.keys() <= keys:
        raise InputError(
            f"{path}: {where or 'the whole'} must be an object with no keys but "
            f"{', '.join(sorted(keys))}"
        )
    return value


def _inside(folder: Path, name: str, where: str) -> Path:
    """A file named by a table; it must not lead out of the dataset's folder."""
    path = PurePosixPath(name)
    whole = folder / path
    leads_out = ".." in path.parts or not whole.is_relative_to(folder)
    if not name or "\0" in name or leads_out:
        raise InputError(f"{where}: {name!r} is not a path inside {folder}")
    return whole


def _text(path: Path) -> str:
    if regular_file_size(path) > MAX_HEADER_BYTES:
        raise InputError(f"{path}: is larger than {MAX_HEADER_BYTES} bytes")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text: {error}") from error
