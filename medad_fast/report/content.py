"""What the words and tables of a report say, as plain data for its template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medad_fast.artifacts.predictions import SOURCE_COLUMNS, Predictions
from medad_fast.artifacts.scores import ScoreRow
from medad_fast.report.shown import Results
from medad_fast.report.table import shown_levels, titled

ALPHAS = (0.01, 0.05, 0.1, 0.2, 0.5)
KINDS_OF_SOURCES = 12
FAILURES = 20

Figure = Mapping[str, Any]


def counts_of(rows: Sequence[ScoreRow]) -> dict[str, int]:
    """How many images there are of each label, and of how many files and patients."""
    labels = Counter(row.label for row in rows)
    return {
        "images": len(rows),
        **{label: labels[label] for label in ("normal", "abnormal", "unlabeled")},
        "files": len({row.path for row in rows}),
        "patients": len({row.patient for row in rows}),
    }


def confusion(rows: Sequence[ScoreRow]) -> dict[str, int]:
    """How many normal and abnormal images are called what at the stored threshold."""
    found = Counter((row.label, row.prediction) for row in rows)
    return {
        "found": found["abnormal", "abnormal"],
        "missed": found["abnormal", "normal"],
        "alarms": found["normal", "abnormal"],
        "quiet": found["normal", "normal"],
        "called": sum(row.prediction == "abnormal" for row in rows),
    }


def facts(results: Results) -> list[tuple[str, str]]:
    """What was scored with what. Places on the disk only where identifiers were asked for."""
    about, counts = results.predictions.about, counts_of(results.predictions.rows)
    run, preprocess, metrics = about["run"], about["preprocess"], results.predictions.metrics
    kept = results.names_places
    where = run["path"] if kept else Path(run["path"]).name
    side = preprocess["image_size"]
    found = [("Method", run["method"]), ("Run", f"{where} (seed {run['seed']})")]
    if kept:
        found.append(("Data", str(results.root)))
    by_label = [
        f"{counts[label]} {label}" for label in ("normal", "abnormal", "unlabeled") if counts[label]
    ]
    found += [
        (
            "Images",
            f"{_many(counts['images'], 'image')} ({', '.join(by_label)}) in "
            f"{_many(counts['files'], 'file')} of {_many(counts['patients'], 'patient')}, "
            f"{about['data'].get('split', 'test')} split",
        ),
        (
            "Left out",
            f"{_many(about['counts']['skipped_slices'], 'nearly empty slice')}, "
            f"{_many(about['counts']['failed_files'], 'file')} that could not be used",
        ),
        ("Scored at", f"{side} by {side} pixels, {preprocess['axis']} slices of volumes"),
    ]
    if metrics is not None:
        bootstrap = metrics["bootstrap"]
        found.append(
            (
                "Intervals",
                f"95 %, percentiles of {bootstrap['resamples']} bootstrap resamples of "
                f"{bootstrap['unit']['image']}s, seed {bootstrap['seed']}",
            )
        )
    found += [
        ("Patients", "named as in the dataset" if kept else "named by salted hashes"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in about["versions"].items())),
    ]
    return found


def tiles(metrics: Mapping[str, Any], found: Mapping[str, int]) -> list[dict[str, Any]]:
    """The few figures to read first."""
    cut, counts = metrics["threshold"], metrics["counts"]
    known = [
        ("Image AUROC", metrics["image"]["auroc"], False, "0.5 is chance, 1 is perfect"),
        (
            "Sensitivity",
            cut["image"]["tpr"],
            True,
            f"{found['found']} of {counts['abnormal']} abnormal images are above the threshold",
        ),
        (
            "False-positive rate",
            cut["image"]["fpr"],
            True,
            f"{found['alarms']} of {counts['normal']} normal images; "
            f"target {100 * cut['target_fpr']:.3g} %",
        ),
    ]
    if counts["patients"] not in (1, counts["images"]):
        known.append(
            ("Patient AUROC", metrics["patient"]["auroc"], False, f"{counts['patients']} patients")
        )
    share = counts["lesion_share"]
    if share:
        chance = f"of lesion pixels; chance is {share:.2g}"
        known.append(("Pixel AP", metrics["pixel"]["average_precision"], False, chance))
    return [
        {"name": name, "figure": figure, "percent": percent, "note": note}
        for name, figure, percent, note in known
        if figure["value"] is not None
    ]


def strongest(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """The trivial baseline with the largest AUROC, and whether the method is above it."""
    known = baselines(metrics)
    own = metrics["image"]["auroc"]["value"]
    if not known or own is None:
        return None
    best = max(known, key=lambda entry: float(entry["figures"]["auroc"]["value"]))
    figure = best["figures"]["auroc"]
    return {
        "name": best["name"],
        "figure": figure,
        "of": len(known),
        "beaten": own > figure["value"],
    }


def baselines(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The trivial baselines that are defined."""
    return [
        {"name": titled(name), "figures": figures}
        for name, figures in metrics["baselines"].items()
        if figures["auroc"]["value"] is not None
    ]


