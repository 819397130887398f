"""Two runs on the same images: is the difference of a metric more than chance?

Both are evaluated in the same resamples of the patients, so that what makes an image hard for both
cancels out: two intervals that overlap widely may still belong to a clear difference, and only the
interval of the difference tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medad_fast.artifacts.predictions import Predictions
from medad_fast.artifacts.scores import ScoreRow
from medad_fast.errors import InputError
from medad_fast.evaluation.bootstrap import interval, paired_p_value
from medad_fast.evaluation.levels import Aggregation, number_in_order
from medad_fast.evaluation.metrics import Metrics, Resampler, Sample, metrics_of
from medad_fast.evaluation.summary import ORACLE, ORACLE_LABEL, RANKING

_ABOUT = ("run", "data", "preprocess", "blocks", "versions")
"""Parts of ``predict.json`` in which two runs may differ."""


def comparison(
    first: Predictions, second: Predictions, aggregation: Aggregation, resampler: Resampler
) -> dict[str, Any]:
    """What :func:`medad_fast.compare` returns.

    Raises:
        InputError: the folders do not score the same images with the same labels, masks and
            patients.
    """
    second = _in_order(first, second)
    before = metrics_of(first, aggregation, resampler)
    after = metrics_of(second, aggregation, resampler)
    for (path, place), mask in before.slices.masks.items():
        if after.slices.masks.get((path, place)) != mask:
            raise InputError(
                f"{path} slice {place}: has another mask in {second.folder} than in {first.folder}"
            )
    counts = _counts(first, before)
    if _counts(second, after) != counts:
        raise InputError(
            f"{second.folder}: its maps have other pixels than those of {first.folder}: "
            f"{_counts(second, after)} against {counts}"
        )
    return {
        "a": _told(first),
        "b": _told(second),
        **_pairs(before.ranking, after.ranking, RANKING),
        "threshold": _pairs(before.decisions, after.decisions),
        "oracle": {"label": ORACLE_LABEL, **_pairs(before.ranking, after.ranking, ORACLE)},
        "counts": counts,
        "differs": _differing(first.about, second.about),
        **before.settings(),
    }


def _in_order(first: Predictions, second: Predictions) -> Predictions:
    """The second's rows in the order of the first's, if they are the same images."""
    rows = {(row.path, row.slice): row for row in second.rows}
    own = {(row.path, row.slice) for row in first.rows}
    for where, other, missing in (
        (first, second, own - rows.keys()),
        (second, first, rows.keys() - own),
    ):
        if missing:
            path, place = min(missing)
            raise InputError(
                f"the two folders do not score the same images: {len(missing)} of "
                f"{len(where.rows)} slices of {where.folder} are not in {other.folder}, for "
                f"example {path} slice {place}"
            )
    ordered = [rows[row.path, row.slice] for row in first.rows]
    for row, twin in zip(first.rows, ordered, strict=True):
        for what in ("label", "mask"):
            if _shown(row, what) != _shown(twin, what):
                raise InputError(
                    f"{row.path} slice {row.slice}: has the {what} {_shown(row, what)!r} in "
                    f"{first.folder} and {_shown(twin, what)!r} in {second.folder}"
                )
    patients, others = (
        number_in_order(row.patient for row in each) for each in (first.rows, ordered)
    )
    if (patients != others).any():
        row = first.rows[int((patients != others).argmax())]
        raise InputError(
            f"{row.path}: is grouped with other images as one patient in {second.folder} than in "
            f"{first.folder}"
        )
    return replace(second, rows=ordered)


def _shown(row: ScoreRow, what: str) -> str:
    if what == "label":
        return row.label
    # A mask outside of the dataset has an absolute path, which may change.
    return Path(row.mask).name


def _pairs(
    before: Mapping[str, Mapping[str, Sample]],
    after: Mapping[str, Mapping[str, Sample]],
    names: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    return {
        level: {
            told: _pair(samples[name], after[level][name])
            for name, told in (names or {name: name for name in samples}).items()
            if name in samples
        }
        for level, samples in before.items()
    }


def _pair(before: Sample, after: Sample) -> dict[str, Any]:
    values = {"a": before.metric.value, "b": after.metric.value}
    if before.metric.value is None or after.metric.value is None:
        reason = before.metric.reason or after.metric.reason
        return {
            **values,
            **dict.fromkeys(("difference", "low", "high", "p_value")),
            "reason": reason,
        }
    differences = after.replicates - before.replicates
    found = interval(differences)
    result = {
        **values,
        "difference": after.metric.value - before.metric.value,
        "low": found.low,
        "high": found.high,
        "p_value": paired_p_value(differences),
        "dropped": found.dropped,
    }
    return result if found.low is not None else {**result, "reason": "no resample defines it"}


def _counts(predictions: Predictions, metrics: Metrics) -> dict[str, int]:
    rows, pixels = predictions.rows, metrics.slices.pixels
    return {
        "images": len(rows),
        "volumes": len({row.path for row in rows}),
        "patients": len({row.patient for row in rows}),
        "pixels": pixels.pixels,
        "lesion_pixels": pixels.lesion_pixels,
        "lesions": pixels.lesions,
    }


def _told(predictions: Predictions) -> dict[str, Any]:
    run = predictions.about.get("run", {})
    return {"folder": str(predictions.folder), **{key: run.get(key) for key in ("method", "seed")}}


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every setting that is not the same in both, as ``{name: {"a": ..., "b": ...}}``."""
    parts = [
        dict(_flat({part: about.get(part) for part in _ABOUT}, ""))
        | {"target_fpr": about["thresholds"]["score"]["target_fpr"]}
        for about in (first, second)
    ]
    names = list(dict.fromkeys([*parts[0], *parts[1]]))
    return {
        name: {"a": parts[0].get(name), "b": parts[1].get(name)}
        for name in names
        if parts[0].get(name) != parts[1].get(name)
    }


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flat(each, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
