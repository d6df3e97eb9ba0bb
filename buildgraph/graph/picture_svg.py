"""Knows how a picture is written as SVG, without any other program; must not know where its boxes
come from.

Every text of theirs is escaped and rid of what XML cannot hold (A63); there is nothing to fetch
and no script in it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Final

from buildgraph.graph.picture import Box, Level, Picture, facts
from buildgraph.graph.picture_layout import layered

BOX: Final = (232.0, 46.0)
_GAP: Final = (56.0, 16.0)
_MARGIN: Final = 16
_CHARACTERS: Final = 27  # that fit into a box at its font size
# XML 1.0 section 2.2, Char; lone surrogates stand for bytes that are no UTF-8.
_NO_XML: Final = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
MARKS: Final = {
    "hit": "✓", "build": "●", "depends": "?", "built": "●", "skipped": "–", "failed": "✗", "": "",
}  # fmt: skip
STYLE: Final = """
svg{font:12px ui-sans-serif,system-ui,sans-serif}
.b rect{fill:#f4f5f7;stroke:#8a94a3;rx:6px}
.b text{fill:#1c2430}.b .n{fill:#5b6675;font-size:10.5px}
.hit rect{fill:#e2f4e6;stroke:#3f9556}.build rect,.built rect{fill:#fdeedd;stroke:#c9771c}
.depends rect{fill:#e8eefb;stroke:#5f7fc4;stroke-dasharray:4 3}
.skipped rect{stroke-dasharray:4 3}.failed rect{fill:#fbdcd8;stroke:#b3261e}
.l{fill:none;stroke:#9aa4b2;stroke-width:1.2}
.c rect{stroke-width:2.6}.l.c{stroke:#c2402d;stroke-width:2.4}
@media (prefers-color-scheme:dark){
.b rect{fill:#232a33;stroke:#667180}.b text{fill:#e6eaf0}.b .n{fill:#9aa7b8}
.hit rect{fill:#17351f;stroke:#55b46d}.build rect,.built rect{fill:#42290f;stroke:#e39a45}
.failed rect{fill:#4d1a16;stroke:#f28b82}
.depends rect{fill:#1c2a4a;stroke:#7f9fe6}.l{stroke:#5a6573}.l.c{stroke:#f0705c}}
"""


def text_of(text: str) -> str:
    """Return a text for XML and HTML, in an element or a quoted attribute."""
    return html.escape(_NO_XML.sub("\ufffd", text), quote=True)


def svg(picture: Picture, level: Level) -> str:
    """Return one level of a picture as an SVG document."""
    body, width, height = drawing(picture.levels[level])
    title = text_of(f"{picture.name}: {level}s")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">'
        f"<title>{title}</title><style>{STYLE}</style>{body}</svg>\n"
    )


def drawing(boxes: Sequence[Box], prefix: str = "") -> tuple[str, int, int]:
    """Return the elements of a drawing with its width and height; ids begin with `prefix`."""
    needs = {box.id: box.needs for box in boxes}
    layout = layered([box.id for box in boxes], needs, box=BOX, gap=_GAP)
    by_id = {box.id: box for box in boxes}
    number = {box.id: index for index, box in enumerate(boxes)}
    parts: list[str] = []
    for (needed, user), points in layout.lines.items():
        hot = " c" if by_id[needed].critical and by_id[user].critical else ""
        ends = f'data-l="{number[needed]} {number[user]}"' if prefix else ""
        parts.append(f'<path class="l{hot}" {ends} d="{_curve(points)}"/>')
    for box in boxes:
        parts.append(
            _box(box, layout.boxes[box.id], f'id="{prefix}{number[box.id]}"' * bool(prefix))
        )
    width = int(layout.width + 2 * _MARGIN) + 1
    height = int(layout.height + 2 * _MARGIN) + 1
    return "\n".join(parts), width, height


def _box(box: Box, corner: tuple[float, float], name: str) -> str:
    x, y = corner[0] + _MARGIN, corner[1] + _MARGIN
    classes = " ".join(filter(None, ("b", box.verdict, "c" if box.critical else "")))
    mark = MARKS[box.verdict]
    note = " · ".join(filter(None, (f"{mark} {facts(box)}".strip(), box.note)))
    full = "\n".join(filter(None, (box.id, box.title, box.note, facts(box), box.where)))
    return (
        f'<g class="{classes}" {name}><title>{text_of(full)}</title>'
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX[0]:.0f}" height="{BOX[1]:.0f}" rx="6"/>'
        f'<text x="{x + 10:.0f}" y="{y + 19:.0f}">{text_of(_cut(box.title, _CHARACTERS))}</text>'
        f'<text class="n" x="{x + 10:.0f}" y="{y + 36:.0f}">'
        f"{text_of(_cut(note, _CHARACTERS + 5))}</text></g>"
    )


def _cut(text: str, room: int) -> str:
    """Return a text that fits, without its middle: both ends of a label tell."""
    text = " ".join(text.split())
    if len(text) <= room:
        return text
    tail = room // 2
    return f"{text[: room - tail - 1]}…{text[-tail:]}"


def _curve(points: Sequence[tuple[float, float]]) -> str:
    """Return a smooth path: curves between columns, straight through them."""
    shifted = [(x + _MARGIN, y + _MARGIN) for x, y in points]
    x, y = shifted[0]
    out = [f"M{x:.0f} {y:.0f}"]
    for number, (to_x, to_y) in enumerate(shifted[1:]):
        if number % 2:  # through a column
            out.append(f"H{to_x:.0f}")
        else:
            middle = (x + to_x) / 2
            out.append(f"C{middle:.0f} {y:.0f} {middle:.0f} {to_y:.0f} {to_x:.0f} {to_y:.0f}")
        x, y = to_x, to_y
    return "".join(out)
