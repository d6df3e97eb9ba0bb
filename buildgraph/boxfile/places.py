"""Knows where a character of a scalar's text stands in the file, whatever the scalar's style; must
not know why somebody asks.
"""

from __future__ import annotations

from typing import Final

from buildgraph.boxfile.yaml import Scalar, Source
from buildgraph.errors import Location

_ESCAPES: Final = {"x": 4, "u": 6, "U": 10}  # characters that \\xNN and its kin take


def place(node: Scalar, start: int, end: int) -> Location:
    """Return the location of `node.text[start:end]`, cut at the end of its line.

    Where the file cannot be followed, it is that of the scalar.
    """
    source = node.source
    if source is None:
        return node.where
    if node.style == "|":
        before = node.text[:start]
        line = before.count("\n")
        column = start - (before.rfind("\n") + 1) + node.body_indent
        return _span(source, node.body_line - 1 + line, column, end - start)
    found = _follow(node, source, start)
    return node.where if found is None else _span(source, *found, end - start)


def _span(source: Source, line: int, column: int, width: int) -> Location:
    stop = min(column + max(1, width), len(source.line(line)))
    return source.at(line, column, stop if stop > column else 0)


def _follow(node: Scalar, source: Source, wanted: int) -> tuple[int, int] | None:
    """Walk through the file and the text side by side; returns line and column, from 0."""
    line, column = node.where.line - 1, node.where.column - 1
    if node.style in ('"', "'"):
        column += 1
    elif node.style == ">":
        line, column = _skip(source, line + 1, 0)
    at = 0
    while at < wanted:
        raw = source.line(line)
        if column >= len(raw.rstrip(" ")) and not raw[column : column + 1].strip():
            if line + 1 >= len(source.lines):
                return None
            # A line break is one blank of the text, or none behind a backslash or an empty line.
            if node.text[at] in " \n":
                at += 1
            line, column = _skip(source, line + 1, 0)
            while at < wanted and node.text[at] == "\n":
                at += 1
            continue
        at, width = _step(node, raw, column, at)
        column += width
    return line, column


def _skip(source: Source, line: int, column: int) -> tuple[int, int]:
    """Return the first thing that is written at or after a place."""
    while line < len(source.lines):
        raw = source.line(line)
        rest = raw[column:]
        if rest.strip():
            return line, column + len(rest) - len(rest.lstrip())
        line, column = line + 1, 0
    return max(0, len(source.lines) - 1), 0


def _step(node: Scalar, raw: str, column: int, at: int) -> tuple[int, int]:
    """Return the next place in the text, and how many characters of the file that took."""
    here = raw[column]
    if node.style == "'" and here == "'":
        return at + 1, 2
    if node.style == '"' and here == "\\":
        if column + 1 >= len(raw):
            return at, 1
        return at + 1, _ESCAPES.get(raw[column + 1], 2)
    return at + 1, 1
