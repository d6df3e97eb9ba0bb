"""Knows how a report is written as annotations of GitHub's runners; must not know how it came
about.

A command is one line, so line feeds in it are written as %0A; in properties `:` and `,` are
written as such as well. Source: "Workflow commands" of the runner's documentation.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from buildgraph.errors import Location

if TYPE_CHECKING:
    from buildgraph.cli.lint_report import Report


def prefix_of(root: str, environ: Mapping[str, str]) -> str:
    """Return the way from the repository's root to a workspace's, where CI says which it is."""
    top = os.path.realpath(environ.get("GITHUB_WORKSPACE") or root)
    return root[len(top) :].strip("/") + "/" if root.startswith(top + "/") else ""


def write_github(report: Report, *, strict: bool, prefix: str) -> str:
    """Return a line for each finding; `prefix` leads from the repository's root to the paths'."""
    lines = []
    for one in report.findings:
        level = "error" if one.fatal or strict else "warning"
        text = "\n".join(
            filter(None, (one.message, one.reason, f"Fix: {one.fix}" if one.fix else ""))
        )
        lines.append(annotation(level, one.rule, text, one.where, one.end_line, prefix))
    for error in report.errors:
        text = f"{error.message}\n{error.hint}" if error.hint else error.message
        where = error.where or Location("")
        lines.append(annotation("error", "buildgraph", text, where, 0, prefix))
    return "".join(f"{line}\n" for line in lines)


def annotation(
    level: str, title: str, text: str, where: Location, end_line: int, prefix: str
) -> str:
    """Return the command that puts `text` at a place; a place without a path is nowhere."""
    properties: list[tuple[str, str]] = []
    if where.path:
        path = where.path if where.path.startswith("/") else prefix + where.path
        properties.append(("file", path))
    if where.line:
        properties.append(("line", str(where.line)))
        if end_line > where.line:
            properties.append(("endLine", str(end_line)))
        elif where.column:  # the runner takes columns only for a single line
            properties.append(("col", str(where.column)))
            if where.end_column > where.column:
                properties.append(("endColumn", str(where.end_column)))
    properties.append(("title", title))
    shown = ",".join(f"{name}={_property(value)}" for name, value in properties)
    return f"::{level} {shown}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
