"""Knows a stable text form of a parsed Dockerfile for golden files; must not know how it is parsed.

Defaults are left out, so that a new field does not touch every golden file.
"""

from __future__ import annotations

import json
from typing import Any

from buildgraph.dockerfile.instructions import Dockerfile, Instruction
from buildgraph.errors import Location
from buildgraph.fields import told


def dump(dockerfile: Dockerfile) -> str:
    """Give the file as JSON: sorted keys, two blanks, a line break at the end."""
    tree = {
        "directives": _plain(dockerfile.directives),
        "global_args": [_plain(arg) for arg in dockerfile.global_args],
        "stages": [
            {"from": _plain(stage.from_), "body": [_plain(one) for one in stage.body]}
            for stage in dockerfile.stages
        ],
        "warnings": [_plain(warning) for warning in dockerfile.warnings],
    }
    return json.dumps(tree, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def dump_instruction(instruction: Instruction) -> dict[str, Any]:
    """Give one instruction as JSON values."""
    plain: dict[str, Any] = _plain(instruction)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Location):
        columns = f"{value.column}-{value.end_column}" if value.end_column else str(value.column)
        return f"{value.line}:{columns}"
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    fields = told(value)
    if fields is None:
        return value
    return {"is": type(value).__name__, **{name: _plain(item) for name, item in fields.items()}}
