"""Knows the course of a build once it is over: what became of each step, who was busy with what
from when to when; must not know who wants to know.

Of each step the one event that ended it is kept, which others have made already, so that of
100,000 steps no second copy is held; of output, only what a step that failed wrote last.
"""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct, field

from buildgraph import events as ev
from buildgraph.cli import words
from buildgraph.cli.escape import LineSplitter, safe, safe_bytes
from buildgraph.cli.textfile import check_writable, replace_text
from buildgraph.errors import BuildgraphError, Interrupted, Location
from buildgraph.transport.urls import strip_logins

if TYPE_CHECKING:
    from buildgraph.cli.lint_report import Finding
    from buildgraph.engine.smoke.report import SmokeReport

Verdict = Literal["hit", "built", "failed", "stopped", "skipped"]
End = ev.NodeFinished | ev.NodeFailed | ev.NodeCancelled
Outcome = Literal["passed", "failed", "interrupted"]

_LOG_BYTES: Final = 128 * 1024  # of each step that runs; all but those of failures are dropped
_LOG_LINES: Final = 400
_KEPT: Final = 5_000  # notices, phases, notes of services, checks
_COUNTER: Final = re.compile(r" *\(\d+/\d+\)$")  # "configuring (3/14)" is one phase


class Step(Struct, frozen=True):
    """What became of one node. Times are seconds since the command began."""

    node: int
    label: str
    title: str
    stage: str
    where: Location | None
    verdict: Verdict
    reasons: tuple[str, ...]
    needs: tuple[int, ...]
    key: str = ""
    size: int = 0
    seconds: float = 0.0  # of the work itself; of a hit what it took back then
    worker: int | None = None  # None: the thread that decides, or nobody
    began: float | None = None  # None: it was never taken up
    ended: float = 0.0

    @property
    def short_key(self) -> str:
        """What is enough of the key to tell it from others."""
        return self.key.removeprefix("sha256:")[:12]


class Span(Struct, frozen=True):
    """Somebody was busy: a thread with `step`, or with what `name` says.

    `lane` is the number of a worker, "" for the thread that decides, else the name of a row;
    `step` is the node of a step, or of the one whose phase it is.
    """

    lane: int | str
    start: float
    end: float
    name: str
    kind: Literal["step", "prepare", "image", "test", "check", "service", "phase"]
    ok: bool = True
    step: int | None = None
    amount: int = 0  # bytes
    note: str = ""


class _Phase(Struct):
    """What a node said it was doing: a transfer with its bytes, or a part of its work."""

    first: float
    last: float
    done: int = 0


