"""Knows how large a file and a function may be, and why some are larger; runs nothing of ours."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (ROOT / "buildgraph", ROOT / "cache" / "buildgraph_cache", ROOT / "rules")
FILE_LINES = 500
FUNCTION_LINES = 60

# path or path::function -> why it is larger than the rest
ALLOWED: dict[str, str] = {}


def _large() -> dict[str, int]:
    found = {}
    for package in PACKAGES:
        for path in sorted(package.rglob("*.py")):
            name = str(path.relative_to(ROOT))
            source = path.read_text()
            if (lines := len(source.splitlines())) > FILE_LINES:
                found[name] = lines
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                    if (lines := node.end_lineno - node.lineno + 1) > FUNCTION_LINES:
                        found[f"{name}::{node.name}"] = lines
    return found


def test_large_files_and_functions_have_a_reason() -> None:
    large = _large()
    new = [f"{name}: {lines} lines" for name, lines in large.items() if name not in ALLOWED]
    assert not new, "split it, or give the reason in ALLOWED:\n" + "\n".join(new)
    assert ALLOWED.keys() <= large.keys(), "no longer large, so take it out of ALLOWED"
