"""Knows how `--flag=value` words of an instruction are read; must not know what they mean.

Source: shared reference, section 1.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

from buildgraph.dockerfile.lexer import LogicalLine
from buildgraph.dockerfile.wording import quote
from buildgraph.errors import InputError, Location, did_you_mean

TEXT, BOOL, LIST = "text", "bool", "list"

_BLANKS = re.compile(r"\s*")


class Flag(Struct, frozen=True):
    """One flag as written, quotes and escapes removed; `value` is None without a `=`."""

    name: str
    value: str | None
    where: Location


class Flags:
    """The flags of one instruction, checked against the kinds that it has."""

    __slots__ = ("_flags",)

    def __init__(self, flags: list[Flag]):
        self._flags = flags

    def where(self, name: str) -> Location:
        """Give the place of a flag that is there."""
        return next(flag.where for flag in self._flags if flag.name == name)

    def all(self, name: str) -> list[Flag]:
        """Give every flag of that name."""
        return [flag for flag in self._flags if flag.name == name]

    def text(self, name: str) -> str | None:
        """Give the value of a flag that may stand once; an empty one counts as not given."""
        return next((flag.value or None for flag in self._flags if flag.name == name), None)

    def texts(self, name: str) -> tuple[str, ...]:
        """Give the values of a flag that may be repeated."""
        return tuple(flag.value or "" for flag in self._flags if flag.name == name)

    def boolean(self, name: str) -> bool | None:
        """Give true, false, or None for a flag that is not there."""
        for flag in self._flags:
            if flag.name == name:
                return flag.value is None or flag.value.lower() == "true"
        return None


NO_FLAGS = Flags([])


def split_flags(line: LogicalLine, start: int, escape: str) -> tuple[list[Flag], int]:
    """Take the leading `--` words from `start` on; return them and where the arguments begin."""
    text = line.text
    flags: list[Flag] = []
    position = _skip_blanks(text, start)
    while text.startswith("--", position):
        word, end = _flag_word(text, position, escape)
        if word == "--":
            return flags, _skip_blanks(text, end)
        name, equals, value = word[2:].partition("=")
        flags.append(Flag(name, value if equals else None, line.where(position, end)))
        position = _skip_blanks(text, end)
    return flags, position


def check_flags(keyword: str, flags: list[Flag], kinds: Mapping[str, str]) -> Flags:
    """Check the flags of an instruction against `kinds` (name to TEXT, BOOL or LIST).

    Raises InputError for an unknown, repeated, valueless or ill-valued flag.
    """
    seen: set[str] = set()
    for flag in flags:
        kind = kinds.get(flag.name)
        if kind is None:
            near = did_you_mean(f"--{flag.name[:60]}", [f"--{name}" for name in kinds])
            takes = ", ".join(f"--{name}" for name in sorted(kinds)) or "no flags"
            raise InputError(
                f"unknown flag {quote('--' + flag.name)}",
                flag.where,
                near or f"{keyword} takes {takes}",
            )
        if flag.name in seen and kind != LIST:
            raise InputError(f"flag --{flag.name} is given twice", flag.where)
        seen.add(flag.name)
        if kind == BOOL:
            if flag.value is not None and flag.value.lower() not in ("true", "false"):
                raise InputError(
                    f"flag --{flag.name} is true or false, not {quote(flag.value)}", flag.where
                )
        elif flag.value is None:
            raise InputError(
                f"flag --{flag.name} needs a value", flag.where, f"write --{flag.name}=VALUE"
            )
    return Flags(flags)


def _skip_blanks(text: str, position: int) -> int:
    match = _BLANKS.match(text, position)
    return position if match is None else match.end()


def _flag_word(text: str, start: int, escape: str) -> tuple[str, int]:
    """Read one word, quotes and escapes removed; return it and where it ends."""
    pieces: list[str] = []
    quoted = ""
    position = start
    while position < len(text):
        character = text[position]
        if character == escape:
            pieces.append(text[position + 1 : position + 2])
            position += 2
            continue
        if quoted:
            if character == quoted:
                quoted = ""
            else:
                pieces.append(character)
        elif character in "'\"":
            quoted = character
        elif character.isspace():
            break
        else:
            pieces.append(character)
        position += 1
    return "".join(pieces), min(position, len(text))
