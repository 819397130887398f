"""Folders of predictions as pages to look at."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from os.path import relpath
from pathlib import Path

from medad_fast.artifacts.predictions import Predictions
from medad_fast.errors import InputError
from medad_fast.files import write_text
from medad_fast.report.gallery import Gallery, draw_gallery
from medad_fast.report.page import comparison_page, report_page
from medad_fast.report.shown import Results

PICTURES = 200
"""Files that a page shows unless told otherwise."""
DEMO_PICTURES = 24


def write_report(
    dir: str | Path,
    *,
    data: str | Path | None = None,
    images: bool = True,
    pictures: int = PICTURES,
) -> Path:
    """Write ``report.html`` into a folder of predictions, evaluated or not.

    The page loads nothing from outside and can be sent as one file. Without ``metrics.json`` it
    shows the scores and the pictures, and says how the rest is had. See docs/report.md.

    Only the pictures come from the dataset. An image that is missing or cannot be read is left
    out: the page says so, and a warning.

    Args:
        dir: where :func:`medad_fast.predict` and, for figures, :func:`medad_fast.evaluate` wrote.
        data: where the dataset lies now, if it moved since.
        images: whether to show the patients' images.
        pictures: how many files to show at most, at least 1; fewer are shown, and it says so,
            where they would make the page larger than 15 MB.

    Returns:
        Path of the page.

    Raises:
        InputError: a result is missing or damaged.
        DeviceError: the disk is full or not writable.
    """
    predictions = Predictions.read(dir)
    results = Results(predictions, predictions.root(data))
    gallery = _gallery({predictions.method: results}, pictures) if images else None
    page = predictions.folder / "report.html"
    write_text(page, report_page(results, gallery, images=images))
    return page


def write_demo_report(
    out: str | Path, results: Mapping[str, str | Path], *, data: str | Path | None = None
) -> Path:
    """Write one page that compares methods on the same images.

    Args:
        out: path of the page.
        results: folder of evaluated predictions of each method, each with its own ``report.html``.
        data: where the dataset lies now, if it moved since.

    Returns:
        Path of the page.

    Raises:
        InputError: no methods, results of different images, or something missing or damaged.
    """
    page = Path(out)
    found = {name: Predictions.read(folder) for name, folder in results.items()}
    if not found:
        raise InputError("results: at least one method expected, got none")
    scored = {name: [(row.path, row.slice) for row in each.rows] for name, each in found.items()}
    first = next(iter(scored.values()))
    for name, each in found.items():
        if each.metrics is None:
            raise InputError(
                f"{each.folder / 'metrics.json'} is missing; `medad evaluate` writes it"
            )
        if scored[name] != first:
            raise InputError(f"{each.folder}: {name} was scored on other images than the others")
    methods = {name: Results(each, each.root(data)) for name, each in found.items()}
    links = {name: _link(page, each.folder / "report.html") for name, each in found.items()}
    write_text(page, comparison_page(methods, _gallery(methods, DEMO_PICTURES), links))
    return page


def _gallery(methods: Mapping[str, Results], pictures: int) -> Gallery | None:
    """The errors of the first method and a choice of the rest, with the maps of all."""
    with_maps = {name: found for name, found in methods.items() if found.scale is not None}
    if not with_maps:
        return None
    gallery = draw_gallery(with_maps, pictures)
    first = next(iter(with_maps.values()))
    if gallery.empty:
        warnings.warn(
            f"no image of {first.predictions.folder} can be read below {first.root.resolve()}, so "
            "the report has no pictures: say where the images are now with --data",
            stacklevel=3,
        )
    elif gallery.gone:
        warnings.warn(
            f"{len(gallery.gone)} images cannot be shown: {next(iter(gallery.gone.values()))}",
            stacklevel=3,
        )
    return gallery


def _link(page: Path, target: Path) -> str:
    return Path(relpath(target.resolve(), page.parent.resolve())).as_posix()
