"""Knows how a word announces a here-document; must not know which instruction takes one.

Source: shared reference, section 1.7. The name is always read with `\\` as escape, whatever
`# escape=` says.
"""

from __future__ import annotations

import re

from msgspec import Struct

from buildgraph.dockerfile.lexer import split_words

# Patterns that few files need stay text: `re` compiles and keeps them at first use.
_OPENING = r"([0-9]*)<<(-?)"
_LEADING_TABS = r"(?m)^\t+"
_QUOTED = r"""'[^']*+'|"(?:[^"\\]++|\\.)*+\""""
_TOKEN = rf"""\\.?|{_QUOTED}"""
_BALANCED = rf"""(?:[^'"\\]++|\\.|{_QUOTED})*+\\?"""
_ESCAPED = r"\\."
_ESCAPED_IN_QUOTES = r"""\\(["$\\])"""


class Marker(Struct, frozen=True):
    """`3<<-"EOF"`, and where it stands in the logical line."""

    name: str
    expand: bool
    chomp: bool
    fd: int | None
    start: int
    end: int


def find_markers(text: str, offset: int = 0) -> list[Marker]:
    """Find the here-documents that a line announces; quoted or unbalanced text announces none."""
    if "<<" not in text:
        return []
    markers: list[Marker] = []
    pending: re.Match[str] | None = None
    start = seen = depth = 0
    opening = re.compile(_OPENING).match
    for word in split_words(text, "\\"):
        if pending is None:
            pending = opening(word.text)
            if pending is None:
                continue
            start = word.start
            name = word.text[pending.end() :]
            if not name:
                continue  # blanks may stand between `<<` and the name
        else:
            name = word.text
        # Inside `$((1 << 2))` it is a shift; upstream looks for a body there and fails.
        depth += text.count("((", seen, start) - text.count("))", seen, start)
        seen = start
        marker = _marker(pending, name, start + offset, word.end + offset) if depth <= 0 else None
        pending = None
        if marker is not None:
            markers.append(marker)
    if markers and re.fullmatch(_BALANCED, text, re.DOTALL) is None:
        return []
    return markers


def chomp(body: str) -> str:
    """Strip the leading tabs (only tabs) of every line, as `<<-` asks for."""
    return re.sub(_LEADING_TABS, "", body)


def _marker(opening: re.Match[str], name: str, start: int, end: int) -> Marker | None:
    if "<" in name:
        return None  # `<<<word` is a here-string, the shell's own business
    unquoted = _unquote(name)
    if not unquoted:
        return None
    digits = opening.group(1)
    return Marker(
        name=unquoted,
        expand=not any(quote in re.sub(_ESCAPED, "", name, flags=re.DOTALL) for quote in "'\""),
        chomp=opening.group(2) == "-",
        fd=int(digits[:9]) if digits else None,
        start=start,
        end=end,
    )


def _unquote(name: str) -> str | None:
    """Remove quotes and escapes; a `$` stays what it is. None where a quote is open."""
    if re.fullmatch(_BALANCED, name, re.DOTALL) is None:
        return None
    return re.sub(_TOKEN, _literal, name, flags=re.DOTALL)


def _literal(match: re.Match[str]) -> str:
    token = match.group()
    if token[0] == "\\":
        return token[1:]
    inner = token[1:-1]
    return inner if token[0] == "'" else re.sub(_ESCAPED_IN_QUOTES, r"\1", inner)
