"""Knows how a build is written as JUnit's XML: a suite for each target, a case for each of its
nodes; must not know how a node runs.

A known node is a case that took no time; one that was not run is skipped. A failed command is a
`failure` with its last lines, everything else that went wrong an `error`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from msgspec import Struct

from buildgraph import events as ev
from buildgraph.cli import words
from buildgraph.cli.escape import safe
from buildgraph.cli.textfile import write_text
from buildgraph.errors import BuildFailed, BuildgraphError, InputErrors, Location

_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_OWN: Final = "buildgraph"  # the suite of what belongs to no target


class _Case(Struct):
    """One node, or what happened outside of any."""

    suite: str
    name: str
    seconds: float = 0.0
    where: Location | None = None
    inner: str = ""  # XML


class JunitReport:
    """Collects a build and writes it to `path` at its end."""

    def __init__(self, path: str):
        """Raises HostError where the file cannot be written, before anything is built."""
        self._path = path
        self._places: dict[int, Location | None] = {}
        self._cases: dict[int, _Case] = {}
        self._more: list[_Case] = []
        write_text(path, "", mode="a")

    def __call__(self, event: ev.Event) -> None:
        """Keep what matters of one event."""
        event = words.as_meant(event)
        match event:
            case ev.NodeStarted():
                self._places[event.node] = event.where
            case ev.NodeFinished():
                seconds = 0.0 if event.cached else event.seconds
                self._add(event.node, _Case(event.label, event.title, seconds))
            case ev.NodeFailed():
                case = _Case(event.label, event.title, event.seconds, event.error.where)
                case.inner = _failure(event.error)
                self._add(event.node, case)
            case ev.NodeCancelled():
                self._add(event.node, _Case(event.label, event.title, inner="<skipped/>"))
            case ev.ImageBuilt():
                self._more.append(_Case(event.label, "image"))
            case _:
                pass

    def _add(self, node: int, case: _Case) -> None:
        case.where = case.where or self._places.pop(node, None)
        self._cases[node] = case

    def failed(self, error: BuildgraphError) -> None:
        """Keep an error that belongs to no node as a case of its own."""
        for one in error.errors if isinstance(error, InputErrors) else (error,):
            name = safe(one.message)
            self._more.append(_Case(_OWN, name, where=one.where, inner=_failure(one)))

    def close(self) -> None:
        """Write the file. Raises HostError."""
        write_text(self._path, "\n".join([*self._lines(), ""]))

    def _lines(self) -> Iterator[str]:
        suites: dict[str, list[_Case]] = {}
        for case in (*self._cases.values(), *self._more):
            suites.setdefault(case.suite, []).append(case)
        yield '<?xml version="1.0" encoding="UTF-8"?>'
        yield "<testsuites>"
        for name in sorted(suites):
            cases = suites[name]
            counts = {
                kind: sum(1 for case in cases if case.inner.startswith(f"<{kind}"))
                for kind in ("failure", "error", "skipped")
            }
            yield (
                f'<testsuite name={_attribute(name)} tests="{len(cases)}" '
                f'failures="{counts["failure"]}" errors="{counts["error"]}" '
                f'skipped="{counts["skipped"]}" time="{sum(c.seconds for c in cases):.3f}">'
            )
            yield from map(_case, cases)
            yield "</testsuite>"
        yield "</testsuites>"


def _case(case: _Case) -> str:
    place = ""
    if case.where is not None:
        place = f" file={_attribute(case.where.path)}"
        if case.where.line:
            place += f' line="{case.where.line}"'
    return (
        f"<testcase classname={_attribute(case.suite)} name={_attribute(case.name)}{place} "
        f'time="{case.seconds:.3f}">{case.inner}</testcase>'
    )


def _failure(error: BuildgraphError) -> str:
    kind = "failure" if isinstance(error, BuildFailed) else "error"
    lines = [str(error)]
    if error.hint:
        lines.append(f"hint: {error.hint}")
    if isinstance(error, BuildFailed):
        lines += error.log
        if error.replay:
            lines.append(f"replay: {error.replay}")
    text = "\n".join(safe(line, newlines=True) for line in lines)
    return f"<{kind} message={_attribute(error.message)}>{escape(_NOT_XML.sub('?', text))}</{kind}>"


def _attribute(text: str) -> str:
    return quoteattr(_NOT_XML.sub("?", safe(text)))
