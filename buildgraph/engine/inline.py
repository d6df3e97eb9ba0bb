"""Knows how a Dockerfile that stands in a Boxfile is read, so that every place in it is one of the
Boxfile; must not know what is built of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from buildgraph.boxfile.target import DockerfileInline
from buildgraph.dockerfile.instructions import Base, Dockerfile
from buildgraph.dockerfile.parser import parse
from buildgraph.errors import InputError, InputErrors, Location
from buildgraph.fields import field_names, with_changes


def parse_inline(source: DockerfileInline) -> Dockerfile:
    """Parse a Dockerfile that stands in a Boxfile; errors point into the Boxfile."""
    lines = _Lines(source)
    try:
        file = parse(source.text, source.where.path)
    except InputError as error:
        errors = error.errors if isinstance(error, InputErrors) else (error,)
        for one in errors:
            if one.where is not None:
                one.where = lines.move(one.where)
            if source.call is not None:
                one.hint = (
                    f"{one.hint}; called at {source.call}"
                    if one.hint
                    else f"called at {source.call}"
                )
        raise
    moved: Dockerfile = relocate(file, lines.of, lines.move)
    return moved


class _Lines:
    """The lines of the file that the lines of an inline Dockerfile are, or were made from."""

    def __init__(self, source: DockerfileInline):
        self._shift = max(0, source.first_line - 1)
        self._indent = source.indent
        self._lines = source.lines

    def of(self, line: int) -> int:
        """Return the line of the file, for one that counts from 1."""
        if self._lines:
            line = self._lines[min(line, len(self._lines)) - 1]
        return line + self._shift

    def move(self, where: Location) -> Location:
        """Return a place of the text as one of the file."""
        return shifted(where, self.of(where.line) - where.line if where.line else 0, self._indent)


def shifted(where: Location, lines: int, columns: int) -> Location:
    """Return a place of an indented block as a place of the file around it."""
    return replace(
        where,
        line=where.line + lines if where.line else 0,
        column=where.column + columns if where.column else 0,
        end_column=where.end_column + columns if where.end_column else 0,
        text=" " * columns + where.text,
    )


def relocate(value: Any, line: Callable[[int], int], move: Callable[[Location], Location]) -> Any:
    """Return a copy of a parsed file with every place in it moved, and each line by `line`."""
    if isinstance(value, Location):
        return move(value)
    if isinstance(value, tuple):
        return tuple(relocate(item, line, move) for item in value)
    names = field_names(value)
    if names is not None:
        changes = {name: relocate(getattr(value, name), line, move) for name in names}
        if isinstance(value, Base):
            changes["end_line"] = line(value.end_line)
        return with_changes(value, changes)
    return value
