"""A report read back from its HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.text = (folder / "report.html").read_text(encoding="utf-8")
        self.pictures: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.words = ""
        self._silent = False
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self._silent = tag in ("style", "script")
        if tag == "img":
            self.pictures.append(found)
        self.links += [value for name, value in attrs if name in ("href", "src") and value]
        if found.get("id"):
            self.ids.append(str(found["id"]))

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words += f" {' '.join(data.split())}"

    def part(self, heading: str) -> str:
        """The markup from one heading to the next of the same or a higher level."""
        level, rest = re.split(rf"<h(?=[23][^>]*>{heading}<)", self.text)[1].split(">", 1)
        return re.split(rf"<h[2-{level[0]}][ >]", rest)[0]
