"""From a folder of predictions to ``metrics.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medad_fast.errors import InputError
from medad_fast.evaluate.figures import Figure, Items, Resampler, undefined
from medad_fast.evaluate.metrics import confusion_at, dice_at, fpr_at_tpr95, oracle_dice
from medad_fast.evaluate.pixels import SortedPixels
from medad_fast.evaluate.slices import MAP_PERCENTILE, SliceData, read_slices
from medad_fast.io.atomic import write_text
from medad_fast.scores import ScoreRow, read_columns, read_scores

__all__ = ["evaluate"]

_NEEDED = (
    ("data", "root"),
    ("preprocess", "axis"),
    ("counts", "skipped_slices"),
    ("counts", "failed_files"),
    *(("thresholds", "score", name) for name in ("threshold", "target_fpr", "expected_fpr")),
)
"""What must be in ``predict.json``."""


def evaluate(
    dir: str | Path, *, data: str | Path | None = None, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Judge the predictions in a folder and write ``metrics.json`` there. See docs/metrics.md.

    Args:
        dir: what :func:`medad_fast.predict` wrote.
        data: where the data set lies now, if it moved since; masks are read from there.
        resamples: bootstrap resamples for each interval, at least 1.
        seed: of the resamples.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        InputError: no finished prediction there, a missing map or mask, or a damaged table.
    """
    folder = Path(dir)
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, got {resamples}")
    about = _prediction(folder)
    rows = read_scores(folder / "scores.csv")
    if not rows:
        raise InputError(f"{folder / 'scores.csv'}: at least one scored slice expected, got none")
    columns = read_columns(folder / "baselines.csv", len(rows))
    root = _root(Path(data) if data is not None else Path(about["data"]["root"]))
    slices = read_slices(folder, root, rows, about["preprocess"]["axis"])
    labelled = [number for number, row in enumerate(rows) if row.label != "unlabeled"]
    resampler = Resampler(resamples, seed)
    images = Items.of_rows([rows[number] for number in labelled])
    metrics: dict[str, Any] = {
        "image": resampler.scores("image", images),
        "pixel": resampler.pixels(slices),
        "patient": resampler.scores("patient", images.by_patient()),
        "baselines": _baselines(columns, labelled, images, resampler),
        "published": about.get("published"),
        "counts": _counts(rows, slices.pixels, about),
        "threshold": _at_thresholds(about["thresholds"], images, slices),
        "maps": _maps(about["thresholds"], slices),
        "oracle": _oracle(images, slices.pixels),
        "bootstrap": {
            "resamples": resamples,
            "seed": seed,
            "level": 0.95,
            "interval": "percentile",
            "unit": {"image": images.unit, "pixel": slices.unit, "patient": "patient"},
            "dropped": resampler.dropped,
        },
    }
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    return metrics


def _prediction(folder: Path) -> dict[str, Any]:
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
    return dict(about)


def _root(data: Path) -> Path:
    return data.parent if data.is_file() else data


def _baselines(
    columns: dict[str, list[float]], labelled: list[int], images: Items, resampler: Resampler
) -> dict[str, dict[str, Figure]]:
    figures = {}
    for name, column in columns.items():
        scores = np.array(column, dtype=np.float64)[labelled]
        if np.isnan(scores).any():
            nothing = undefined("known only where each file holds one image")
            figures[name] = {"auroc": nothing, "average_precision": dict(nothing)}
        else:
            figures[name] = resampler.scores(f"baselines.{name}", images.with_scores(scores))
    return figures


def _counts(
    rows: Sequence[ScoreRow], pixels: SortedPixels, about: dict[str, Any]
) -> dict[str, Any]:
    labels = [row.label for row in rows]
    return {
        "images": len(rows),
        "normal": labels.count("normal"),
        "abnormal": labels.count("abnormal"),
        "unlabeled": labels.count("unlabeled"),
        "patients": len({row.patient for row in rows}),
        "skipped_slices": about["counts"]["skipped_slices"],
        "failed_files": about["counts"]["failed_files"],
        "pixels": pixels.pixels,
        "lesion_pixels": pixels.lesion_pixels,
        "lesion_share": pixels.lesion_pixels / pixels.pixels if pixels.pixels else None,
        "lesions": pixels.lesions,
    }


def _at_thresholds(thresholds: dict[str, Any], images: Items, slices: SliceData) -> dict[str, Any]:
    """What the thresholds from validation do on the test set."""
    score = thresholds["score"]
    result: dict[str, Any] = {
        "value": score["threshold"],
        "target_fpr": score["target_fpr"],
        "expected_fpr": score["expected_fpr"],
        **_rates(confusion_at(images.ranking(), score["threshold"])),
        "map_value": None,
        "dice": None,
        "reason": None,
    }
    if "map" not in thresholds:
        return {**result, "reason": "the run has no threshold for maps"}
    counts = slices.pixels.confusion_at(thresholds["map"]["threshold"])
    dice = dice_at(counts)
    rates = {f"map_{name}": rate for name, rate in _rates(counts).items()}
    return {
        **result,
        **rates,
        "map_value": thresholds["map"]["threshold"],
        "dice": dice.value,
        "reason": dice.reason and (slices.reason or dice.reason),
    }


def _rates(counts: dict[str, int]) -> dict[str, float | None]:
    def share(part: str, rest: str) -> float | None:
        total = counts[part] + counts[rest]
        return counts[part] / total if total else None

    return {
        "fpr": share("false_positive", "true_negative"),
        "tpr": share("true_positive", "false_negative"),
    }


def _maps(thresholds: dict[str, Any], slices: SliceData) -> dict[str, Any]:
    """How bright the maps are, and the common scale to show them on."""
    scale = thresholds.get("map", {})
    return {
        "percentile": MAP_PERCENTILE,
        "normal": slices.median_percentile("normal"),
        "abnormal": slices.median_percentile("abnormal"),
        "low": scale.get("low"),
        "high": scale.get("high"),
    }


def _oracle(images: Items, pixels: SortedPixels) -> dict[str, Any]:
    """Figures whose threshold was chosen on the test set itself."""
    dice, threshold = oracle_dice(pixels.ranking())
    metrics = {
        "image_fpr_at_tpr95": fpr_at_tpr95(images.ranking()),
        "pixel_dice": dice,
    }
    return {
        "label": "oracle: thresholds chosen on the test set, an upper limit",
        **{name: metric.value for name, metric in metrics.items()},
        "pixel_dice_threshold": threshold,
        "reasons": {name: metric.reason for name, metric in metrics.items() if metric.reason},
    }
