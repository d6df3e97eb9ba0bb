"""Knows how a build is written in Chrome's trace format, which Perfetto, speedscope and
chrome://tracing open; must not know how a step runs.

A row for each worker, one for the thread that decides, one for the checks of each test. A step is
a complete event ("X") with what is known of it in `args`; arrows ("s", "f") lead to a step from
those it stands on, where both took time; a counter ("C") says how many workers were busy.
Phases of steps, as transfers, and containers of tests overlap, so they are asynchronous ("b", "e").
Times are microseconds since the command began, and rise. Source: "Trace Event Format", Google.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct

from buildgraph import __version__
from buildgraph import events as ev
from buildgraph.cli.course import Course, Span, Step
from buildgraph.cli.escape import safe

_PROCESS: Final = 1
_DECIDING: Final = 0  # the row of the thread that decides; worker N has row N + 1
_TESTS: Final = 10_000  # the first row of a test's checks
_ASIDE: Final = ("phase", "service")

_Row = dict[str, Any]
_Took = tuple[int, int, int]  # start, end, row


def trace(course: Course) -> Iterator[str]:
    """Yield the text of a trace, an event a line."""
    yield '{"displayTimeUnit":"ms","otherData":' + _json(_about(course)) + ',"traceEvents":[\n'
    separator = ""
    for row in _rows(course):
        yield separator + _json(row)
        separator = ",\n"
    yield "\n]}\n"


def _about(course: Course) -> _Row:
    return {
        "program": f"buildgraph {__version__}",
        "command": course.command,
        "started": round(course.wall, 3),
        "outcome": course.outcome,
        "targets": list(course.opening.targets) if course.opening else [],
        "errors": [safe(str(error)) for _, error in course.failures()],
    }


def _rows(course: Course) -> Iterator[_Row]:
    spans = sorted(course.spans(), key=lambda span: (span.start, span.end))
    tests = dict.fromkeys(str(span.lane) for span in spans if span.kind == "check")
    places = {name: _TESTS + number for number, name in enumerate(tests)}
    yield from _names(course, {span.lane for span in spans}, places)
    # What is sorted becomes rows as it is written: 100,000 rows are more than the build took.
    timed: list[tuple[int, int, Span | _Arrow | int | _Row]] = []
    took: dict[int, _Took] = {}
    for number, span in enumerate(spans):
        if span.kind in _ASIDE:
            timed += [(row["ts"], 1, row) for row in _aside(span, number)]
        else:
            timed.append((_us(span.start), 0, span))
        if span.kind == "step" and span.step is not None and _took_time(course, span.step):
            took[span.step] = (_us(span.start), _us(span.end), _row_of(span, places))
    for node in took:
        timed += [(arrow.at, 2, arrow) for arrow in _arrows(course.step(node), took)]
    timed += [(at, 3, busy) for at, busy in _busy(spans)]
    timed += [(_us(notice.time), 4, _notice(notice)) for notice in course.notices]
    timed.sort(key=lambda each: each[:2])
    for at, _, what in timed:
        if isinstance(what, Span):
            yield _complete(course, what, _row_of(what, places))
        elif isinstance(what, int):
            yield _counter(at, what)
        else:
            yield _arrow(what) if isinstance(what, _Arrow) else what


def _names(course: Course, lanes: set[int | str], places: dict[str, int]) -> Iterator[_Row]:
    yield _meta("process_name", {"name": course.command})
    rows = {_DECIDING: "deciding"}
    rows |= {n + 1: f"worker {n + 1}" for n in sorted(n for n in lanes if isinstance(n, int))}
    rows |= {place: name for name, place in places.items()}
    for row, name in rows.items():
        yield _meta("thread_name", {"name": safe(name)}, row)
        yield _meta("thread_sort_index", {"sort_index": row}, row)


def _took_time(course: Course, node: int) -> bool:
    return course.step(node).verdict != "hit"


def _notice(notice: ev.Notice) -> _Row:
    return {
        "ph": "i",
        "s": "p",
        "name": safe(notice.text),
        "cat": safe(notice.level),
        "ts": _us(notice.time),
        "pid": _PROCESS,
        "tid": _DECIDING,
    }


def _meta(name: str, args: _Row, row: int = _DECIDING) -> _Row:
    return {"ph": "M", "name": name, "pid": _PROCESS, "tid": row, "ts": 0, "args": args}


def _row_of(span: Span, places: dict[str, int]) -> int:
    return span.lane + 1 if isinstance(span.lane, int) else places.get(span.lane, _DECIDING)


def _complete(course: Course, span: Span, row: int) -> _Row:
    start = _us(span.start)
    step = None if span.step is None else course.step(span.step)
    args: _Row = {"bytes": span.amount} if span.amount else {}
    if step is not None:
        args = _args(step)
    elif not span.ok:
        args["ok"] = False
    if span.note:
        args["note"] = safe(span.note)
    return {
        "ph": "X",
        "name": safe(span.name),
        "cat": span.kind if step is None else f"step,{step.verdict}",
        "ts": start,
        "dur": _us(span.end) - start,
        "pid": _PROCESS,
        "tid": row,
        "args": args,
    }


def _args(step: Step) -> _Row:
    args: _Row = {"node": step.node, "target": safe(step.label), "verdict": step.verdict}
    if step.where is not None:
        args["where"] = safe(str(step.where))
    if step.stage:
        args["stage"] = safe(step.stage)
    if step.key:
        args["key"] = step.short_key
    if step.reasons:
        args["because"] = [safe(reason) for reason in step.reasons]
    if step.size:
        args["bytes"] = step.size
    if step.verdict == "hit":
        args["took_before_s"] = round(step.seconds, 3)
    elif step.began is not None:
        # What came before the work: the key, the look-up, a wait for somebody who builds the same.
        args["before_it_ran_ms"] = round(max(0.0, step.ended - step.began - step.seconds) * 1000, 1)
    return args


class _Arrow(Struct, frozen=True):
    """One end of an arrow."""

    at: int
    node: int
    place: int  # among what the node needs
    row: int
    ends: bool


def _arrows(step: Step, took: dict[int, _Took]) -> Iterator[_Arrow]:
    """Yield an arrow from each step that it stands on and that took time."""
    start, _, row = took[step.node]
    for place, need in enumerate(step.needs):
        if need in took:
            from_start, from_end, from_row = took[need]
            leaves = max(from_start, from_end - 1)  # inside of the step it leaves
            yield _Arrow(leaves, step.node, place, from_row, False)
            yield _Arrow(max(start, leaves), step.node, place, row, True)


def _arrow(arrow: _Arrow) -> _Row:
    ends: _Row = {"ph": "f", "bp": "e"} if arrow.ends else {"ph": "s"}
    return ends | {
        "name": "needs",
        "cat": "needs",
        "id": f"{arrow.node}.{arrow.place}",
        "ts": arrow.at,
        "pid": _PROCESS,
        "tid": arrow.row,
    }


def _aside(span: Span, number: int) -> Iterator[_Row]:
    head = {
        "name": safe(span.name),
        "cat": safe(span.lane) if span.kind == "service" else span.kind,  # type: ignore[arg-type]
        "id": str(number),
        "pid": _PROCESS,
        "tid": _DECIDING,
    }
    args: _Row = {"bytes": span.amount} if span.amount else {}
    if span.note:
        args["note"] = safe(span.note)
    yield head | {"ph": "b", "ts": _us(span.start), "args": args}
    yield head | {"ph": "e", "ts": _us(span.end)}


def _busy(spans: list[Span]) -> Iterator[tuple[int, int]]:
    """Yield how many workers are busy, each time that changes."""
    changes: dict[int, int] = {}
    for span in spans:
        if isinstance(span.lane, int):
            start, end = _us(span.start), _us(span.end)
            changes[start] = changes.get(start, 0) + 1
            changes[end] = changes.get(end, 0) - 1
    busy = 0
    for at in sorted(changes):
        if changes[at]:
            busy += changes[at]
            yield at, busy


def _counter(at: int, busy: int) -> _Row:
    return {
        "ph": "C",
        "name": "busy workers",
        "ts": at,
        "pid": _PROCESS,
        "tid": _DECIDING,
        "args": {"workers": busy},
    }


def _us(seconds: float) -> int:
    return max(0, round(seconds * 1_000_000))


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
