"""Knows an instruction taken apart into keyword, flags, arguments; must not know their meaning.

Source: shared reference, section 1.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from buildgraph.dockerfile import instructions as ast
from buildgraph.dockerfile.directives import comment_check_options
from buildgraph.dockerfile.flags import BOOL, LIST, NO_FLAGS, TEXT, Flag, Flags, check_flags
from buildgraph.dockerfile.heredoc import Marker, chomp
from buildgraph.dockerfile.lexer import LogicalLine, Word
from buildgraph.errors import InputError, Location

NOT_BLANKS = re.compile(r"[^\t\v\f\r ]+")
_LONE_SURROGATE = "[\ud800-\udfff]"

FLAGS: Mapping[str, Mapping[str, str]] = {
    "FROM": {"platform": TEXT},
    "RUN": {"mount": LIST, "network": TEXT, "security": TEXT, "device": LIST},
    "COPY": {
        "from": TEXT,
        "chown": TEXT,
        "chmod": TEXT,
        "link": BOOL,
        "parents": BOOL,
        "exclude": LIST,
    },
    "ADD": {
        "chown": TEXT,
        "chmod": TEXT,
        "link": BOOL,
        "exclude": LIST,
        "checksum": TEXT,
        "keep-git-dir": BOOL,
        "unpack": BOOL,
    },
    "HEALTHCHECK": {
        "interval": TEXT,
        "timeout": TEXT,
        "start-period": TEXT,
        "start-interval": TEXT,
        "retries": TEXT,
    },
}


class Statement:
    """One instruction taken apart: keyword, flags, the text of its arguments, heredocs."""

    __slots__ = (
        "bodies",
        "comments",
        "end",
        "escape",
        "flags",
        "json",
        "keyword",
        "line",
        "markers",
        "name",
        "rest",
        "rest_start",
        "start",
    )

    def __init__(self, line: LogicalLine, start: int, end: int, keyword: str, escape: str):
        self.line = line
        self.start = start  # of the keyword in the logical line
        self.end = end  # of the arguments, trailing blanks left out
        self.keyword = keyword
        self.name = keyword.upper()
        self.escape = escape
        self.flags: Flags = NO_FLAGS
        self.rest = ""
        self.rest_start = end
        self.json: tuple[str, ...] | None = None
        self.markers: list[Marker] = []
        self.bodies: list[str] = []
        self.comments: list[str] = []

    def take_flags(self, flags: list[Flag]) -> None:
        """Check and keep the flags. ARG and STOPSIGNAL ignore theirs, as upstream does."""
        if flags and self.name not in ("ARG", "STOPSIGNAL"):
            self.flags = check_flags(self.name, flags, FLAGS.get(self.name, {}))

    def where(self) -> Location:
        """Give the place of the keyword."""
        return self.line.where(self.start, self.start + len(self.keyword))

    def rest_where(self) -> Location:
        """Give the place of the arguments, or of the keyword when there are none."""
        return self.line.where(self.rest_start, self.end) if self.rest else self.where()

    def words(self) -> list[Word]:
        """Split the arguments at blanks, quotes not looked at."""
        offset = self.rest_start
        return [
            Word(match.group(), match.start() + offset, match.end() + offset)
            for match in NOT_BLANKS.finditer(self.rest)
        ]

    def word_where(self, word: Word) -> Location:
        """Give the place of a word."""
        return self.line.where(word.start, word.end)

    def base(self) -> dict[str, Any]:
        """Give what every instruction carries, as keyword arguments."""
        after = self.line.text[self.start + len(self.keyword) : self.end].lstrip()
        where = self.where()
        source = f"{self.name} {after}" if after else self.name
        base: dict[str, Any] = {
            "where": where,
            "end_line": self.line.end_line,
            # Mostly the same text, and then kept once: a graph may hold 100,000 of them.
            "source": where.text if source == where.text else source,
            "keyword": self.keyword,
        }
        if self.comments:
            skip, experimental = comment_check_options(self.comments)
            base["skip_checks"] = skip
            base["experimental_checks"] = experimental
        return base

    def heredocs(self) -> tuple[ast.Heredoc, ...]:
        """Give the heredocs with their bodies ready for use."""
        return tuple(
            ast.Heredoc(
                name=marker.name,
                body=chomp(body) if marker.chomp else body,
                expand=marker.expand,
                chomp=marker.chomp,
                where=self.line.where(marker.start, marker.end),
                fd=marker.fd,
            )
            for marker, body in zip(self.markers, self.bodies, strict=True)
        )


def json_strings(text: str, where: Location) -> tuple[str, ...] | None:
    """Read the JSON form; None when the text is not a JSON array.

    Raises InputError for an array that holds something else than strings.
    """
    if not text.startswith("["):
        return None
    import json

    try:
        values = json.loads(text, parse_int=_no_number, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InputError("a JSON form may hold only strings", where, "put every element in quotes")
    if any("\0" in value for value in values):
        raise InputError("a NUL character", where)
    return tuple(re.sub(_LONE_SURROGATE, "\N{REPLACEMENT CHARACTER}", value) for value in values)


def _no_number(text: str) -> None:
    return None


def _refuse_constant(text: str) -> None:
    raise ValueError(text)
