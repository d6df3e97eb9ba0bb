"""Knows who may use a target; must not know which targets there are.

Everybody may where nothing is written: a repository of plain Dockerfiles works as it is. A
target is always visible in its own package, and on the command line.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from buildgraph.errors import Location
from buildgraph.label import AllBelow, AllInPackage, Label, OneTarget, TargetPattern

PUBLIC: Final = "public"
PRIVATE: Final = "private"


class Visibility(Struct, frozen=True):
    """The users that a target allows beside its own package; `where` is where that is written."""

    users: tuple[TargetPattern, ...]
    where: Location

    def allows(self, owner: Label, user: Label) -> bool:
        """Say whether `user` may use `owner`. A pattern with `-` takes away, in order."""
        if owner.package == user.package:
            return True
        allowed = False
        for pattern in self.users:
            if _matches(pattern, user):
                allowed = not pattern.exclude
        return allowed

    def words(self) -> str:
        """Return who may, for a message."""
        return ", ".join(pattern.text for pattern in self.users) or PRIVATE


def _matches(pattern: TargetPattern, user: Label) -> bool:
    match pattern.what:
        case OneTarget(label):
            return label == user or (label.package == user.package and label.name == user.base_name)
        case AllInPackage(package):
            return user.package == package
        case AllBelow(package):
            return not package or f"{user.package}/".startswith(f"{package}/")
        case _:
            return False
