"""Knows how to draw results as one small SVG that needs nothing beside it; must not know how they
came about.

Bars of one workload are drawn to the scale of its slowest tool: the workloads differ a
hundredfold, and what counts is who is ahead. A thin line marks the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from report import OURS, Result, number

_BAR = 13
_GAP = 16
_TITLE = 16
_LEFT = 90
_WIDTH = 420
_COLOURS = {OURS: "#1a7f5a"}
_OTHERS = ("#8a94a6", "#b08968", "#7a6fa3", "#5b8fb0", "#a36f6f")


def draw(results: Sequence[Result], tools: Sequence[str], caption: str) -> str:
    """Return the SVG text."""
    others = [name for name in tools if name != OURS]
    colours = {name: _OTHERS[n % len(_OTHERS)] for n, name in enumerate(others)} | _COLOURS
    parts: list[str] = []
    y = 34
    for result in results:
        if result.unit != "s" or not result.costs:
            continue
        parts.append(f'<text x="8" y="{y}" class="t">{escape(result.title)}</text>')
        y += 6
        longest = max(c.seconds for c in result.costs.values())
        longest = max(longest, result.budget or 0.0, 1e-9)
        top = y
        for name in (n for n in (OURS, *others) if n in result.costs):
            seconds = result.costs[name].seconds
            width = max(1.0, seconds / longest * _WIDTH)
            parts.append(
                f'<text x="{_LEFT - 6}" y="{y + _BAR - 3}" class="n">{escape(name)}</text>'
                f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR - 2}" '
                f'fill="{colours[name]}"/>'
                f'<text x="{_LEFT + width + 4:.1f}" y="{y + _BAR - 3}">{number(seconds)} s</text>'
            )
            y += _BAR
        if result.budget is not None:
            x = _LEFT + result.budget / longest * _WIDTH
            parts.append(f'<path d="M{x:.1f} {top - 2}V{y}" stroke="#c0392b"/>')
        y += _GAP + _TITLE - _BAR
    height = y + 4
    style = "text{font:10px sans-serif;fill:#333}.t{font-weight:bold}.n{text-anchor:end}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="580" height="{height}" '
        f'viewBox="0 0 580 {height}"><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/><text x="8" y="14">{escape(caption)}</text>'
        + "".join(parts)
        + "</svg>\n"
    )
