"""The report: one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from medad_fast.report import content
from medad_fast.report.charts import curves, histogram
from medad_fast.report.gallery import Gallery
from medad_fast.report.pictures import STEPS, colour_bar
from medad_fast.report.shown import Results
from medad_fast.report.table import figure_text, published_rows, titled

HISTOGRAM = (600.0, 84.0)

_NOT_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def report_page(results: Results, gallery: Gallery | None, *, images: bool) -> str:
    """The page of one folder of predictions, evaluated or not.

    Args:
        results: what to show.
        gallery: its pictures, where there are any.
        images: whether pictures were asked for.
    """
    predictions = results.predictions
    rows, metrics = predictions.rows, predictions.metrics
    width, height = HISTOGRAM
    found = content.confusion(rows)
    score = predictions.about["thresholds"]["score"]
    figures: dict[str, Any] = {}
    if metrics is not None:
        figures = {
            "tiles": content.tiles(metrics, found),
            "levels": content.levels(metrics),
            "baselines": content.baselines(metrics),
            "strongest": content.strongest(metrics),
            "published": published_rows(metrics),
            "decisions": content.decisions(metrics, score),
            "oracles": content.oracles(metrics),
            "curves": curves(rows, metrics["bootstrap"]),
        }
    return _render(
        "report.html.j2",
        title=f"Anomaly detection with {predictions.method}",
        results=predictions,
        simulated=predictions.about["data"].get("simulated"),
        metrics=metrics,
        counts=content.counts_of(rows),
        confusion=found,
        score=score,
        facts=content.facts(results),
        p_values=content.p_values(rows),
        provenance=content.provenance(predictions),
        failures=content.failures(results),
        histogram=histogram(rows, width=width, height=height),
        plot=HISTOGRAM,
        images=images,
        gallery=gallery,
        root=results.root if results.names_places else None,
        scales=_scales({predictions.method: results}),
        figures=figures,
    )


def comparison_page(
    methods: Mapping[str, Results], gallery: Gallery | None, links: Mapping[str, str]
) -> str:
    """The page that shows methods on the same images side by side.

    Args:
        methods: evaluated predictions of each, at least one.
        gallery: their pictures, where there are any.
        links: of each method to its own report.
    """
    first = next(iter(methods.values())).predictions
    metrics = {name: found.predictions.metrics or {} for name, found in methods.items()}
    return _render(
        "demo.html.j2",
        title="Methods side by side",
        first=first,
        simulated=first.about["data"].get("simulated"),
        counts=content.counts_of(first.rows),
        methods=methods,
        links=links,
        table={name: _comparison(found) for name, found in metrics.items()},
        baselines=content.baselines(first.metrics or {}),
        gallery=gallery,
        root=None,
        scales=_scales(methods),
    )


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
