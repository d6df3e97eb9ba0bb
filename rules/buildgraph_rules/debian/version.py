"""Knows how Debian versions sort; must not know what has a version.

Source: deb-version(7), and `verrevcmp` of dpkg's lib/dpkg/version.c for the cases it is silent on.
"""

from __future__ import annotations

import re
from typing import Final, Literal

Operator = Literal["<<", "<=", "=", ">=", ">>"]
OPERATORS: Final[dict[str, Operator]] = {
    "<<": "<<",
    "<=": "<=",
    "=": "=",
    ">=": ">=",
    ">>": ">>",
    "<": "<=",  # obsolete spellings, deb-control(5)
    ">": ">=",
}

_GRAMMAR: Final = re.compile(r"(?:[0-9]+:[0-9A-Za-z.+:~-]+|[0-9A-Za-z.+~-]+)\Z")
_RUN: Final = re.compile(r"([^0-9]*)([0-9]*)")

Key = tuple[int, tuple[object, ...], tuple[object, ...]]


def is_version(text: str) -> bool:
    """Say whether `text` has the form of a version."""
    return bool(_GRAMMAR.match(text))


def version_key(version: str) -> Key:
    """Return a value that sorts as the version does; equal keys mean equal versions.

    "1.0", "0:1.0" and "1.0-0" are equal, so this is not the same as equality of texts.
    """
    epoch, colon, rest = version.partition(":")
    if not colon or not epoch.isdecimal():
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
    return (int(epoch), _part_key(upstream), _part_key(revision))


def compare(left: str, right: str) -> int:
    """Return -1, 0 or 1 as `left` is earlier than, equal to or later than `right`."""
    if left == right:
        return 0
    one, two = version_key(left), version_key(right)
    return (one > two) - (one < two)


def satisfies(version: str, operator: Operator | None, wanted: str) -> bool:
    """Say whether `version` stands in the relation to `wanted`; no operator means any version."""
    if operator is None:
        return True
    order = compare(version, wanted)
    match operator:
        case "<<":
            return order < 0
        case "<=":
            return order <= 0
        case "=":
            return order == 0
        case ">=":
            return order >= 0
        case ">>":
            return order > 0


def _part_key(part: str) -> tuple[object, ...]:
    """Split into runs of non-digits and numbers; every run of text ends in 0, below any letter.

    The closing (0,) lets "1.0" sort above "1.0~" and below "1.0a"; a missing number counts as 0.
    """
    key: list[object] = []
    position = 0
    while True:
        match = _RUN.match(part, position)
        assert match is not None  # both groups may be empty
        key.append((*map(_character_order, match[1]), 0))
        key.append(int(match[2] or 0))
        position = match.end()
        if position >= len(part):
            break
    key.append((0,))
    return tuple(key)


def _character_order(character: str) -> int:
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 256
