"""Knows how to take typed values out of the parsed keys of a record; must not know what the record
is about.

The table has checked types already, so what is asked for in vain is our bug.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping

from msgspec import Struct

from buildgraph.boxfile.smoke import Expected
from buildgraph.boxfile.target import Block, Value
from buildgraph.errors import InputError, Location

Errors = list[InputError]
Environment = tuple[tuple[str, str | None], ...]


class Fields(Struct, frozen=True):
    """The keys of one record; `where` is the record's place."""

    values: Mapping[str, Value]
    where: Location
    errors: Errors

    def error(self, message: str, where: Location | None = None, hint: str | None = None) -> None:
        """Note that something is wrong."""
        self.errors.append(InputError(message, where or self.where, hint))

    def value(self, name: str) -> Value:
        """Return a value with its place."""
        return self.values[name]

    def given(self, name: str) -> bool:
        """Say whether the key was written and has a value."""
        return name in self.values and self.values[name].data not in (None, ())

    def place(self, name: str) -> Location:
        """Return where the key is written, or else the record."""
        value = self.values[name]
        return value.key or value.where

    def text(self, name: str) -> str | None:
        """Return a text."""
        return text_or_none(self.values[name])

    def number(self, name: str) -> int | None:
        """Return a number, a size or a duration."""
        data = self.values[name].data
        return data if isinstance(data, int) and not isinstance(data, bool) else None

    def flag(self, name: str) -> bool:
        """Return a Bool; not given and without default is False."""
        return self.values[name].data is True

    def items(self, name: str) -> tuple[Value, ...]:
        """Return the items of a list."""
        data = self.values[name].data
        return data if isinstance(data, tuple) else ()

    def texts(self, name: str) -> tuple[str, ...]:
        """Return the items of a list of texts, or one text as one item."""
        data = self.values[name].data
        if isinstance(data, str | Block):
            return (plain(self.values[name]),)
        return tuple(plain(item) for item in self.items(name))

    def words(self, name: str) -> tuple[str, ...] | None:
        """Return a command: a list as it is, a text split as a shell would, None: not given."""
        value = self.values[name]
        if isinstance(value.data, tuple):
            return tuple(plain(item) for item in value.data) if value.given else None
        text = text_or_none(value)
        if text is None:
            return None
        try:
            return tuple(shlex.split(text))
        except ValueError as error:
            self.error(f"{name}: {str(error).lower()}", value.where)
            return ()

    def pairs(self, name: str) -> tuple[tuple[str, str], ...]:
        """Return a mapping of texts."""
        data = self.values[name].data
        if not isinstance(data, Mapping):
            return ()
        return tuple((key, plain(value)) for key, value in data.items())

    def record(self, name: str) -> Fields | None:
        """Return a record inside this one, None where none is written."""
        value = self.values[name]
        if not isinstance(value.data, Mapping):
            return None
        return Fields(value.data, value.key or value.where, self.errors)

    def environment(self, name: str) -> Environment:
        """Return variables, written as a mapping or as a list of NAME=value; None: from outside."""
        data = self.values[name].data
        if isinstance(data, Mapping):
            return tuple((key, text_or_none(value)) for key, value in data.items())
        out: dict[str, str | None] = {}
        for item in self.items(name):
            key, equals, text = plain(item).partition("=")
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", key):
                self.error(f"{name}: {key!r} is not the name of a variable", item.where)
            out[key] = text if equals else None
        return tuple(out.items())

    def expected(self, name: str) -> Expected:
        """Return what a text must be like; a bare text must be in it."""
        value = self.values[name]
        if isinstance(value.data, Mapping):
            return Fields(value.data, value.where, self.errors).own_expected()
        text = text_or_none(value)
        return Expected() if text is None else Expected(contains=(text,))

    def own_expected(self) -> Expected:
        """Return what `contains`, `matches`, `excludes` and `equals` of this record say."""
        for name in ("matches", "excludes"):
            self.expressions(self.items(name))
        equals = self.text("equals") if "equals" in self.values else None
        return Expected(
            self.texts("contains"), self.texts("matches"), self.texts("excludes"), equals
        )

    def expressions(self, values: Iterable[Value]) -> None:
        """Complain about what is no regular expression."""
        for value in values:
            check_expression(plain(value), value.where, self.errors)


def check_expression(text: str, where: Location, errors: Errors) -> bool:
    """Say whether `text` is a regular expression, and complain where it is none."""
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        errors.append(InputError(f"{text!r} is not a regular expression: {error}", where))
        return False
    return True


def text_or_none(value: Value) -> str | None:
    """Return a text, None where there is none."""
    if isinstance(value.data, Block):
        return value.data.text
    return value.data if isinstance(value.data, str) else None


def plain(value: Value) -> str:
    """Return the text that a value must be."""
    text = text_or_none(value)
    if text is None:
        raise TypeError(f"{value.where}: no text")
    return text
