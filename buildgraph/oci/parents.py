"""Knows how entries get the directories they need above them; must not know what they are for."""

from __future__ import annotations

from collections.abc import Iterable

from buildgraph.filetree import Entry, FileTree, Kind


def with_parents(
    entries: Iterable[Entry], below: FileTree | None, *, mode: int = 0o755
) -> list[Entry]:
    """Return the entries with the parent directories they lack.

    A parent that exists below keeps its mode, owner, time and attributes, because overlayfs shows
    the upper one's; a missing one is made with `mode`, owner 0:0 and the epoch. A parent that is
    no directory below is replaced by one. Paths must be real: links on the way already resolved.
    """
    given = list(entries)
    have = {entry.path for entry in given if entry.kind is Kind.DIR}
    added: list[Entry] = []
    for entry in given:
        parent = entry.path.rpartition("/")[0]
        while parent and parent not in have:
            have.add(parent)
            added.append(_parent(parent, below, mode))
            parent = parent.rpartition("/")[0]
    return added + given


def _parent(path: str, below: FileTree | None, mode: int) -> Entry:
    found = below.stat(path) if below is not None else None
    if below is None or found is None or found.kind is not Kind.DIR:
        return Entry(path, Kind.DIR, mode)
    return Entry(
        path,
        Kind.DIR,
        found.mode,
        found.uid,
        found.gid,
        mtime=found.mtime_ns // 1_000_000_000,
        xattrs=below.xattrs(path),
    )
