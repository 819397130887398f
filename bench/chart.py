"""Bar charts of ratios as SVG, drawn by hand: on a log axis, from 1, readable in light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bench.table import as_interval, as_times

WIDTH, LEFT, RIGHT = 900, 220, 236
"""Of the picture; of the labels on the left; of the figures on the right."""
TOP, ROW, HEADING, GAP, BOTTOM = 72, 22, 24, 8, 76
BAR = 12

# The picture has a ground of its own: it may stand on a page whose theme is not the system's.
STYLE = """
:root { --ground: #fbfaf7; --ink: #1f2328; --soft: #5d6570; --line: #dedbd2;
  --faster: #3f6f93; --slower: #c2501f; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14171a; --ink: #e6e4df; --soft: #9aa3ad; --line: #333a41;
    --faster: #7fb2d9; --slower: #f0875a; } }
text { font: 13px system-ui, -apple-system, "Segoe UI", "Helvetica Neue", "DejaVu Sans", sans-serif;
  fill: var(--ink); font-variant-numeric: tabular-nums; }
.title { font-size: 16px; font-weight: 600; }
.soft { fill: var(--soft); font-size: 12px; }
.heading { font-weight: 600; paint-order: stroke; stroke: var(--ground); stroke-width: 5px; }
.end { text-anchor: end; } .middle { text-anchor: middle; }
.ground { fill: var(--ground); }
.grid { stroke: var(--line); } .one { stroke: var(--soft); }
.faster { fill: var(--faster); } .slower { fill: var(--slower); }
.refused { fill: none; stroke: var(--soft); stroke-dasharray: 3 2; }
.whisker { stroke: var(--ink); stroke-width: 1.5; }
.around { stroke: var(--ground); stroke-width: 6; } .target { stroke: var(--ink); stroke-width: 3; }
.missed { fill: var(--slower); font-weight: 600; }
""".strip()


@dataclass(frozen=True)
class Bar:
    """How many times as fast the fused op is as one other way; what it should be.

    Without a value it was not measured.
    """

    label: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    target: float | None = None
    missed: bool = False
    refused: bool = False


@dataclass(frozen=True)
class Group:
    """Bars under one heading."""

    heading: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float

    def x(self, value: float) -> float:
        place = math.log(value / self.low) / math.log(self.high / self.low)
        return LEFT + place * (WIDTH - LEFT - RIGHT)

    def ticks(self) -> list[float]:
        wide = self.high / self.low > 60
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1,) if wide else (1, 2, 5)
        found = [step * 10.0**power for power in powers for step in steps]
        return [tick for tick in found if self.low <= tick <= self.high * (1 + 1e-9)]


def bar_chart(title: str, subtitle: str, groups: Sequence[Group]) -> str:
    """One picture, with its own words for those who cannot see it."""
    axis = _axis(groups)
    height = TOP + sum(HEADING + ROW * len(group.bars) + GAP for group in groups) + BOTTOM
    bottom = height - BOTTOM
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-labelledby="title words">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="words">{escape(_words(groups))}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{height}" rx="8"/>',
        _text(20, 30, title, "title"),
        _text(20, 50, subtitle, "soft"),
    ]
    for tick in axis.ticks():
        x = axis.x(tick)
        kind = "one" if tick == 1 else "grid"
        lines.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        lines.append(_text(x, bottom + 16, as_times(tick), "soft middle"))
    y = float(TOP)
    for group in groups:
        lines.append(_text(20, y + 16, group.heading, "heading"))
        y += HEADING
        for bar in group.bars:
            lines += _bar(bar, y, axis)
            y += ROW
        y += GAP
    lines += _legend(groups, height - 18)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _axis(groups: Sequence[Group]) -> _Axis:
    values = [1.0]
    for group in groups:
        for bar in group.bars:
            interval = () if bar.refused else (bar.low, bar.high)
            values += [value for value in (bar.value, bar.target, *interval) if value]
    return _Axis(min(0.9, min(values) * 0.9), max(2.0, max(values) * 1.1))


def _bar(bar: Bar, y: float, axis: _Axis) -> list[str]:
    middle = y + ROW / 2
    lines = [_text(LEFT - 12, middle + 4.5, bar.label, "end")]
    if bar.value is not None:
        begin, end = sorted((axis.x(1.0), axis.x(bar.value)))
        kind = "refused" if bar.refused else "faster" if bar.value >= 1 else "slower"
        lines.append(
            f'<rect class="{kind}" x="{begin:.1f}" y="{middle - BAR / 2:.1f}" '
            f'width="{max(end - begin, 1):.1f}" height="{BAR}" rx="1.5"/>'
        )
    if bar.low is not None and bar.high is not None and not bar.refused:
        low, high = axis.x(bar.low), axis.x(bar.high)
        lines.append(
            f'<path class="whisker" fill="none" d="M{low:.1f},{middle - 3:.1f}v6m0,-3H{high:.1f}'
            'm0,-3v6"/>'
        )
    if bar.target is not None:
        x = axis.x(bar.target)
        lines += [
            f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{middle - 9:.1f}" '
            f'y2="{middle + 9:.1f}"/>'
            for kind in ("around", "target")
        ]
    return lines + _figures(bar, middle + 4.5)


def _figures(bar: Bar, y: float) -> list[str]:
    x = WIDTH - RIGHT + 16
    if bar.value is None or bar.refused:
        return [_text(x, y, "refused" if bar.refused else "not measured", "soft")]
    lines = [_text(x + 44, y, as_times(bar.value), "end heading")]
    lines.append(_text(x + 54, y, as_interval(bar.low, bar.high), "soft"))
    if bar.missed:
        lines.append(_text(WIDTH - 20, y, "missed", "missed end"))
    return lines


def _legend(groups: Sequence[Group], y: float) -> list[str]:
    bars = [bar for group in groups for bar in group.bars]
    words = [
        "bar: how many times as fast the fused op is as what is named beside it, on a log scale"
    ]
    words.append("whisker: its 95 % interval")
    if any(bar.target is not None for bar in bars):
        words.append("thick tick: the target")
    if any(bar.refused for bar in bars):
        words.append("dashed: refused, no figure to quote")
    return [_text(20, y - 18, words[0], "soft"), _text(20, y, "; ".join(words[1:]), "soft")]


def _words(groups: Sequence[Group]) -> str:
    """What the picture shows, as sentences."""
    return " ".join(
        f"{group.heading}, {bar.label}: "
        + ("refused." if bar.refused else f"{as_times(bar.value) or 'not measured'}.")
        for group in groups
        for bar in group.bars
    )


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
