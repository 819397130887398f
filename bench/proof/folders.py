"""The quantities of a run and of predictions, and where they lie.

The tables below are the only place that knows names of files. A release that moves a quantity adds
a line; what was called before stays, so that older releases can be compared with.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import yaml
from PIL import Image

from bench.proof.page import figures
from bench.proof.values import Quantities, Value, array, numbers, numbers_in, raw

Groups = dict[str, Quantities]
"""Quantities by name in groups; a group that a folder does not have is missing."""

TENSORS = {  # group: files with the prefix that its names have there, the first that has any
    "weights": (("model.safetensors", ""),),
    "baseline statistics": (
        ("baselines.safetensors", ""),
        ("model.safetensors", "baselines."),
    ),
}
OTHERS_IN_MODEL = ("baselines.",)
"""Prefixes in ``model.safetensors`` of what is no weight."""
TREES = {  # group: files with the entry that it is there, "" the whole; the first that exists
    "thresholds": (("thresholds.json", ""), ("*.json", "thresholds"), ("*.yaml", "thresholds")),
    "training outliers": (
        ("training_outliers.json", "most_anomalous"),
        ("*.json", "training_outliers.most_anomalous"),
        ("*.json", "training_outliers"),
    ),
    "settings": (("config.yaml", "config"), ("*.json", "config")),
    "preprocessing": (("config.yaml", "preprocess"), ("*.json", "preprocess")),
    "counts of the fit": (("config.yaml", "data"), ("*.json", "data")),
    "losses": (("log.jsonl", ""),),
}
RESULT_TREES = {
    "counts of the predictions": (("predict.json", "counts"),),
    "thresholds of the predictions": (("predict.json", "thresholds"),),
    "metrics": (("metrics.json", ""),),
}
TABLES = {  # group: columns, and the files that may have them
    "scores": (
        ("slice", "label", "anomaly_score", "threshold", "prediction", "p_value"),
        ("scores.csv",),
    ),
    "trivial baselines": (
        ("mean", "std", "gradient", "mean_abs_z", "pca16", "file_size"),
        ("baselines.csv", "scores.csv"),
    ),
    "sources": (
        (
            "bits_stored",
            "rescaled",
            "inverted",
            "window_low",
            "window_high",
            "rotated",
            "spacing_mm",
        ),
        ("sources.csv",),
    ),
    "volumes": (
        ("label", "images", "anomaly_score", "threshold", "prediction", "p_value"),
        ("volumes.csv",),
    ),
    "patients": (
        ("label", "images", "anomaly_score", "threshold", "prediction", "p_value"),
        ("patients.csv",),
    ),
}
BESIDE_SCORES = {"baselines.csv"}
"""Tables with a row for each one of ``scores.csv`` and no path of their own."""
WORDS = {"normal": 0.0, "abnormal": 1.0, "unlabeled": 2.0, "no": 0.0, "yes": 1.0}
"""Cells that stand for a number."""
FILES = {"maps": "maps", "overlays": "overlays", "DICOM results": "dicom"}
"""Folders of files with pixels."""
REPORT = "report.html"
NUMERIC = {"DS", "IS", "FL", "FD", "SS", "US", "SL", "UL", "SV", "UV"}
"""Kinds of DICOM elements that hold numbers; the others hold identifiers, dates and words."""


def run_groups(folder: Path) -> Groups:
    """What ``medad fit`` wrote."""
    found = {group: _tensors(folder, group) for group in TENSORS}
    found |= {group: _tree(folder, places) for group, places in TREES.items()}
    return _present(found)


def result_groups(folder: Path) -> Groups:
    """What ``medad predict`` and ``medad evaluate`` wrote."""
    found = {group: _tree(folder, places) for group, places in RESULT_TREES.items()}
    found |= {group: _table(folder, *wanted) for group, wanted in TABLES.items()}
    found |= {group: _pixels(folder / name) for group, name in FILES.items()}
    if (folder / REPORT).is_file():
        found["report"] = figures((folder / REPORT).read_text(encoding="utf-8"))
    return _present(found)


def comparison_groups(file: Path) -> Groups:
    """What ``medad compare --out`` wrote."""
    return {"comparison": numbers_in(json.loads(file.read_text()))} if file.is_file() else {}


def dataset_groups(folder: Path) -> Groups:
    """The bytes of the files that everything else was made from."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "data set": {
            path.relative_to(folder).as_posix(): raw(
                "bytes", [path.stat().st_size], path.read_bytes()
            )
            for path in files
        }
    }