class Course(Struct):
    """Takes in events; afterwards says what happened."""

    command: str = field(default_factory=lambda: command_line(sys.argv[1:]))
    wall: float = field(default_factory=time.time)  # seconds since 1970
    opening: ev.BuildStarted | None = None
    finished: ev.BuildFinished | None = None
    time: float = 0.0  # of the last event
    ends: dict[int, End] = field(default_factory=dict)
    images: list[ev.ImageBuilt] = field(default_factory=list)
    smokes: list[ev.SmokeFinished] = field(default_factory=list)
    notes: deque[ev.SmokeStarted | ev.SmokeNote | ev.CheckFinished] = field(
        default_factory=lambda: deque(maxlen=_KEPT)
    )
    notices: deque[ev.Notice] = field(default_factory=lambda: deque(maxlen=_KEPT))
    errors: list[BuildgraphError] = field(default_factory=list)  # that belong to no node
    findings: list[Finding] = field(default_factory=list)
    reports: list[SmokeReport] = field(default_factory=list)
    _running: dict[int, ev.NodeStarted] = field(default_factory=dict)
    _logs: dict[int, deque[bytes]] = field(default_factory=dict)
    _phases: dict[tuple[int, str], _Phase] = field(default_factory=dict)
    _open: dict[int, _Phase] = field(default_factory=dict)  # ends when something else is said

    def __call__(self, event: ev.Event) -> None:  # noqa: C901 - a list of kinds
        """Keep what matters of one event."""
        self.time = max(self.time, event.time)
        event = words.as_meant(event)
        match event:
            case ev.BuildStarted():
                self.opening = event
            case ev.NodeStarted():
                self._running[event.node] = event
            case ev.NodeOutput():
                self._output(event)
            case ev.NodeProgress():
                self._progress(event)
            case ev.NodeFinished() | ev.NodeFailed() | ev.NodeCancelled():
                self._ended(event)
            case ev.Notice():
                self.notices.append(event)
            case ev.ImageBuilt():
                self.images.append(event)
            case ev.SmokeFinished():
                self.smokes.append(event)
            case ev.SmokeStarted() | ev.SmokeNote() | ev.CheckFinished():
                self.notes.append(event)
            case ev.BuildFinished():
                self.finished = event

    def failed(self, error: BuildgraphError) -> None:
        """Keep what ended the command outside of any node."""
        self.errors.append(error)

    # -- while it goes on --------------------------------------------------------------------

    def _output(self, event: ev.NodeOutput) -> None:
        kept = self._logs.setdefault(event.node, deque())
        kept.append(event.data[-_LOG_BYTES:])
        if len(kept) > 1 and sum(map(len, kept)) > 2 * _LOG_BYTES:
            whole = b"".join(kept)[-_LOG_BYTES:]
            kept.clear()
            kept.append(whole)

    def _progress(self, event: ev.NodeProgress) -> None:
        if (before := self._open.pop(event.node, None)) is not None:
            before.last = event.time
        place = (event.node, _COUNTER.sub("", event.text))
        phase = self._phases.get(place)
        if phase is None:
            if len(self._phases) >= _KEPT:
                return
            phase = self._phases[place] = _Phase(event.time, event.time)
        phase.last = event.time
        phase.done = max(phase.done, event.done)
        if not phase.done:
            self._open[event.node] = phase

    def _ended(self, event: End) -> None:
        self.ends[event.node] = event
        if (phase := self._open.pop(event.node, None)) is not None:
            phase.last = event.time
        if not isinstance(event, ev.NodeFailed):
            self._logs.pop(event.node, None)
        if not isinstance(event, ev.NodeCancelled):
            self._running.pop(event.node, None)  # of a cancelled one, it says who was at it

    # -- afterwards --------------------------------------------------------------------------

    @property
    def outcome(self) -> Outcome:
        """How it ended; a command that was not let finish is interrupted."""
        ends = (end for end in self.ends.values() if isinstance(end, ev.NodeFailed))
        errors = [*self.errors, *(end.error for end in ends)]
        if any(not isinstance(error, Interrupted) for error in errors):
            return "failed"
        if any(not smoke.ok for smoke in self.smokes):
            return "failed"
        if errors or self.finished is None or not self.finished.ok:
            return "interrupted"
        return "passed"

    def steps(self) -> Iterator[Step]:
        """Yield what became of each node, by number; made anew each time, so not to be kept."""
        for node in sorted({*self.ends, *self._running}):
            yield self.step(node)

    def step(self, node: int) -> Step:
        """Return what became of a node. Raises KeyError for one that nothing was told of."""
        event = self.ends.get(node)
        begun = self._running.get(node)
        if event is None or (isinstance(event, ev.NodeCancelled) and begun is not None):
            assert begun is not None
            return self._stopped(begun, self.time if event is None else event.time)
        if isinstance(event, ev.NodeCancelled):
            return Step(
                node, event.label, event.title, event.stage, event.where, "skipped",
                (self._why_skipped(event),), event.needs, ended=event.time,
            )  # fmt: skip
        failed = isinstance(event, ev.NodeFailed)
        where = event.error.where if isinstance(event, ev.NodeFailed) else event.where
        verdict: Verdict = "failed" if failed else "hit" if event.cached else "built"  # type: ignore[union-attr]
        began = event.time - event.seconds if event.began is None else event.began
        ended = event.time
        if failed and self.opening is not None and node >= self.opening.nodes:
            ended = began + event.seconds  # what is delivered is told of when all else has ended
        return Step(
            node,
            event.label,
            event.title,
            event.stage,
            where,
            verdict,
            event.reasons,
            tuple(dict.fromkeys(event.needs)),
            event.key,
            event.size if isinstance(event, ev.NodeFinished) else 0,
            event.seconds,
            event.worker,
            max(0.0, began),
            ended,
        )

    def _why_skipped(self, event: ev.NodeCancelled) -> str:
        below = [self.ends.get(need) for need in event.needs]
        if any(isinstance(end, ev.NodeFailed) for end in below):
            return "a step it stands on failed"
        if any(isinstance(end, ev.NodeCancelled) for end in below):
            return "a step it stands on was not run"
        return "the build was stopped"

    def _stopped(self, begun: ev.NodeStarted, ended: float) -> Step:
        began = begun.time if begun.began is None else begun.began
        reasons = (begun.reason,) if begun.reason else ()
        return Step(
            begun.node,
            begun.label,
            begun.title,
            begun.stage,
            begun.where,
            "stopped",
            reasons,
            tuple(dict.fromkeys(begun.needs)),
            seconds=ended - begun.time,
            worker=begun.worker,
            began=began,
            ended=ended,
        )

    def failures(self) -> Iterator[tuple[Step | None, BuildgraphError]]:
        """Yield what went wrong, each error once, with its step where it has one."""
        seen: set[int] = set()
        for event in self.ends.values():
            if isinstance(event, ev.NodeFailed):
                seen.add(id(event.error))
                yield self.step(event.node), event.error
        for error in self.errors:
            if id(error) not in seen and not isinstance(error, Interrupted):
                yield None, error

    def log(self, node: int) -> list[str]:
        """Return the last lines that a failed step wrote, so that nobody obeys them."""
        splitter = LineSplitter()
        lines = splitter.feed(b"".join(self._logs.get(node, ())))
        lines += splitter.flush()
        return [safe_bytes(line) for line in lines[-_LOG_LINES:]]

    def spans(self) -> Iterator[Span]:
        """Yield who was busy with what; of one worker no two overlap."""
        begun = self.time if self.opening is None else self.opening.time
        lane: int | str = ""
        yield Span(lane, 0.0, begun, "prepare", "prepare")
        for step in self.steps():
            if step.began is not None:
                lane = "" if step.worker is None else step.worker
                ok = step.verdict not in ("failed", "stopped")
                yield Span(lane, step.began, step.ended, step.title, "step", ok, step.node)
        for image in self.images:
            if image.began is not None:
                lane = "" if image.worker is None else image.worker
                yield Span(lane, image.began, image.time, image.label, "image", amount=image.size)
        for test in self.smokes:
            if test.began is not None:
                lane = "" if test.worker is None else test.worker
                yield Span(lane, test.began, test.time, test.label, "test", test.ok)
        for (node, text), phase in self._phases.items():
            event = self.ends.get(node) or self._running.get(node)
            worker = None if event is None or isinstance(event, ev.NodeCancelled) else event.worker
            if worker is None and node in self._running:
                worker = self._running[node].worker
            lane = "phases" if worker is None else f"phases of worker {worker + 1}"
            last = self.time if self._open.get(node) is phase else phase.last
            note = event.label if event is not None else ""
            yield Span(
                lane, phase.first, last, text, "phase", step=node, amount=phase.done, note=note
            )
        yield from self._containers()

    def _containers(self) -> Iterator[Span]:
        """Yield the checks of tests and the lives of their services."""
        up: dict[tuple[str, str], list[float]] = {}
        ends = {smoke.label: smoke.time for smoke in self.smokes}
        for event in self.notes:
            if isinstance(event, ev.CheckFinished):
                start = max(0.0, event.time - event.seconds)
                lane = f"{event.label} checks"
                note = "; ".join(event.complaints)
                yield Span(lane, start, event.time, event.check, "check", event.ok, note=note)
            elif isinstance(event, ev.SmokeNote):
                place = (event.label, event.service)
                if event.text == "started":
                    up.setdefault(place, []).append(event.time)
                elif event.text != "healthy" and up.get(place):
                    yield _service(place, up[place].pop(0), event.time, event.text)
            else:  # another run of the test: those of the one before are gone
                for place in [place for place in up if place[0] == event.label]:
                    yield from (_service(place, t, event.time, "") for t in up.pop(place))
        for place, starts in up.items():
            end = ends.get(place[0], self.time)
            yield from (_service(place, start, max(start, end), "") for start in starts)


