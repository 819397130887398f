"""Metrics as tables for the terminal, trivial baselines beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

LEVELS = {"image": "Image", "volume": "Volume", "patient": "Patient", "pixel": "Pixel"}
TITLES = {"auroc": "AUROC", "average_precision": "AP", "aupro": "AUPRO"}
PER_PATIENT = {
    "average_precision_per_patient": "AP per patient",
    "aupro_per_patient": "AUPRO per patient",
}
DECISIONS = {
    "fpr": "FPR",
    "tpr": "TPR",
    "dice": "Dice",
    "dice_per_image": "Dice per image",
    "dice_per_patient": "Dice per patient",
}
BASELINES = {
    "mean": "mean grey level",
    "std": "grey level spread",
    "gradient": "mean gradient",
    "mean_abs_z": "distance from mean image",
    "pca16": "PCA, 16 components",
    "file_size": "file size",
}


def figure_text(figure: Mapping[str, Any]) -> str:
    """``0.912 [0.85, 0.96]``, or ``-`` where it is undefined."""
    if figure["value"] is None:
        return "-"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.2f}, {figure['high']:.2f}]"


def titled(name: str) -> str:
    """A metric's or baseline's name as people write it."""
    return {**TITLES, **PER_PATIENT, **DECISIONS, **BASELINES}.get(name, name)


def shown_levels(metrics: Mapping[str, Any]) -> dict[str, str]:
    """The levels with their titles; volumes only where they are neither images nor patients."""
    counts = metrics["counts"]
    same = counts["volumes"] in (counts["images"], counts["patients"])
    return {level: title for level, title in LEVELS.items() if not (same and level == "volume")}


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """The metrics of one folder of results, then its trivial baselines.

    Args:
        metrics: what :func:`medad_fast.evaluate` returned.
    """
    counts = metrics["counts"]
    table = _table(
        *("", *TITLES.values()),
        title=f"{counts['images']} images of {counts['patients']} patients "
        f"({counts['abnormal']} abnormal images), 95 % intervals by patient",
    )
    for level, title in shown_levels(metrics).items():
        table.add_row(f"[bold]{title}", *(_cell(metrics[level], name) for name in TITLES))
    _add_baselines(table, metrics)
    rows = published_rows(metrics)
    if rows:
        table.add_row(f"[dim]Published, recipe {metrics['published']['recipe']}")
    for entry in rows:
        table.add_row(
            f"  {entry['of']}", entry["auroc"], entry["average_precision"], "", style="dim"
        )
    _explain(
        table, [figure for level in shown_levels(metrics) for figure in metrics[level].values()]
    )
    return table


def published_rows(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """What a recipe gives to compare with, each a table of texts, empty where there is nothing.

    Args:
        metrics: what :func:`medad_fast.evaluate` returned.

    Returns:
        For each figure ``of``, ``auroc``, ``average_precision`` and ``source``.
    """
    published = metrics.get("published")
    if not published:
        return []

    def number(figure: Mapping[str, Any], name: str) -> str:
        if figure[name] is None:
            return ""
        margin = figure["plus_minus"] if name == "auroc" else None
        return f"{figure[name]:.3f}" + ("" if margin is None else f" +- {margin:.3f}")

    return [
        {
            "of": figure["of"],
            "auroc": number(figure, "auroc"),
            "average_precision": number(figure, "average_precision"),
            "source": f"{figure['source']} ({figure['known']}"
            + (f"; {figure['note']})" if figure["note"] else ")"),
        }
        for figure in published["figures"]
    ]


def comparison_table(metrics: Mapping[str, Mapping[str, Any]]) -> Table:
    """Several methods on one dataset, then its trivial baselines.

    Args:
        metrics: for each method what :func:`medad_fast.evaluate` returned.
    """
    table = _table("", "image AUROC", "image AP", "pixel AP", "AUPRO")
    for method, found in metrics.items():
        table.add_row(
            f"[bold]{method}",
            *(figure_text(found["image"][name]) for name in ("auroc", "average_precision")),
            *(figure_text(found["pixel"][name]) for name in ("average_precision", "aupro")),
        )
    _add_baselines(table, next(iter(metrics.values())))
    return table


def decision_lines(metrics: Mapping[str, Any]) -> list[str]:
    """What the stored thresholds do on the test set, and apart from it what an oracle would.

    Args:
        metrics: what :func:`medad_fast.evaluate` returned.
    """
    stored, oracle = metrics["threshold"], metrics["oracle"]
    parts = [
        f"{LEVELS[level]} {titled(name)} {figure_text(stored[level][name])}"
        for level, name in (("image", "fpr"), ("image", "tpr"), ("pixel", "dice"))
    ]
    best = [
        f"{LEVELS[level]} {title} {figure_text(oracle[level][name])}"
        for level, name, title in (
            ("image", "fpr_at_tpr95", "FPR at TPR 95 %"),
            ("pixel", "dice", "Dice"),
        )
    ]
    return [
        f"At the thresholds from validation (target FPR {stored['target_fpr']:.3g}): "
        + ", ".join(parts),
        "Oracle, thresholds chosen on the test set itself: " + ", ".join(best),
    ]


def difference_table(found: Mapping[str, Any]) -> Table:
    """Each metric of two runs with the paired difference; oracles are left to the file.

    Args:
        found: what :func:`medad_fast.compare` returned.
    """
    counts, unit = found["counts"], found["bootstrap"]["unit"]["image"]
    sides = (f"{side.upper()}: {found[side]['method']}" for side in "ab")
    table = _table(
        *("", *sides, "B - A", "95 % interval", "p"),
        title=f"{counts['images']} images of {counts['patients']} patients, "
        f"paired resamples by {unit}",
    )
    told: list[Mapping[str, Any]] = []
    for level, title in shown_levels(found).items():
        table.add_row(f"[bold]{title}")
        rows = {titled(name): figure for name, figure in found[level].items()}
        rows |= {
            f"{titled(name)} at threshold": figure
            for name, figure in found["threshold"][level].items()
        }
        for name, figure in rows.items():
            table.add_row(f"  {name}", *_difference_cells(figure))
        told += rows.values()
    _explain(table, told)
    return table


def _table(*columns: str, title: str | None = None) -> Table:
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
    table.title_style = "bold"
    return table


def _add_baselines(table: Table, metrics: Mapping[str, Any]) -> None:
    table.add_row("[dim]Trivial baselines, per image")
    for name, figures in metrics["baselines"].items():
        if figures["auroc"]["value"] is not None:
            cells = (figure_text(figures[each]) for each in ("auroc", "average_precision"))
            table.add_row(f"  {titled(name)}", *cells, style="dim")


def _explain(table: Table, figures: Iterable[Mapping[str, Any]]) -> None:
    """Say below the table why some figures are undefined."""
    if reasons := {figure["reason"] for figure in figures if figure.get("reason")}:
        table.caption = "- undefined: " + "; ".join(sorted(reasons))
        table.caption_justify = "left"


def _difference_cells(figure: Mapping[str, Any]) -> list[str]:
    cells = ["-" if figure[side] is None else f"{figure[side]:.3f}" for side in "ab"]
    if figure["difference"] is None or figure["low"] is None:
        return [*cells, "-", "-", "-"]
    span = f"[{figure['low']:+.3f}, {figure['high']:+.3f}]"
    return [*cells, f"{figure['difference']:+.3f}", span, f"{figure['p_value']:.2g}"]


def _cell(figures: Mapping[str, Any], name: str) -> str:
    return figure_text(figures[name]) if name in figures else ""
