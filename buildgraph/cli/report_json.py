"""Knows how a report is written as JSON, in the shape that buildx's `--call=check,format=json`
has; must not know how it came about.

    {"warnings": [{"ruleName", "description", "detail", "severity", "fix"?, "location"?}],
     "sources": [{"filename", "language", "data"}],
     "buildError"?: ERROR, "errors"?: [ERROR]}

`description` is why the rule exists, `detail` what was found; `severity` is "warning" or "error".
`data` is the file in base64. `location` is {"sourceIndex", "ranges": [{"start", "end"}]}; a place
is {"line", "character"}, lines counted from 1 and characters from 0, the end exclusive.
An ERROR is {"message", "hint"?, "location"?}; `buildError` is the first of `errors`.
`severity`, `fix`, `hint` and `errors` are ours beside buildx's keys.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from buildgraph.cli.lint_report import Finding, Report
from buildgraph.errors import InputError, Location


def write_json(report: Report, *, strict: bool) -> str:
    """Return a report as one JSON document with a final newline."""
    return json.dumps(json_value(report, strict=strict), indent=2, ensure_ascii=True) + "\n"


def json_value(report: Report, *, strict: bool) -> dict[str, Any]:
    """Return a report as the value that the module's first lines describe."""
    names = [*report.sources]
    value: dict[str, Any] = {
        "warnings": [_warning(one, names, strict=strict) for one in report.findings],
        "sources": [
            {
                "filename": name,
                "language": "YAML" if name.endswith(".yaml") else "Dockerfile",
                "data": base64.b64encode(data).decode("ascii"),
            }
            for name, data in report.sources.items()
        ],
    }
    if report.errors:
        value["buildError"] = _error(report.errors[0], names)
        value["errors"] = [_error(one, names) for one in report.errors]
    return value


def location(where: Location, end_line: int, names: list[str]) -> dict[str, Any] | None:
    """Return a place in one of the sources `names`, None for one that is in none of them."""
    if where.path not in names or not where.line:
        return None
    first = max(where.column - 1, 0)
    start = {"line": where.line, "character": first}
    end = {"line": where.line, "character": max(where.end_column - 1, first)}
    if end_line > where.line:
        end = {"line": end_line, "character": 0}
    return {"sourceIndex": names.index(where.path), "ranges": [{"start": start, "end": end}]}


def _warning(one: Finding, names: list[str], *, strict: bool) -> dict[str, Any]:
    value: dict[str, Any] = {
        "ruleName": one.rule,
        "description": one.reason,
        "detail": one.message,
        "severity": "error" if one.fatal or strict else "warning",
    }
    if one.fix:
        value["fix"] = one.fix
    place = location(one.where, one.end_line, names)
    if place is not None:
        value["location"] = place
    return value


def _error(error: InputError, names: list[str]) -> dict[str, Any]:
    value: dict[str, Any] = {"message": error.message}
    if error.hint:
        value["hint"] = error.hint
    place = location(error.where, 0, names) if error.where is not None else None
    if place is not None:
        value["location"] = place
    return value
