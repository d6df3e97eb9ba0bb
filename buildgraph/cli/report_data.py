"""Knows which steps and spans of a build the page about it holds, as values for its script and for
the drawing of its graph; must not know how any of them looks.

A page has room for so much: of more steps than ROWS those that were not simply known go first, and
a graph of more than BOXES is not drawn.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from msgspec import Struct

from buildgraph.cli.course import Course, Span, Step, Verdict, busiest
from buildgraph.cli.escape import safe
from buildgraph.graph.picture import LEVELS, Box, Level, Picture, picture
from buildgraph.graph.picture import Verdict as Colour

ROWS: Final = 10_000
BOXES: Final = 1_500  # of one level
VERDICTS: Final[tuple[Verdict, ...]] = ("failed", "stopped", "built", "skipped", "hit")
_COLOURS: Final[Mapping[Verdict, Colour]] = {
    "failed": "failed",
    "stopped": "skipped",
    "skipped": "skipped",
    "built": "built",
    "hit": "hit",
}


class Contents(Struct, frozen=True):
    """What the page shows."""

    total: float  # seconds
    nodes: int  # that something is known of, also where not all are shown
    steps: tuple[Step, ...]  # by number
    counts: Mapping[Verdict, int]
    saved: float  # seconds that known steps took when they were made
    critical: tuple[Step, ...]
    drawn: Picture | None
    levels: tuple[Level, ...]  # that are small enough to be drawn


def contents(course: Course) -> Contents:
    """Choose what is shown of a build."""
    counts: dict[Verdict, int] = dict.fromkeys(VERDICTS, 0)
    saved = 0.0
    for step in course.steps():
        counts[step.verdict] += 1
        saved += step.seconds if step.verdict == "hit" else 0.0
    nodes = sum(counts.values())
    if nodes <= ROWS:
        steps = tuple(course.steps())
    else:
        first = heapq.nsmallest(ROWS, course.steps(), key=_matters)
        steps = tuple(sorted(first, key=lambda step: step.node))
    drawn = _picture(course, steps) if 0 < len(steps) == nodes else None
    levels = () if drawn is None else tuple(n for n in LEVELS if 0 < len(drawn.levels[n]) <= BOXES)
    way = [course.step(node) for node in busiest(course.steps())]
    return Contents(course.time, nodes, steps, counts, saved, tuple(way), drawn, levels)


def _matters(step: Step) -> tuple[int, float, int]:
    return (VERDICTS.index(step.verdict), -step.seconds, step.node)


# -- the graph ---------------------------------------------------------------------------


def box_id(step: Step) -> str:
    """Return what a step is called in the graph: its target, and its number as in the log."""
    return f"{safe(step.label)} #{step.node}"


def _picture(course: Course, steps: Sequence[Step]) -> Picture:
    ids = {step.node: box_id(step) for step in steps}
    boxes = [
        Box(
            ids[step.node],
            safe(step.title),
            safe(step.label),
            tuple(ids[need] for need in step.needs if need in ids),
            safe(step.label),
            safe(step.stage),
            safe(str(step.where)) if step.where else "",
            _COLOURS[step.verdict],
            None if step.verdict in ("hit", "skipped") else step.seconds,
            step.size or None,
        )
        for step in steps
    ]
    return picture(safe(course.command), boxes, _targets(course, steps))


def _targets(course: Course, steps: Sequence[Step]) -> list[Box]:
    """Return a box for each target. A step that several share is of the one that came first."""
    label_of = {step.node: safe(step.label) for step in steps}
    needs: dict[str, dict[str, None]] = {}
    for step in steps:
        own = needs.setdefault(safe(step.label), {})
        own |= dict.fromkeys(label_of[need] for need in step.needs if need in label_of)
    made = [(image.label, image.needs) for image in course.images]
    made += [(smoke.label, smoke.needs) for smoke in course.smokes]
    for label, wanted in made:
        own = needs.setdefault(safe(label), {})
        own |= dict.fromkeys(label_of[need] for need in wanted if need in label_of)
    place = {label: number for number, label in enumerate(needs)}
    return [
        # Steps that targets share may make them need each other; one way of it is drawn.
        Box(label, label, needs=tuple(n for n in own if place[n] < place[label]), target=label)
        for label, own in needs.items()
    ]


# -- what the script reads ---------------------------------------------------------------


def script_data(course: Course, shown: Contents) -> dict[str, Any]:
    """Return the values that `report_page.js` reads, in its order."""
    labels = {label: n for n, label in enumerate(dict.fromkeys(s.label for s in shown.steps))}
    index = {step.node: number for number, step in enumerate(shown.steps)}
    lanes, spans = _lanes(s for s in course.spans() if s.step is None or s.step in index)
    return {
        "total": round(shown.total, 4),
        "nodes": shown.nodes,
        "labels": [safe(label) for label in labels],
        "steps": [_row(step, labels[step.label]) for step in shown.steps],
        "critical": [step.node for step in shown.critical],
        "levels": list(shown.levels),
        "lanes": lanes,
        "spans": [
            [
                lane,
                round(span.start, 6),
                round(span.end, 6),
                span.kind,
                "" if span.kind == "step" else safe(span.name),
                span.ok,
                -1 if span.step is None else index[span.step],
                safe(span.note),
                span.amount,
            ]
            for lane, span in spans
        ],
    }


def _row(step: Step, label: int) -> list[Any]:
    return [
        step.node,
        label,
        safe(step.title),
        safe(step.stage),
        safe(str(step.where)) if step.where else "",
        VERDICTS.index(step.verdict),
        None if step.began is None else round(step.began, 6),
        round(step.ended, 6),
        round(step.seconds, 6),
        step.size,
        0 if step.worker is None else step.worker + 1,
        step.short_key,
        [safe(reason) for reason in step.reasons],
        list(step.needs),
    ]


def _lanes(spans: Iterable[Span]) -> tuple[list[str], list[tuple[int, Span]]]:
    """Return the names of the rows, and for each span its row; in one row no two overlap."""
    ordered = sorted(spans, key=lambda span: (_rank(span), span.start, span.end))
    names: list[str] = []
    placed: list[tuple[int, Span]] = []
    rows: dict[int | str, list[tuple[int, float]]] = {}  # of a lane: rows, and their ends
    for span in islice(ordered, 2 * ROWS):
        mine = rows.setdefault(span.lane, [])
        for place, (row, end) in enumerate(mine):
            if end <= span.start:
                mine[place] = (row, span.end)
                placed.append((row, span))
                break
        else:
            row = len(names)
            names.append(_name(span.lane) + (f" ({len(mine) + 1})" if mine else ""))
            mine.append((row, span.end))
            placed.append((row, span))
    return names, placed


def _rank(span: Span) -> tuple[int, int, str]:
    """Order rows: who decides, the workers, what steps said, tests."""
    if isinstance(span.lane, int):
        return (1, span.lane, "")
    if span.kind == "phase" and span.lane.rpartition(" ")[2].isdigit():
        return (1, int(span.lane.rpartition(" ")[2]) - 1, span.lane)
    return (2 if span.lane else 0, 0, span.lane)


def _name(lane: int | str) -> str:
    return f"worker {lane + 1}" if isinstance(lane, int) else safe(lane) or "deciding"
