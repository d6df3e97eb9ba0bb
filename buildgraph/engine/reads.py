"""Knows what a target can read of its workspace, as plain data that can be kept; must not know how
it was found out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, field

from buildgraph.context.ignore import IgnoreRules
from buildgraph.errors import Location

# Roles of files that define a target: what they say is compared, not their bytes.
DOCKERFILE = "Dockerfile"
IGNORE_FILE = "ignore file"


class PathRead(Struct, frozen=True):
    """A file that is read, or a directory with all that is below it; from the workspace's root."""

    path: str
    role: str
    where: Location


class ContextAt(Struct, frozen=True):
    """A context: its directory from the workspace's root, and the lines of its ignore file.

    `real` is the same directory without links; None where a link leads out of the workspace.
    """

    root: str
    ignore: tuple[str, ...]
    ignore_name: str
    real: str | None

    def rules(self) -> IgnoreRules:
        """Return the ignore rules. Raises InputError."""
        return IgnoreRules.parse("\n".join(self.ignore), self.ignore_name)


class ContextRead(Struct, frozen=True):
    """What one step takes from one context: `sources` as expanded, None: all of it, maybe."""

    context: ContextAt
    sources: tuple[str, ...] | None
    title: str
    stage: str
    where: Location
    exclude: tuple[str, ...] = ()
    parents: bool = False


class Reading(Struct, frozen=True):
    """What every target of a workspace needs and reads, by label; `defining`: the files whose text
    defines targets; `seen`: of each target a digest over what its users can notice when they are
    unfolded, so that a change which they cannot is theirs no more.
    """

    needs: Mapping[str, Sequence[str]]
    paths: Mapping[str, Sequence[PathRead]]
    contexts: Mapping[str, Sequence[ContextRead]]
    defining: frozenset[str]
    seen: Mapping[str, str] = field(default_factory=dict)
