"""Knows how a build is told as lines of text, for logs and pipes; must not know how a live view
looks.

    #3 //app:image FROM base CACHED
    #12 //app:image RUN make
    #12 0.4 cc -c main.c
    #12 //app:image RUN make DONE 3.2s

The number is the node's, so that lines of steps that run side by side can be told apart.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Final, TextIO

from buildgraph import events as ev
from buildgraph.cli import words
from buildgraph.cli.console import render_error, wants_color
from buildgraph.cli.escape import LineSplitter, clip, no_commands, safe, safe_bytes
from buildgraph.cli.writer import Writer
from buildgraph.errors import BuildgraphError

CACHED_LINES: Final = 500  # hits shown one by one; of a large graph the number says more
_ENDED: Final = 100  # columns of a title where its step ends
_PROGRESS_EVERY: Final = 5.0  # seconds between two lines about one transfer

_RED, _GREEN, _YELLOW, _DIM = "31", "32", "33", "2"


class Ending:
    """Collects what is said at the end of a build: failures in full, counts.

    What was made, a command says itself: its last words stand on stdout, also when a build that
    changes nothing is answered without events.
    """

    def __init__(self, color: bool, env: Mapping[str, str]):
        self._color = color
        self._env = env
        self._failures: list[BuildgraphError] = []
        self._finished: ev.BuildFinished | None = None
        self._said = False

    def add(self, event: ev.Event) -> None:
        """Keep what matters at the end."""
        if isinstance(event, ev.NodeFailed):
            if not any(event.error is known for known in self._failures):
                self._failures.append(event.error)
        elif isinstance(event, ev.BuildFinished):
            self._finished = event

    def has_shown(self, error: BuildgraphError) -> bool:
        """Say whether `text` has had this error."""
        return self._said and any(error is known for known in self._failures)

    def failures(self) -> str:
        """Return the reports of all failures."""
        self._said = True
        return "\n".join(render_error(error, self._color, self._env) for error in self._failures)

    def summary(self) -> str:
        """Return the counts, "" where the build did not come to its end."""
        if self._finished is None:
            return ""
        lines = list(words.critical_path(self._finished)) if self._finished.ok else []
        lines.append(words.counts(self._finished))
        return "".join(f"{no_commands(line)}\n" for line in lines)

    def text(self) -> str:
        """Return everything: failures first, the counts last, where the eye is."""
        failures, summary = self.failures(), self.summary()
        return f"\n{failures}\n{summary}" if failures else summary


class PlainScreen:
    """Writes one line per event, and every line a step prints."""

    def __init__(self, err: TextIO, env: Mapping[str, str]):
        self._color = wants_color(err, env)
        self._writer = Writer(err)
        self._ending = Ending(self._color, env)
        self._lock = threading.Lock()
        self._closed = False
        self._splitters: dict[int, LineSplitter] = {}
        self._since: dict[int, float] = {}
        self._told: dict[int, float] = {}
        self._hits = 0

    def __call__(self, event: ev.Event) -> None:
        """Write the lines of one event."""
        with self._lock:
            if self._closed:
                return
            event = words.as_meant(event)
            self._ending.add(event)
            for line in self._lines(event):
                self._writer.write(
                    no_commands(line) + "\n", essential=not isinstance(event, ev.NodeOutput)
                )

    def close(self) -> None:
        """Write the ending, and wait for a reader that reads."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._hits > CACHED_LINES:
                self._writer.write(f"{self._hits - CACHED_LINES:,} more were CACHED\n")
            self._writer.write(self._ending.text())
        self._writer.close()

    def has_shown(self, error: BuildgraphError) -> bool:
        """Say whether the ending had this error."""
        return self._ending.has_shown(error)

    def _lines(self, event: ev.Event) -> Iterator[str]:
        match event:
            case ev.BuildStarted():
                yield _opening(event)
            case ev.NodeStarted():
                yield from self._started(event)
            case ev.NodeOutput():
                splitter = self._splitters.setdefault(event.node, LineSplitter())
                yield from self._output(event.node, event.time, splitter.feed(event.data))
            case ev.NodeProgress():
                yield from self._progress(event)
            case ev.NodeFinished() | ev.NodeFailed():
                yield from self._rest(event.node, event.time)
                yield from self._ended(event)
            case ev.NodeCancelled():
                if event.node in self._since:  # of those that never began, the count says enough
                    yield from self._rest(event.node, event.time)
                    yield self._node(event, self._paint(_YELLOW, "CANCELLED"))
            case ev.Notice():
                yield notice(event)
            case ev.SmokeStarted() | ev.SmokeNote() | ev.CheckFinished() | ev.SmokeFinished():
                yield from self._smoke(event)
            case _:
                pass  # the ending's, or the command's

    def _smoke(
        self, event: ev.SmokeStarted | ev.SmokeNote | ev.CheckFinished | ev.SmokeFinished
    ) -> Iterator[str]:
        label = safe(event.label)
        if isinstance(event, ev.SmokeStarted):
            yield f"{label} {words.smoke_title(event)}"
            if event.reason:
                yield self._paint(_DIM, f"{label} because {safe(event.reason)}")
            return
        good, text = words.smoke_line(event)
        quiet = good and isinstance(event, ev.SmokeNote)
        yield f"{label} " + (text if quiet else self._paint(_GREEN if good else _RED, text))

    def _started(self, event: ev.NodeStarted) -> Iterator[str]:
        self._since[event.node] = event.time
        yield self._node(event, "")
        if event.reason:
            yield self._paint(_DIM, f"#{event.node} because {safe(event.reason)}")

    def _ended(self, event: ev.NodeFinished | ev.NodeFailed) -> Iterator[str]:
        if isinstance(event, ev.NodeFailed):
            mark = f"FAILED {words.seconds(event.seconds)}"
            yield self._node(event, self._paint(_RED, mark))
        elif not event.cached:
            size = f" {words.size(event.size)}" if event.size else ""
            mark = f"DONE {words.seconds(event.seconds)}{size}"
            yield self._node(event, self._paint(_GREEN, mark))
        else:
            self._hits += 1
            if self._hits <= CACHED_LINES:
                yield self._node(event, self._paint(_GREEN, "CACHED"))

    def _node(
        self, event: ev.NodeStarted | ev.NodeFinished | ev.NodeFailed | ev.NodeCancelled, mark: str
    ) -> str:
        title = safe(event.title)
        if mark and not (isinstance(event, ev.NodeFinished) and event.cached):
            title = clip(title, _ENDED)  # it stands in full where the step began
        return f"#{event.node} {safe(event.label)} {title} {mark}".rstrip()

    def _output(self, node: int, time: float, lines: list[bytes]) -> Iterator[str]:
        after = time - self._since.get(node, time)
        for line in lines:
            yield f"#{node} {after:.1f} {safe_bytes(line, color=self._color)}"

    def _progress(self, event: ev.NodeProgress) -> Iterator[str]:
        whole = event.total and event.done >= event.total
        if event.time - self._told.get(event.node, -_PROGRESS_EVERY) >= _PROGRESS_EVERY or whole:
            self._told[event.node] = event.time
            yield f"#{event.node} {words.progress(event.text, event.done, event.total)}"

    def _rest(self, node: int, time: float) -> Iterator[str]:
        splitter = self._splitters.pop(node, None)
        if splitter is not None:
            yield from self._output(node, time, splitter.flush())
        self._since.pop(node, None)
        self._told.pop(node, None)

    def _paint(self, style: str, text: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._color else text


class QuietScreen:
    """Says nothing but what went wrong."""

    def __init__(self, err: TextIO, env: Mapping[str, str]):
        self._err = Writer(err)
        self._ending = Ending(wants_color(err, env), env)
        self._lock = threading.Lock()
        self._closed = False

    def __call__(self, event: ev.Event) -> None:
        """Keep what is said at the end; a warning is said at once."""
        with self._lock:
            if self._closed:
                return
            event = words.as_meant(event)
            self._ending.add(event)
            if isinstance(event, ev.Notice) and event.level == "warning":
                self._err.write(no_commands(notice(event)) + "\n")

    def close(self) -> None:
        """Write the failures."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._err.write(self._ending.failures())
        self._err.close()

    def has_shown(self, error: BuildgraphError) -> bool:
        """Say whether `close` has written this error."""
        return self._ending.has_shown(error)


def notice(event: ev.Notice) -> str:
    """Return a notice as one line."""
    place = f" ({safe(str(event.where))})" if event.where else ""
    return f"{safe(event.level)}: {safe(event.text)}{place}"


def _opening(event: ev.BuildStarted) -> str:
    names = " ".join(safe(target) for target in event.targets[:3])
    if len(event.targets) > 3:
        names += f" and {len(event.targets) - 3:,} more"
    return f"building {names or 'nothing'}: {words.plural(event.nodes, 'node')}"
