"""Knows what GitHub's runners are told of a build: annotations at the lines it is about, and a
summary of the step; must not know how a build goes.

Annotations go where people read, behind everything that was shown; a runner shows ten of a kind,
so failures come first. Source: "Workflow commands" of the runner's documentation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, TextIO

from buildgraph import events as ev
from buildgraph.boxfile.files import find_root
from buildgraph.cli import words
from buildgraph.cli.escape import no_commands, safe
from buildgraph.cli.report_github import annotation, prefix_of
from buildgraph.errors import BuildFailed, BuildgraphError, HostError, InputErrors, Location

if TYPE_CHECKING:
    from buildgraph.cli.lint_report import Finding

_ANNOTATIONS: Final = 50
_LOG_LINES: Final = 20
_SUMMARY_CHARACTERS: Final = 256 * 1024  # a runner takes 1 MiB of a step
_ROWS: Final = 200
_NOWHERE: Final = Location("")


class GithubReader:
    """Collects a build; writes annotations to `err` and the summary at its end."""

    def __init__(self, err: TextIO, env: Mapping[str, str], cwd: str):
        self._err = err
        self._summary = env.get("GITHUB_STEP_SUMMARY", "")
        self._prefix = prefix_of(find_root(cwd) or cwd, env)
        self._failures: list[tuple[str, str, BuildgraphError]] = []  # label, title, error
        self._images: list[ev.ImageBuilt] = []
        self._checks: list[tuple[str, ev.CheckFinished]] = []
        self._smokes: list[ev.SmokeFinished] = []
        self._findings: list[Finding] = []
        self._finished: ev.BuildFinished | None = None

    def __call__(self, event: ev.Event) -> None:
        """Keep what matters of one event."""
        event = words.as_meant(event)
        match event:
            case ev.NodeFailed():
                self._failures.append((event.label, event.title, event.error))
            case ev.ImageBuilt():
                self._images.append(event)
            case ev.CheckFinished() if not event.ok:
                self._checks.append((event.label, event))
            case ev.SmokeFinished():
                self._smokes.append(event)
            case ev.BuildFinished():
                self._finished = event
            case _:
                pass

    def failed(self, error: BuildgraphError) -> None:
        """Keep an error that belongs to no node."""
        for one in error.errors if isinstance(error, InputErrors) else (error,):
            self._failures.append(("", "buildgraph", one))

    def findings(self, found: Iterable[Finding]) -> None:
        """Keep what the checks have found."""
        self._findings += found

    def close(self) -> None:
        """Write annotations and summary. Raises HostError where the summary cannot be written."""
        lines = list(self._annotations())[:_ANNOTATIONS]
        try:
            self._err.write("".join(f"{line}\n" for line in lines))
            self._err.flush()
        except (OSError, ValueError):
            pass  # nobody reads
        if not self._summary:
            return
        text = "\n".join([*self._markdown(), ""])
        try:
            with open(self._summary, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text[:_SUMMARY_CHARACTERS])
        except OSError as error:
            raise HostError(f"cannot write the step's summary: {error.strerror}") from error

    def _annotations(self) -> Iterator[str]:
        for label, title, error in self._failures:
            text = [safe(error.message)]
            if error.hint:
                text.append(f"hint: {safe(error.hint)}")
            if isinstance(error, BuildFailed):
                text += [safe(line) for line in error.log[-_LOG_LINES:]]
            yield self._annotation(
                "error", f"{label} {title}".strip(), "\n".join(text), error.where
            )
        for label, check in self._checks:
            text = [safe(complaint) for complaint in check.complaints] or ["failed"]
            yield self._annotation("error", f"{label} {check.check}", "\n".join(text), check.where)
        for one in self._findings:
            level = "error" if one.fatal else "warning"
            yield self._annotation(level, one.rule, safe(one.message), one.where, one.end_line)

    def _annotation(
        self, level: str, title: str, text: str, where: Location | None, end_line: int = 0
    ) -> str:
        shown = (no_commands(safe(title)), no_commands(text))
        return annotation(level, *shown, where or _NOWHERE, end_line, self._prefix)

    # --- the summary ----------------------------------------------------------------------

    def _markdown(self) -> Iterator[str]:
        ok = not self._failures and not any(not smoke.ok for smoke in self._smokes)
        counts = f": {words.counts(self._finished)}" if self._finished else ""
        yield f"### buildgraph {'✅' if ok else '❌'}{counts}"
        yield ""
        if self._images:
            yield "| target | digest | size |"
            yield "|---|---|---|"
            for image in sorted(self._images, key=lambda image: image.label)[:_ROWS]:
                size = words.size(image.size)
                yield f"| {_cell(image.label)} | `{image.digest}` | {size} |"
            if len(self._images) > _ROWS:
                yield f"\nand {len(self._images) - _ROWS:,} more"
            yield ""
        if self._smokes:
            yield "| test | verdict | checks | time |"
            yield "|---|---|---|---|"
            for smoke in sorted(self._smokes, key=lambda smoke: smoke.label)[:_ROWS]:
                verdict = "passed" if smoke.ok else "FAILED"
                checks = f"{smoke.passed} of {smoke.passed + smoke.failed}"
                took = "cached" if smoke.cached else words.seconds(smoke.seconds)
                yield f"| {_cell(smoke.label)} | {verdict} | {checks} | {took} |"
            yield ""
        for label, title, error in self._failures:
            yield from self._failure(label, title, error)
        if self._findings:
            yield f"{words.plural(len(self._findings), 'warning')} of the checks"
            yield ""

    def _failure(self, label: str, title: str, error: BuildgraphError) -> Iterator[str]:
        yield f"**{_cell(f'{label} {title}'.strip())}**: {_cell(error.message)}"
        if error.where is not None:
            yield f"at `{_code(str(error.where))}`"
        if isinstance(error, BuildFailed) and error.log:
            lines = [safe(line) for line in error.log]
            longest = max((len(run) for x in lines for run in re.findall("`+", x)), default=0)
            fence = "`" * max(3, longest + 1)
            yield from ("", f"{fence}text", *lines, fence)
        if error.hint:
            yield f"\nhint: {_cell(error.hint)}"
        yield ""


def _cell(text: str) -> str:
    """Return a text that Markdown takes as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#!~$@])", r"\\\1", safe(text))


def _code(text: str) -> str:
    return safe(text).replace("`", "'")