class CourseFiles:
    """Takes in a build and writes files about its course at its end, each whole or not at all."""

    def __init__(self, files: Sequence[tuple[str, Callable[[Course], Iterable[str]]]]):
        """Take (path, what is written there). Raises HostError where a file cannot be written."""
        for path, _ in files:
            check_writable(path)
        self._files = files
        self._course = Course()

    def __call__(self, event: ev.Event) -> None:
        """Keep what matters of one event."""
        self._course(event)

    def failed(self, error: BuildgraphError) -> None:
        """Keep an error that belongs to no node."""
        self._course.failed(error)

    def close(self) -> None:
        """Write each file that can be written. Raises HostError where one cannot."""
        trouble: BuildgraphError | None = None
        for path, text in self._files:
            try:
                replace_text(path, text(self._course))
            except BuildgraphError as error:
                trouble = error
        if trouble is not None:
            raise trouble


class CourseAndFindings(CourseFiles):
    """Does so for files that also tell what the checks have found and what came of the tests."""

    def findings(self, found: Iterable[Finding]) -> None:
        """Keep what the checks have found."""
        self._course.findings += found

    def tests(self, reports: Iterable[SmokeReport]) -> None:
        """Keep what came of the tests."""
        self._course.reports += reports


def _service(place: tuple[str, str], start: float, end: float, note: str) -> Span:
    return Span(f"{place[0]} {place[1]}", start, end, place[1], "service", note=note)


def busiest(steps: Iterable[Step]) -> list[int]:
    """Return the nodes of the chain that took longest in this build, first to last.

    `steps` come in the order of their numbers, so each after what it needs.
    """
    best: dict[int, float] = {}
    before: dict[int, int | None] = {}
    spent: dict[int, float] = {}
    for step in steps:
        own = step.seconds if step.verdict in ("built", "failed", "stopped") else 0.0
        first = max((n for n in step.needs if n in best), key=best.__getitem__, default=None)
        before[step.node] = first
        best[step.node] = own + (0.0 if first is None else best[first])
        if own:
            spent[step.node] = own
    at = max(best, key=best.__getitem__, default=None)
    path: list[int] = []
    while at is not None:
        path.append(at)
        at = before[at]
    return [node for node in reversed(path) if node in spent]


def command_line(words_given: Iterable[str]) -> str:
    """Return what was typed, without the logins of its URLs."""
    return safe("buildgraph " + shlex.join(map(strip_logins, words_given)))
