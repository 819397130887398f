"""The figures of a report: what it shows, apart from its words and from what no two runs share."""

from __future__ import annotations

import base64
import io
import re
from collections import defaultdict
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from bench.proof.values import Quantities, array, numbers

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][-+]?\d+)?(?!\w)")
IN_PATH = re.compile(r"[-+]?\d+(?:\.\d+)?")
DRAWN = ("d", "x", "y", "x1", "x2", "y1", "y2", "width", "height", "cx", "cy")
"""Attributes of the shapes of a chart."""
SILENT = {"head", "style", "script", "bdi"}
"""What is no figure; ``bdi`` holds the name of a file."""
NEVER_CLOSED = {"br", "hr", "img", "input", "link", "meta"}
NOT_SHARED = {"Run", "Data", "Versions"}
"""Entries of the list of facts with places on the disk and versions."""


def figures(page: str) -> Quantities:
    """The numbers of each section and the pixels of each picture.

    Cells of tables and the shapes of charts keep their order. Numbers between words are sorted, so
    that a sentence may move but not change what it says.
    """
    reader = _Reader()
    reader.feed(page)
    reader.close()
    found: Quantities = {
        f"{section}: {kind}": numbers(sorted(values) if kind == "words" else values)
        for (section, kind), values in reader.numbers.items()
        if values
    }
    for place, source in enumerate(reader.pictures):
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
            found[f"picture {place}"] = array(np.asarray(picture))
    return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.pictures: list[str] = []
        self._open: list[str] = []
        self._section = "page"
        self._fact = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        if tag == "section":
            self._section = known.get("id", "page")
        if tag == "dt":
            self._fact = ""
        source = known.get("src", "")
        if tag == "img" and source.startswith("data:image/"):
            self.pictures.append(source)
        if "svg" in self._open:
            for name in DRAWN:
                self._add("charts", IN_PATH, known.get(name, ""))
        self._add("slices", NUMBER, known.get("data-text", ""))  # shown where the slider stops
        if tag not in NEVER_CLOSED:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass
        if tag == "section":
            self._section = "page"

    def handle_data(self, data: str) -> None:
        if SILENT.intersection(self._open):
            return
        if "dt" in self._open:
            self._fact += data.strip()
        elif "dd" not in self._open or self._fact not in NOT_SHARED:
            self._add(self._kind(), NUMBER, data)

    def _kind(self) -> str:
        if "svg" in self._open:
            return "charts"
        return "tables" if {"td", "th"}.intersection(self._open) else "words"

    def _add(self, kind: str, pattern: re.Pattern[str], text: str) -> None:
        self.numbers[self._section, kind] += [
            float(each.replace(",", "")) for each in pattern.findall(text)
        ]
