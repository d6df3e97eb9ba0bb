"""Knows how a report is written for a person at a terminal; must not know how it came about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from buildgraph.cli.console import render_error, render_finding
from buildgraph.cli.lint_report import Report
from buildgraph.cli.words import plural


def write_text(report: Report, *, strict: bool, color: bool, env: Mapping[str, str]) -> str:
    """Return a report with a caret for each finding, and a last line that counts."""
    pieces: list[str] = []
    for one in report.findings:
        level = "error" if one.fatal or strict else "warning"
        notes = [("why", one.reason)] if one.reason else []
        notes += [("fix", one.fix)] if one.fix else []
        message = f"{one.message} [{one.rule}]"
        pieces.append(render_finding(level, message, one.where, notes, color=color, env=env))
    pieces += [render_error(error, color, env) for error in report.errors]
    pieces.append("".join(f"{line}\n" for line in _counts(report, strict=strict)))
    return "\n".join(pieces)


def _counts(report: Report, *, strict: bool) -> Iterator[str]:
    fatal = sum(one.fatal or strict for one in report.findings) + len(report.errors)
    warnings = len(report.findings) + len(report.errors) - fatal
    files = f" in {plural(report.files, 'file')}" if report.files else ""
    if not fatal and not warnings:
        yield f"no warnings{files}"
        return
    parts = [plural(fatal, "error")] if fatal else []
    parts += [plural(warnings, "warning")] if warnings else []
    yield f"{', '.join(parts)}{files}"
