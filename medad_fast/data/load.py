"""From what the user points at to a checked list of cases."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from medad_fast.data.dataset import Case, Dataset
from medad_fast.data.formats import (
    FileGroup,
    all_suffixes,
    group_files,
    is_image_file,
    is_index,
    stem,
)
from medad_fast.data.layouts import (
    Entry,
    check_loose_normals,
    has_folder_layout,
    image_files,
    masks_by_stem,
    read_data_json,
    read_folder_layout,
    read_manifest,
    without_repeats,
)
from medad_fast.errors import InputError

__all__ = ["load_dataset", "manifest_of"]

_SUBJECT = re.compile(r"(?:^|[/_])(sub-[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*)(?=[/_.]|$)")
"""The subject part of a BIDS path, also with hyphens in the label."""


def load_dataset(
    data: Path | str, *, loose_files_are: Literal["unlabeled", "normal"] = "unlabeled"
) -> Dataset:
    """Find the images of a data set, and what is known of them. No pixels are read.

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
    masks = masks_by_stem(root) if has_folder_layout(root) else {}
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


def manifest_of(data: Path | str) -> str | None:
    """The name of the table in the data set's root that lists its images, where there is one."""
    path = Path(data)
    if path.is_dir():
        path = path / "manifest.csv"
    return path.name if path.suffix == ".csv" and path.is_file() else None


def _entries(data: Path | str, loose: Literal["unlabeled", "normal"]) -> tuple[Path, list[Entry]]:
    path = Path(data)
    if is_index(path) and path.is_file():
        # The paths that it lists are not followed: the files beside it tell what they are.
        path = path.parent
    if path.is_dir():
        if (path / "manifest.csv").is_file():
            return path, list(read_manifest(path / "manifest.csv"))
        if (path / "data.json").is_file():
            return path, list(read_data_json(path / "data.json"))
        if has_folder_layout(path):
            return path, list(read_folder_layout(path))
        files = image_files(path)
        if (path / "normal").is_dir() or (path / "abnormal").is_dir():
            # The folder test of a layout, given by itself: its masks are no images.
            files = [file for file in files if path / "masks" not in file.parents]
        if loose == "normal":
            check_loose_normals(path, files)
        return path, [_loose(files, loose)]
    if path.is_file():
        if path.suffix == ".csv":
            return path.parent, list(read_manifest(path))
        if path.suffix == ".json":
            return path.parent, list(read_data_json(path))
        return path.parent, [_loose([path], loose)]
    if glob.has_magic(str(data)):
        matches = glob.glob(str(data), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute
        found = sorted(Path(each) for each in matches)
        files = without_repeats([each for each in found if is_image_file(each)])
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


def _loose(files: list[Path], loose: Literal["unlabeled", "normal"]) -> Entry:
    return Entry(tuple(files), loose, "test" if loose == "unlabeled" else "train")


def _cases(root: Path, entry: Entry, masks: dict[str, Path]) -> Iterator[Case]:
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


def _mask_of(name: str, group: FileGroup, entry: Entry, masks: dict[str, Path]) -> Path | None:
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
        status = path.stat()
        other = seen.setdefault((status.st_dev, status.st_ino), path)
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
