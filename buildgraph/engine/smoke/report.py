"""Knows what is told of a test that was run: as lines, as JSON and as JUnit's XML; must not know
where it goes. Lines are raw: whoever shows them makes them safe (A64).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

from msgspec import Struct, field

from buildgraph.engine.smoke.checks import Finding
from buildgraph.errors import Location

LOG_LINES: Final = 15
_DETAIL_LINES: Final = 30
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class ServiceReport(Struct, frozen=True):
    """What became of one service."""

    name: str
    image: str
    states: tuple[str, ...]  # of its containers: "healthy", "ended with exit code 3"
    log: tuple[str, ...]  # last lines


class SmokeReport(Struct, frozen=True):
    """What became of a test; `reason` says why it ended before its checks did."""

    label: str
    where: Location
    ok: bool
    seconds: float
    findings: tuple[Finding, ...] = ()
    skipped: tuple[str, ...] = ()
    services: tuple[ServiceReport, ...] = ()
    reason: str = ""
    cached: bool = False
    key: str = ""
    runs: tuple[bool, ...] = field(default=(True,))  # of --runs: which passed

    @property
    def passed(self) -> int:
        """How many checks held."""
        return sum(1 for finding in self.findings if finding.ok)

    @property
    def failed(self) -> int:
        """How many checks did not."""
        return sum(1 for finding in self.findings if not finding.ok)


def failure_lines(report: SmokeReport) -> Iterator[str]:
    """Yield what is said of a failed test: its checks, and what its services wrote last."""
    yield f"{report.label} failed after {report.seconds:.1f} s"
    if report.reason:
        yield f"  it ended early: {report.reason}"
    for finding in report.findings:
        if not finding.ok:
            yield from _finding(finding)
    if report.skipped:
        yield f"  not made: {', '.join(report.skipped)}"
    for service in report.services:
        states = ", ".join(dict.fromkeys(service.states))
        yield f"  service {service.name} ({service.image}): {states}"
        if service.log:
            yield f"    the last {len(service.log)} lines of its log:"
            yield from (f"      {line}" for line in service.log)
        else:
            yield "    it wrote nothing"
    yield f"  all of their logs: buildgraph logs {report.label}"
    if report.services:
        yield f"  to look inside: buildgraph test {report.label} --keep"


def _finding(finding: Finding) -> Iterator[str]:
    tries = f", {finding.tries} attempts" if finding.tries > 1 else ""
    yield f"  check {finding.check.name} failed ({finding.seconds:.1f} s{tries})"
    yield f"    --> {finding.check.where}"
    yield from (f"    {complaint}" for complaint in finding.attempt.complaints)
    yield from _block("asked", finding.attempt.request)
    yield from _block("answer", finding.attempt.answer)


def _block(name: str, text: str) -> Iterator[str]:
    lines = text.splitlines()
    if not lines:
        return
    if len(lines) == 1:
        yield f"    {name}: {lines[0]}"
        return
    yield f"    {name}:"
    yield from (f"      {line}" for line in lines[:_DETAIL_LINES])
    if len(lines) > _DETAIL_LINES:
        yield f"      and {len(lines) - _DETAIL_LINES} more lines"


def rate(report: SmokeReport) -> str:
    """Return the pass rate of several runs, "" for one."""
    if len(report.runs) < 2:
        return ""
    passed = sum(report.runs)
    verdict = "" if passed in (0, len(report.runs)) else ": flaky"
    share = 100 * passed // len(report.runs)
    return f"{passed} of {len(report.runs)} runs passed ({share} %){verdict}"


def as_json(report: SmokeReport) -> dict[str, Any]:
    """Return a report as JSON values."""
    return {
        "label": report.label,
        "ok": report.ok,
        "cached": report.cached,
        "seconds": round(report.seconds, 4),
        "reason": report.reason,
        "key": report.key,
        "runs": len(report.runs),
        "runs_passed": sum(report.runs),
        "checks": [
            {
                "name": finding.check.name,
                "ok": finding.ok,
                "seconds": round(finding.seconds, 4),
                "attempts": finding.tries,
                "complaints": list(finding.attempt.complaints),
                "request": finding.attempt.request,
                "answer": finding.attempt.answer,
                "file": finding.check.where.path,
                "line": finding.check.where.line,
            }
            for finding in report.findings
        ],
        "skipped": list(report.skipped),
        "services": [
            {
                "name": service.name,
                "image": service.image,
                "states": list(service.states),
                "log": list(service.log),
            }
            for service in report.services
        ],
    }


def as_junit(reports: Iterable[SmokeReport]) -> str:
    """Return JUnit's XML: a suite for each package, a case for each check.

    A test that ended early is one more case that says why; a cached test is one case that passed.
    """
    suites: dict[str, list[SmokeReport]] = {}
    for report in reports:
        suites.setdefault(report.label.partition(":")[0], []).append(report)
    parts = ['<?xml version="1.0" encoding="UTF-8"?>', "<testsuites>"]
    for name, members in suites.items():
        cases = [case for report in members for case in _cases(report)]
        failures = sum(1 for case in cases if "<failure" in case)
        skipped = sum(1 for case in cases if "<skipped" in case)
        seconds = sum(report.seconds for report in members)
        parts.append(
            f"<testsuite name={_attribute(name)} tests={_attribute(len(cases))} "
            f'failures="{failures}" errors="0" skipped="{skipped}" time="{seconds:.3f}">'
        )
        parts += cases
        logs = "\n".join(_logs(report) for report in members if report.services)
        if logs:
            parts.append(f"<system-out>{_text(logs)}</system-out>")
        parts.append("</testsuite>")
    return "\n".join([*parts, "</testsuites>", ""])


def _cases(report: SmokeReport) -> Iterator[str]:
    if report.cached or not (report.findings or report.skipped or report.reason):
        name = "passed before, not run again" if report.cached else "all services start"
        yield _case(report, name, report.where, 0.0, "")
    for finding in report.findings:
        inner = ""
        if not finding.ok:
            lines = "\n".join(_finding(finding))
            message = "; ".join(finding.attempt.complaints)
            inner = f"<failure message={_attribute(message)}>{_text(lines)}</failure>"
        yield _case(report, finding.check.name, finding.check.where, finding.seconds, inner)
    if report.reason:
        inner = f"<failure message={_attribute(report.reason)}/>"
        yield _case(report, "runs to its end", report.where, 0.0, inner)
    for name in report.skipped:
        yield _case(report, name, report.where, 0.0, "<skipped/>")


def _case(report: SmokeReport, name: str, where: Location, seconds: float, inner: str) -> str:
    return (
        f"<testcase classname={_attribute(report.label)} name={_attribute(name)} "
        f"file={_attribute(where.path)} line={_attribute(where.line)} "
        f'time="{seconds:.3f}">{inner}</testcase>'
    )


def _logs(report: SmokeReport) -> str:
    return "\n".join(
        f"{report.label} {service.name}: {line}"
        for service in report.services
        for line in service.log
    )


def _text(text: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", text))


def _attribute(value: object) -> str:
    return quoteattr(_NOT_XML.sub("\ufffd", str(value)))