def levels(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every figure that needs no threshold, by level."""
    return [
        {"level": title, "metric": titled(name), "figure": figure}
        for level, title in shown_levels(metrics).items()
        for name, figure in metrics[level].items()
    ]


def decisions(metrics: Mapping[str, Any], score: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each stored threshold does; ``score`` tells where that of the images comes from."""
    calibration = f" (n = {score['images']})" if "images" in score else ""
    origins = {
        "image": f"normal validation images{calibration}",
        "volume": "normal validation volumes",
        "patient": "normal validation patients",
        "pixel": "their pixels, 99.5th percentile",
    }
    return [
        {
            "level": title,
            "origin": origins[level],
            "target": None if level == "pixel" else metrics["threshold"]["target_fpr"],
            **metrics["threshold"][level],
        }
        for level, title in shown_levels(metrics).items()
    ]


def oracles(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a threshold chosen on the test set itself would do."""
    return [
        {"level": title, **metrics["oracle"][level]}
        for level, title in shown_levels(metrics).items()
    ]


def p_values(rows: Sequence[ScoreRow]) -> list[dict[str, Any]]:
    """For some levels the share of each class with a conformal p-value up to it."""
    by_label = {
        label: [row.p_value for row in rows if row.label == label]
        for label in ("normal", "abnormal", "unlabeled")
    }
    return [
        {
            "alpha": alpha,
            "counts": {
                label: (sum(value <= alpha for value in values), len(values))
                for label, values in by_label.items()
                if values
            },
        }
        for alpha in ALPHAS
    ]


def provenance(predictions: Predictions) -> dict[str, Any]:
    """How the files were read: the commonest ways first, each with the number of its files."""
    ways = Counter(
        tuple(source[column] for column in SOURCE_COLUMNS[1:])
        for source in predictions.sources.values()
    )
    shown = ways.most_common(KINDS_OF_SOURCES)
    return {
        "ways": [
            {"files": count, **dict(zip(SOURCE_COLUMNS[1:], way, strict=True))}
            for way, count in shown
        ],
        "others": len(ways) - len(shown),
        "other_files": sum(ways.values()) - sum(count for _, count in shown),
    }


def failures(results: Results) -> list[dict[str, str]]:
    """The first files that could not be used, without the place of the dataset on the disk."""
    return [
        {
            "file": failure["file"],
            "reason": failure["reason"].replace(f"{results.root.resolve()}/", ""),
        }
        for failure in results.predictions.failures[:FAILURES]
    ]


def spacing_text(spacing: str) -> str:
    """Millimetres between slices, rows and columns, as they stand in ``sources.csv``."""
    return " \N{MULTIPLICATION SIGN} ".join(f"{float(each):.3g}" for each in spacing.split())


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
