"""Knows every file and directory that a command looked at and what lstat(2) said of it; must not
know why it was looked at.

They may be hundreds of thousands, so they stay packed and are told a directory at a time. Contexts
that overlap saw the same entries: these are told once, unless they changed in between.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from buildgraph.context.observation import Directory, Row, row_of
from buildgraph.context.tree import stat_of_row
from buildgraph.engine.sources import Sources
from buildgraph.filetree import FileStat


class LookedAt:
    """What was looked at, by absolute path. Iterating yields (path, status) by directory."""

    def __init__(self) -> None:
        self._directories: dict[str, list[Directory]] = {}
        self._single: dict[str, set[Row]] = {}  # by directory

    def __bool__(self) -> bool:
        return bool(self._directories or self._single)

    def __iter__(self) -> Iterator[tuple[str, FileStat]]:
        for path in sorted(self._directories.keys() | self._single.keys()):
            prefix = path.rstrip("/") + "/"
            yield from ((prefix + row[0], stat_of_row(row)) for row in self._rows(path))

    def _rows(self, path: str) -> list[Row]:
        listed = self._directories.get(path, ())
        single = self._single.get(path, set())
        if len(listed) == 1 and not single:
            return listed[0].rows()
        return sorted(single.union(*(directory.rows() for directory in listed)))

    def add_all(self, other: LookedAt) -> None:
        """Add what somebody else has looked at."""
        for path, listed in other._directories.items():
            self._directories.setdefault(path, []).extend(listed)
        for path, rows in other._single.items():
            self._single.setdefault(path, set()).update(rows)

    def add_contexts(self, sources: Sources) -> None:
        """Add what was seen of the contexts of a build, as it was then."""
        for root, found in sources.found():
            for directory in found:
                path = f"{root}/{directory.path}" if directory.path else root
                self._directories.setdefault(path, []).append(directory)
                self._add(path, directory.own)

    def add(self, path: str) -> None:
        """Add a file or directory as it is now, and what it leads to: that may change while a link
        stays. Raises OSError.
        """
        for place in {path, os.path.realpath(path)}:
            self._add(place, row_of("", os.lstat(place)))

    def _add(self, path: str, row: Row) -> None:
        parent, name = os.path.split(path)
        self._single.setdefault(parent, set()).add((name, *row[1:]))
