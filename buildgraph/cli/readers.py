"""Knows that a build is read by programs beside the person who watches it, and who they are; must
not know what any of them writes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TextIO

from msgspec import Struct

from buildgraph.cli.screen import Screen
from buildgraph.errors import BuildgraphError, InputError
from buildgraph.events import Event, NodeFailed

if TYPE_CHECKING:
    from buildgraph.cli.lint_report import Finding
    from buildgraph.engine.smoke.report import SmokeReport


class ReaderFiles(Struct, frozen=True):
    """Where the command line wants what to be written; None: nowhere."""

    events: str | None = None
    junit: str | None = None
    profile: str | None = None
    report: str | None = None

    @property
    def named(self) -> list[str]:
        """The flags that were given."""
        return [f"--{name}" for name in self.__struct_fields__ if getattr(self, name) is not None]


_NO_FILES = ReaderFiles()


class Reader(Protocol):
    """Takes in what happens and makes something of it when it is closed.

    Calls come one at a time and never raise; whoever makes one closes it, once.
    """

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        ...

    def failed(self, error: BuildgraphError) -> None:
        """Take in what ended the command outside of any node."""
        ...

    def close(self) -> None:
        """Write what is to be written. Raises HostError where that cannot be done."""
        ...


class Readers:
    """A screen and the readers beside it; is a screen itself."""

    def __init__(self, screen: Screen, readers: Sequence[Reader]):
        self._screen = screen
        self._readers = readers
        self._lock = threading.Lock()
        self._failures: list[BuildgraphError] = []
        self._closed = False

    def __call__(self, event: Event) -> None:
        """Show one event and pass it on."""
        self._screen(event)
        with self._lock:
            if isinstance(event, NodeFailed):
                self._failures.append(event.error)
            for reader in self._readers:
                reader(event)

    def failed(self, error: BuildgraphError) -> None:
        """Tell the readers what ended the command, each error once."""
        if not any(error is known for known in self._failures):
            self._failures.append(error)
            for reader in self._readers:
                reader.failed(error)

    def findings(self, found: Iterable[Finding]) -> None:
        """Tell readers that want to know what the checks have found."""
        for reader in self._readers:
            take = getattr(reader, "findings", None)
            if take is not None:
                take(found)

    def tests(self, reports: Iterable[SmokeReport]) -> None:
        """Tell readers that want to know what came of the tests, in full."""
        for reader in self._readers:
            take = getattr(reader, "tests", None)
            if take is not None:
                take(reports)

    @property
    def want_findings(self) -> bool:
        """Say whether `findings` is worth its work."""
        return any(hasattr(reader, "findings") for reader in self._readers)

    def close(self) -> None:
        """Close the screen; idempotent. The readers are closed by `finish`."""
        self._screen.close()

    def has_shown(self, error: BuildgraphError) -> bool:
        """Say what the screen says."""
        return self._screen.has_shown(error)

    def finish(self) -> None:
        """Close the readers, once everything is known; idempotent. Raises HostError."""
        if self._closed:
            return
        self._closed = True
        trouble: BuildgraphError | None = None
        for reader in self._readers:
            try:
                reader.close()
            except BuildgraphError as error:
                trouble = error
        if trouble is not None:
            raise trouble


def open_readers(
    screen: Screen,
    env: Mapping[str, str],
    err: TextIO,
    files: ReaderFiles = _NO_FILES,
    *,
    cwd: str = ".",
) -> Readers:
    """Return a screen with the readers that the command line and the environment ask for.

    Raises InputError, HostError where a file cannot be written.
    """
    for name in ("profile", "report"):
        if getattr(files, name) == "-":
            raise InputError(f"--{name} - : give a file")
    readers: list[Reader] = []
    if files.events is not None:
        from buildgraph.cli.events_file import EventsFile

        readers.append(EventsFile(files.events))
    if files.junit is not None:
        from buildgraph.cli.report_junit import JunitReport

        readers.append(JunitReport(files.junit))
    if files.profile is not None or files.report is not None:
        readers.append(_course_files(files))
    if env.get("GITHUB_ACTIONS") == "true":
        from buildgraph.cli.github import GithubReader

        readers.append(GithubReader(err, env, cwd))
    return Readers(screen, readers)


def _course_files(files: ReaderFiles) -> Reader:
    """Return what follows a build once for all files about its course."""
    from buildgraph.cli.course import Course, CourseAndFindings, CourseFiles

    wanted: list[tuple[str, Callable[[Course], Iterable[str]]]] = []
    if files.profile is not None:
        from buildgraph.cli.report_trace import trace

        wanted.append((files.profile, trace))
    if files.report is None:
        return CourseFiles(wanted)
    from buildgraph.cli.report_page import page

    return CourseAndFindings([*wanted, (files.report, page)])
