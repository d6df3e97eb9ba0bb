"""Knows how a report is written as SARIF 2.1.0, for code scanning; must not know how it came about.

Paths are relative to SRCROOT. A fingerprint is made of the rule, the path and the text of the
line, so that a finding stays the same one when lines above it come and go. Source: OASIS SARIF
2.1.0, sections 3.13 to 3.30.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from buildgraph import __version__
from buildgraph.cli.lint_report import Finding, Report
from buildgraph.errors import InputError, Location
from buildgraph.graph.lint_rules import Rule

_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_ROOT = "SRCROOT"
_INPUT_ERROR = "InputError"


def write_sarif(report: Report, rules: Mapping[str, Rule], *, strict: bool, prefix: str) -> str:
    """Return a report as one SARIF document; `prefix` leads from SRCROOT to the paths' root."""
    used = sorted({one.rule for one in report.findings})
    ids = [*used, *([_INPUT_ERROR] if report.errors else [])]
    seen: Counter[str] = Counter()
    results = [_finding(one, ids, prefix, seen, strict=strict) for one in report.findings]
    results += [_error(one, ids, prefix, seen) for one in report.errors]
    root = quote(report.root.removesuffix("/" + prefix.rstrip("/")) if prefix else report.root)
    run = {
        "tool": {
            "driver": {
                "name": "buildgraph",
                "semanticVersion": __version__,
                "rules": [_rule(name, rules) for name in ids],
            }
        },
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {_ROOT: {"uri": f"file://{root.rstrip('/')}/"}},
        "results": results,
    }
    value = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(value, indent=2, ensure_ascii=True) + "\n"


def _rule(name: str, rules: Mapping[str, Rule]) -> dict[str, Any]:
    rule = rules.get(name)
    reason = rule.reason if rule else "a file that cannot be read as what it should be"
    value: dict[str, Any] = {
        "id": name,
        "name": name,
        "shortDescription": {"text": reason},
        "defaultConfiguration": {"level": "warning" if rule else "error"},
    }
    if rule is not None:
        value["help"] = {"text": f"Instead of\n\n{rule.bad}\nwrite\n\n{rule.good}"}
    return value


def _finding(
    one: Finding, ids: list[str], prefix: str, seen: Counter[str], *, strict: bool
) -> dict[str, Any]:
    text = f"{one.message}. Fix: {one.fix}" if one.fix else one.message
    value: dict[str, Any] = {
        "ruleId": one.rule,
        "ruleIndex": ids.index(one.rule),
        "level": "error" if one.fatal or strict else "warning",
        "message": {"text": text},
    }
    return value | _place(one.rule, one.where, one.end_line, prefix, seen)


def _error(one: InputError, ids: list[str], prefix: str, seen: Counter[str]) -> dict[str, Any]:
    text = f"{one.message}. {one.hint}" if one.hint else one.message
    value: dict[str, Any] = {
        "ruleId": _INPUT_ERROR,
        "ruleIndex": ids.index(_INPUT_ERROR),
        "level": "error",
        "message": {"text": text},
    }
    return value | _place(_INPUT_ERROR, one.where or Location(""), 0, prefix, seen)


def _place(
    rule: str, where: Location, end_line: int, prefix: str, seen: Counter[str]
) -> dict[str, Any]:
    """Return locations and fingerprints; a result that is nowhere has neither."""
    if not where.path:
        return {}
    path = prefix + where.path
    physical: dict[str, Any] = {
        "artifactLocation": {"uri": quote(os.fsencode(path)), "uriBaseId": _ROOT}
    }
    if where.path.startswith("/"):
        physical["artifactLocation"] = {"uri": f"file://{quote(os.fsencode(where.path))}"}
    if where.line:
        physical["region"] = _region(where, end_line)
    same = f"{rule}\0{path}\0{where.text.strip()}"
    digest = hashlib.sha256(same.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    seen[digest] += 1
    return {
        "locations": [{"physicalLocation": physical}],
        "partialFingerprints": {"buildgraph/v1": f"{digest}:{seen[digest]}"},
    }


def _region(where: Location, end_line: int) -> dict[str, int]:
    region = {"startLine": where.line}
    if where.column:
        region["startColumn"] = where.column
    if where.end_column > where.column > 0:
        region["endColumn"] = where.end_column
    elif end_line > where.line:
        region["endLine"] = end_line
    return region
