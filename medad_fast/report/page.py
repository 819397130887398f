"""The report: one HTML file that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib import resources
from os.path import relpath
from pathlib import Path
from typing import Any

from medad_fast.errors import InputError
from medad_fast.files import write_text
from medad_fast.report import content
from medad_fast.report.charts import curves, histogram
from medad_fast.report.gallery import Gallery, draw_gallery
from medad_fast.report.pictures import STEPS, colour_bar
from medad_fast.report.results import Results, read_results
from medad_fast.report.table import figure_text, published_rows, titled

__all__ = ["PICTURES", "write_demo_report", "write_report"]

PICTURES = 200
"""Files that a page shows unless told otherwise."""
DEMO_PICTURES = 24
HISTOGRAM = (600.0, 84.0)

_NOT_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def write_report(
    dir: str | Path,
    *,
    data: str | Path | None = None,
    images: bool = True,
    pictures: int = PICTURES,
) -> Path:
    """Write ``report.html`` into a folder of predictions, judged or not.

    The page loads nothing from outside and can be sent as one file. Without ``metrics.json`` it
    shows the scores and the pictures, and says how the rest is had. See docs/report.md.

    Args:
        dir: where :func:`medad_fast.predict` and, for figures, :func:`medad_fast.evaluate` wrote.
        data: where the data set lies now, if it moved since.
        images: whether to show the patients' images.
        pictures: how many files to show at most, at least 1; fewer are shown, and it says so,
            where they would make the page larger than 15 MB.

    Returns:
        Path of the page.

    Raises:
        InputError: a result, or an image that is to be shown, is missing or damaged.
        DeviceError: the disk is full or not writable.
    """
    folder = Path(dir)
    results = read_results(folder, None if data is None else Path(data))
    metrics = results.metrics
    gallery = None
    if images and results.scale is not None:
        gallery = draw_gallery({results.method: results}, pictures)
    width, height = HISTOGRAM
    found = content.confusion(results.rows)
    score = results.about["thresholds"]["score"]
    judged: dict[str, Any] = {}
    if metrics is not None:
        judged = {
            "tiles": content.tiles(metrics, found),
            "levels": content.levels(metrics),
            "baselines": content.baselines(metrics),
            "strongest": content.strongest(metrics),
            "published": published_rows(metrics),
            "decisions": content.decisions(metrics, score),
            "oracles": content.oracles(metrics),
            "curves": curves(results.rows, metrics["bootstrap"]),
        }
    text = _render(
        "report.html.j2",
        title=f"Anomaly detection with {results.method}",
        results=results,
        metrics=metrics,
        counts=content.counts_of(results.rows),
        confusion=found,
        score=score,
        facts=content.facts(results),
        p_values=content.p_values(results.rows),
        provenance=content.provenance(results),
        failures=content.failures(results),
        histogram=histogram(results.rows, width=width, height=height),
        plot=HISTOGRAM,
        images=images,
        gallery=gallery,
        scales=_scales({results.method: results}),
        judged=judged,
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
    methods = {
        name: read_results(Path(folder), root, judged=True) for name, folder in results.items()
    }
    if not methods:
        raise InputError("results: at least one method expected, got none")
    first = next(iter(methods.values()))
    for name, other in methods.items():
        if _scored(other) != _scored(first):
            raise InputError(f"{other.folder}: {name} was scored on other images than the others")
    text = _render(
        "demo.html.j2",
        title="Methods side by side",
        first=first,
        counts=content.counts_of(first.rows),
        methods=methods,
        links={name: _link(page, found.folder / "report.html") for name, found in methods.items()},
        table={name: _comparison(found.metrics or {}) for name, found in methods.items()},
        baselines=content.baselines(first.metrics or {}),
        gallery=_side_by_side(methods),
        scales=_scales(methods),
    )
    write_text(page, text)
    return page


def _render(template: str, **values: Any) -> str:
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
    environment.filters["spacing"] = content.spacing_text
    script = resources.files("medad_fast.report").joinpath("templates/behaviour.js").read_bytes()
    # The policy of the page lets this script run, and no other.
    values["script_digest"] = base64.b64encode(hashlib.sha256(script).digest()).decode("ascii")
    values["script"] = script.decode("utf-8")
    values |= {"colour_bar": colour_bar(), "steps": STEPS}
    return _as_text(environment.get_template(template).render(**values))


def _as_text(page: str) -> str:
    """File names may hold bytes that are no text and characters that no page may hold."""
    whole = page.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return _NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", whole)


def _scales(methods: Mapping[str, Results]) -> dict[str, Any]:
    return {name: found.scale for name, found in methods.items() if found.scale is not None}


def _comparison(metrics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    image, pixel = metrics["image"], metrics["pixel"]
    return [image["auroc"], image["average_precision"], pixel["average_precision"], pixel["aupro"]]


def _side_by_side(methods: Mapping[str, Results]) -> Gallery | None:
    """The errors of the first method and a choice of the rest, with the maps of all."""
    with_maps = {name: found for name, found in methods.items() if found.scale is not None}
    return draw_gallery(with_maps, DEMO_PICTURES) if with_maps else None


def _scored(results: Results) -> list[tuple[str, int]]:
    return [(row.path, row.slice) for row in results.rows]


def _link(page: Path, target: Path) -> str:
    return Path(relpath(target.resolve(), page.parent.resolve())).as_posix()
