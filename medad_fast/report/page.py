"""The report: one HTML file that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os.path import relpath
from pathlib import Path
from typing import Any

from medad_fast.errors import InputError
from medad_fast.io.atomic import write_text
from medad_fast.report.charts import curves, histogram
from medad_fast.report.choose import select
from medad_fast.report.pictures import Picture, colour_bar, draw
from medad_fast.report.results import Results, read_results, read_slices
from medad_fast.report.table import figure_text, published_rows, shown_levels, titled
from medad_fast.scores import ScoreRow

__all__ = ["write_demo_report", "write_report"]

HISTOGRAM = (560.0, 200.0)


def write_report(dir: str | Path, *, data: str | Path | None = None, images: bool = True) -> Path:
    """Write ``report.html`` into a folder of judged predictions.

    The page loads nothing from outside and can be sent as one file.

    Args:
        dir: where :func:`medad_fast.predict` and :func:`medad_fast.evaluate` wrote.
        data: where the data set lies now, if it moved since.
        images: whether to show slices of the patients' images.

    Returns:
        Path of the page.

    Raises:
        InputError: a result, or an image that is to be shown, is missing or damaged.
        DeviceError: the disk is full or not writable.
    """
    folder = Path(dir)
    results = read_results(folder, None if data is None else Path(data))
    width, height = HISTOGRAM
    text = _render(
        "report.html.j2",
        title=f"{results.method} on {results.root.name}",
        results=results,
        metrics=results.metrics,
        summary=_summary(results),
        levels=_levels(results.metrics),
        baselines=_baselines(results.metrics),
        published=published_rows(results.metrics),
        curves=curves(results.rows, seed=results.metrics["bootstrap"]["seed"]),
        histogram=histogram(results.rows, width=width, height=height),
        gallery=_gallery(results) if images else None,
        scale=results.scale,
        colour_bar=colour_bar(),
    )
    write_text(folder / "report.html", text)
    return folder / "report.html"


def write_demo_report(
    out: str | Path, results: Mapping[str, str | Path], *, data: str | Path | None = None
) -> Path:
    """Write one page that compares methods on the same images.

    Args:
        out: path of the page.
        results: folder of judged predictions of each method, each with its own ``report.html``.
        data: where the data set lies now, if it moved since.

    Returns:
        Path of the page.

    Raises:
        InputError: no methods, results of different images, or something missing or damaged.
    """
    page = Path(out)
    root = None if data is None else Path(data)
    methods = {name: read_results(Path(folder), root) for name, folder in results.items()}
    if not methods:
        raise InputError("results: at least one method expected, got none")
    first = next(iter(methods.values()))
    for name, other in methods.items():
        if [_key(row) for row in other.rows] != [_key(row) for row in first.rows]:
            raise InputError(f"{other.folder}: {name} was scored on other images than the others")
    text = _render(
        "demo.html.j2",
        title="Methods side by side",
        first=first,
        methods=methods,
        links={name: _link(page, found.folder / "report.html") for name, found in methods.items()},
        table={name: _comparison(found.metrics) for name, found in methods.items()},
        baselines=_baselines(first.metrics),
        gallery=_side_by_side(methods),
        colour_bar=colour_bar(),
    )
    write_text(page, text)
    return page


def _render(template: str, **content: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("medad_fast.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = figure_text
    environment.filters["titled"] = titled
    return environment.get_template(template).render(**content)


def _summary(results: Results) -> list[tuple[str, str]]:
    about, counts = results.about, results.metrics["counts"]
    versions, preprocess = about["versions"], about["preprocess"]
    bootstrap = results.metrics["bootstrap"]
    return [
        ("Method", results.method),
        ("Run", f"{about['run']['path']} (seed {about['run']['seed']})"),
        ("Data", f"{about['data']['root']} ({about['data']['split']} split)"),
        (
            "Images",
            f"{counts['images']} slices of {counts['patients']} patients: "
            f"{counts['normal']} normal, {counts['abnormal']} abnormal"
            + (f", {counts['unlabeled']} unlabeled" if counts["unlabeled"] else ""),
        ),
        (
            "Left out",
            f"{counts['skipped_slices']} nearly empty slices, "
            f"{counts['failed_files']} files that could not be used",
        ),
        ("Seen at", f"{preprocess['image_size']} by {preprocess['image_size']} pixels"),
        (
            "Intervals",
            f"95 %, {bootstrap['resamples']} bootstrap resamples of "
            f"{bootstrap['unit']['image']}s, seed {bootstrap['seed']}",
        ),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]


def _levels(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"level": title, "metric": titled(name), "figure": figure}
        for level, title in shown_levels(metrics).items()
        for name, figure in metrics[level].items()
    ]


def _baselines(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": titled(name), "figures": figures}
        for name, figures in metrics["baselines"].items()
        if figures["auroc"]["value"] is not None
    ]


def _comparison(metrics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    image, pixel = metrics["image"], metrics["pixel"]
    return [image["auroc"], image["average_precision"], pixel["average_precision"], pixel["aupro"]]


def _gallery(results: Results) -> dict[str, list[Picture]] | None:
    scale = results.scale
    if scale is None:
        return None
    chosen = select(results.rows)
    shown = read_slices(results, chosen.all())
    pictures = {key: draw(one, scale) for key, one in shown.items()}

    def of(rows: Sequence[ScoreRow]) -> list[Picture]:
        return [pictures[_key(row)] for row in rows]

    return {
        "abnormal": of(chosen.abnormal),
        "normal": of(chosen.normal),
        "unlabeled": of(chosen.unlabeled),
        "false_positives": of(chosen.false_positives),
        "false_negatives": of(chosen.false_negatives),
    }


def _side_by_side(methods: Mapping[str, Results]) -> dict[str, list[dict[str, Picture]]]:
    """For each slice that the first method's report shows, the pictures of all methods."""
    chosen = select(next(iter(methods.values())).rows)
    parts = {"abnormal": chosen.abnormal, "normal": chosen.normal}
    wanted = [key for rows in parts.values() for key in map(_key, rows)]
    drawn: dict[str, dict[tuple[str, int], Picture]] = {}
    for name, results in methods.items():
        scale = results.scale
        if scale is None:
            continue
        rows = [row for row in results.rows if _key(row) in wanted]
        shown = read_slices(results, rows)
        drawn[name] = {key: draw(one, scale) for key, one in shown.items()}
    return {
        part: [{name: found[_key(row)] for name, found in drawn.items()} for row in rows]
        for part, rows in parts.items()
    }


def _key(row: ScoreRow) -> tuple[str, int]:
    return row.path, row.slice


def _link(page: Path, target: Path) -> str:
    return Path(relpath(target.resolve(), page.parent.resolve())).as_posix()
