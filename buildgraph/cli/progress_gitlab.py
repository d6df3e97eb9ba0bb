"""Knows how the plain lines of a build become collapsible sections of GitLab's job log; must not
know what the lines say.

Steps run side by side and sections cannot overlap, so what a step wrote is shown when it ends, as
one section; a step that writes much is shown in parts. Source: GitLab's "Custom collapsible
sections".
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Final, TextIO

from buildgraph import events as ev
from buildgraph.cli.escape import safe
from buildgraph.cli.progress_plain import PlainScreen

_PART: Final = 1_000_000  # characters of one section
_ERASE: Final = "\x1b[0K"


class GitlabScreen(PlainScreen):
    """Plain lines with a section for the output of each step."""

    def __init__(self, err: TextIO, env: Mapping[str, str]):
        super().__init__(err, env)
        self._held: dict[int, list[str]] = {}
        self._sizes: dict[int, int] = {}
        self._began: dict[int, int] = {}
        self._titles: dict[int, str] = {}
        self._number = 0

    def _lines(self, event: ev.Event) -> Iterator[str]:
        lines = list(super()._lines(event))
        match event:
            case ev.NodeStarted():
                self._began[event.node] = int(time.time())
                self._titles[event.node] = f"{safe(event.label)} {safe(event.title)}"
                yield from lines
            case ev.NodeOutput():
                held = self._held.setdefault(event.node, [])
                for line in lines:
                    held.append(line)
                    self._sizes[event.node] = self._sizes.get(event.node, 0) + len(line)
                if self._sizes.get(event.node, 0) > _PART:
                    yield from self._section(event.node, collapsed=True)
            case ev.NodeFinished() | ev.NodeFailed() | ev.NodeCancelled():
                *rest, end = lines or ("",)
                self._held.setdefault(event.node, []).extend(rest)
                failed = isinstance(event, ev.NodeFailed)
                yield from self._section(event.node, collapsed=not failed)
                if end:
                    yield end
                self._began.pop(event.node, None)
                self._titles.pop(event.node, None)
            case _:
                yield from lines

    def _section(self, node: int, *, collapsed: bool) -> Iterator[str]:
        lines = self._held.pop(node, [])
        self._sizes.pop(node, None)
        if not lines:
            return
        self._number += 1
        name = f"buildgraph_{self._number}"
        begun = self._began.get(node, int(time.time()))
        mark = "[collapsed=true]" if collapsed else ""
        title = self._titles.get(node, f"#{node}")
        yield f"{_ERASE}section_start:{begun}:{name}{mark}\r{_ERASE}{title}"
        yield from lines
        yield f"{_ERASE}section_end:{int(time.time())}:{name}\r{_ERASE}"
        self._began[node] = int(time.time())