def _present(groups: Groups) -> Groups:
    return {name: found for name, found in groups.items() if found}


def _tensors(folder: Path, group: str) -> Quantities:
    for name, prefix in TENSORS[group]:
        if (folder / name).is_file():
            found = {
                key.removeprefix(prefix): value
                for key, value in _safetensors(folder / name)
                if key.startswith(prefix) and (prefix or not key.startswith(OTHERS_IN_MODEL))
            }
            if found:
                return found
    return {}


def _safetensors(path: Path) -> Iterator[tuple[str, Value]]:
    """Each tensor by its bytes, whatever its type: a length, a JSON header, then the data."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    known = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "<u1", "BOOL": "?"}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            part = data[start + first : start + last]
            kind = known.get(entry["dtype"])
            shown = None if kind is None else np.frombuffer(part, kind)
            yield name, raw(entry["dtype"], entry["shape"], part, shown)


def _tree(folder: Path, places: Sequence[tuple[str, str]]) -> Quantities:
    for pattern, entry in places:
        for path in sorted(folder.glob(pattern)):
            tree = _loaded(path)
            for name in entry.split(".") if entry else ():
                tree = tree.get(name) if isinstance(tree, dict) else None
            if tree is not None:
                return numbers_in(tree)
    return {}


def _loaded(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        return yaml.safe_load(text)
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text)


def _table(folder: Path, columns: Sequence[str], files: Sequence[str]) -> Quantities:
    """Columns in an order of the rows that does not depend on how the table is sorted."""
    rows: list[dict[str, str]] = []
    for name in files:
        rows = _rows(folder / name)
        if rows and not set(columns).isdisjoint(rows[0]):
            break
    else:
        return {}
    keys = _rows(folder / "scores.csv") if name in BESIDE_SCORES else rows
    order: list[Any]
    if "path" in keys[0]:
        order = [(key["path"], float(key.get("slice", 0))) for key in keys]
    else:  # patients are named anew in each table
        order = [str([_cell(row.get(column, "")) for column in columns]) for row in rows]
    places = sorted(range(len(rows)), key=order.__getitem__)
    return {
        column: numbers(number for place in places for number in _cell(rows[place][column]))
        for column in columns
        if column in rows[0]
    }


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _cell(text: str) -> list[float | None]:
    if not text:
        return [None]
    return [WORDS[word] if word in WORDS else float(word) for word in text.split()]


def _pixels(folder: Path) -> Quantities:
    found: Quantities = {}
    for path in sorted(folder.rglob("*")):
        for suffix, read in READERS.items():
            if path.is_file() and path.name.endswith(suffix):
                name = path.relative_to(folder).as_posix()
                found |= {f"{name} {part}": value for part, value in read(path).items()}
    return found


def _npy(path: Path) -> Quantities:
    return {"pixels": array(np.load(path, allow_pickle=False))}


def _nifti(path: Path) -> Quantities:
    image: Any = nibabel.load(path)
    return {
        "pixels": array(np.asanyarray(image.dataobj)),
        "affine": numbers(image.affine.ravel().tolist()),
    }


def _picture(path: Path) -> Quantities:
    with Image.open(path) as picture:
        return {"pixels": array(np.asarray(picture))}


def _dicom(path: Path) -> Quantities:
    dataset = pydicom.dcmread(path)
    return {"pixels": array(dataset.pixel_array), **dict(_elements(dataset, ""))}


def _elements(dataset: pydicom.Dataset, path: str) -> Iterator[tuple[str, Value]]:
    for element in dataset:
        name = f"{path}{element.keyword or element.tag}"
        if element.VR == "SQ":
            for place, item in enumerate(element.value):
                yield from _elements(item, f"{name}.{place}.")
        elif element.VR in NUMERIC and element.value is not None:
            values = element.value if element.VM > 1 else [element.value]
            yield name, numbers(values)


READERS: dict[str, Callable[[Path], Quantities]] = {
    ".npy": _npy,
    ".nii.gz": _nifti,
    ".png": _picture,
    ".dcm": _dicom,
}
