"""Knows the grammar of relations between packages (Depends, Provides, …); must not know which
packages exist.

Source: deb-control(5), Debian policy 7.1.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from msgspec import Struct

from buildgraph_rules.debian.version import OPERATORS, Operator, satisfies

_RELATION: Final = re.compile(
    r"\s*(?P<name>[A-Za-z0-9][A-Za-z0-9+._-]*)(?::(?P<arch>[a-z0-9-]+))?"
    r"\s*(?:\(\s*(?P<op><<|<=|=|>=|>>|<|>)\s*(?P<version>[^\s()<=>]+)\s*\))?"
    r"\s*(?:\[[^\]]*\])?\s*(?:<[^>]*>\s*)*\Z"
)


class Relation(Struct, frozen=True):
    """One name with an optional version: `foo:any (>= 1.2)`."""

    name: str
    operator: Operator | None = None
    version: str = ""
    qualifier: str = ""  # architecture after the colon: "any", "native", or a name

    def __str__(self) -> str:
        name = f"{self.name}:{self.qualifier}" if self.qualifier else self.name
        return f"{name} ({self.operator} {self.version})" if self.operator else name

    def admits(self, version: str) -> bool:
        """Say whether a real package of this version satisfies the relation."""
        return satisfies(version, self.operator, self.version)

    def admits_provided(self, version: str | None) -> bool:
        """Say whether a Provides with this version does; an unversioned one has no version."""
        if self.operator is None:
            return True
        return version is not None and satisfies(version, self.operator, self.version)


Group = tuple[Relation, ...]  # alternatives, the preferred one first


def parse_relation(text: str) -> Relation:
    """Parse one relation, or raise ValueError."""
    match = _RELATION.match(text)
    if match is None:
        raise ValueError(f"bad package relation {text.strip()!r}")
    operator = OPERATORS[match["op"]] if match["op"] else None
    return Relation(match["name"], operator, match["version"] or "", match["arch"] or "")


@lru_cache(maxsize=4096)
def parse_relations(text: str) -> tuple[Group, ...]:
    """Parse a comma-separated field into groups of alternatives, or raise ValueError."""
    return tuple(
        tuple(parse_relation(alternative) for alternative in group.split("|"))
        for group in text.split(",")
        if group.strip()
    )


def show_group(group: Group) -> str:
    """Return the group as the control file writes it."""
    return " | ".join(map(str, group))
