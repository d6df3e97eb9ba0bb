"""Knows which targets a set of changed files reaches, by content and by what they need; must not
know where the changes come from, how a definition has changed, or how the answer is printed.

A file reaches targets in one of three ways. As content: a step copies or mounts it. As definition
(`engine.redefined`): what the target was defined as before and now is compared. And downstream:
what needs an affected target is affected. The answer may hold too much (a rebuilt base can come
out the same), never too little.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from msgspec import Struct

from buildgraph.engine.earlier import Changes
from buildgraph.engine.reach import Reach
from buildgraph.engine.reads import DOCKERFILE, IGNORE_FILE, Reading
from buildgraph.errors import Location
from buildgraph.graph.dag import Dag


class Cause(Struct, frozen=True):
    """A changed file, and what it means to a target."""

    path: str
    text: str
    where: Location | None = None


class Affected(Struct, frozen=True):
    """A target that may come out differently: for causes of its own, or by what it needs."""

    label: str
    causes: tuple[Cause, ...]
    via: str | None = None  # the needed target through which it is reached, without own causes


class Causes:
    """The causes found so far, by target, each once."""

    def __init__(self) -> None:
        self.by_label: dict[str, dict[tuple[str, str], Cause]] = {}

    def add(self, label: str, cause: Cause) -> None:
        """Take a cause."""
        self.by_label.setdefault(label, {}).setdefault((cause.path, cause.text), cause)


def reach_of(root: str, reading: Reading) -> Reach:
    """Return the index from paths to what reads them."""
    reach = Reach(root)
    for label, path_reads in reading.paths.items():
        for path_read in path_reads:
            reach.add_path(label, path_read)
    for label, context_reads in reading.contexts.items():
        for context_read in context_reads:
            reach.add_context(label, context_read)
    return reach


def add_content(causes: Causes, root: str, changes: Changes, reach: Reach) -> None:
    """Add what changed files mean as content."""
    appearing = _Directories(root, changes)
    for path in changes.paths:
        for label, read in reach.paths(path):
            if read.role not in (DOCKERFILE, IGNORE_FILE):  # these are compared
                causes.add(label, Cause(path, read.role, read.where))
        # A directory is content as well: it may come or go with a file that is ignored itself.
        directories = appearing.of(path) if reach.hides(path) else ()
        for seen in (path, *directories):
            for label, found in reach.contexts(seen):
                stage = f", stage {found.stage}" if found.stage else ""
                causes.add(label, Cause(path, f"{found.title}{stage}", found.where))


def downstream(causes: Causes, dag: Dag) -> list[Affected]:
    """Return the targets with causes and all that need them, each after what it needs."""
    own: Mapping[str, Mapping[tuple[str, str], Cause]] = causes.by_label
    via: dict[str, str] = {}
    frontier = sorted(own)
    seen = set(frontier)
    while frontier:
        found: list[str] = []
        for name in frontier:
            for user in sorted(dag.users(name)):
                dag.steps += 1
                if user not in seen:
                    seen.add(user)
                    via[user] = name
                    found.append(user)
        frontier = sorted(found)
    return [
        Affected(name, tuple(own.get(name, {}).values()), via.get(name)) for name in dag.order(seen)
    ]


class _Directories:
    """Which directories came or went with the changed files."""

    def __init__(self, root: str, changes: Changes):
        self._root = root
        self._changes = changes
        self._new: dict[str, bool] = {}

    def of(self, path: str) -> Iterable[str]:
        """Yield the directories above a path that are new, or gone."""
        parent = path.rpartition("/")[0]
        while parent:
            if path in self._changes.appeared:
                if not self._is_new(parent):
                    return
            elif path not in self._changes.gone or os.path.isdir(os.path.join(self._root, parent)):
                return
            yield parent
            parent = parent.rpartition("/")[0]

    def _is_new(self, directory: str) -> bool:
        known = self._new.get(directory)
        if known is None:
            known = self._new[directory] = self._look(directory)
        return known

    def _look(self, directory: str) -> bool:
        try:
            with os.scandir(os.path.join(self._root, directory)) as entries:
                for entry in entries:
                    path = f"{directory}/{entry.name}"
                    if path in self._changes.appeared:
                        continue
                    if not entry.is_dir(follow_symlinks=False) or not self._is_new(path):
                        return False
        except OSError:
            return False
        return True
