"""Knows how a Dockerfile that stands in a Boxfile is read, so that every place in it is one of the
Boxfile; must not know what is built of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

from buildgraph.boxfile.target import DockerfileInline
from buildgraph.dockerfile.instructions import Base, Dockerfile
from buildgraph.dockerfile.parser import parse
from buildgraph.errors import InputError, InputErrors, Location


def parse_inline(source: DockerfileInline) -> Dockerfile:
    """Parse a Dockerfile that stands in a Boxfile; errors point into the Boxfile."""
    shift = max(0, source.first_line - 1)
    try:
        file = parse(source.text, source.where.path)
    except InputError as error:
        errors = error.errors if isinstance(error, InputErrors) else (error,)
        for one in errors:
            if one.where is not None:
                one.where = shifted(one.where, shift, source.indent)
        raise
    moved: Dockerfile = relocate(file, shift, lambda where: shifted(where, shift, source.indent))
    return moved


def shifted(where: Location, lines: int, columns: int) -> Location:
    """Return a place of an indented block as a place of the file around it."""
    return replace(
        where,
        line=where.line + lines if where.line else 0,
        column=where.column + columns if where.column else 0,
        end_column=where.end_column + columns if where.end_column else 0,
        text=" " * columns + where.text,
    )


def relocate(value: Any, lines: int, move: Callable[[Location], Location]) -> Any:
    """Return a copy of a parsed file with every place in it moved, which is down by `lines`."""
    if isinstance(value, Location):
        return move(value)
    if isinstance(value, tuple):
        return tuple(relocate(item, lines, move) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        changes = {f.name: relocate(getattr(value, f.name), lines, move) for f in fields(value)}
        if isinstance(value, Base):
            changes["end_line"] = value.end_line + lines
        return replace(value, **changes)
    return value
