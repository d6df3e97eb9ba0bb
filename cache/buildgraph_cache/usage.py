"""Knows what every part of a store takes on disk; must not know what should go."""

from __future__ import annotations

import os
from collections.abc import Iterator

from msgspec import Struct

from buildgraph_cache.layout import Layout
from buildgraph_cache.removal import disk_usage
from buildgraph_cache.session import Session

LOOSE = ("partial", "failed", "quarantine", "logs")  # directories of things without records


class Usage(Struct, frozen=True):
    """How many things of one kind there are and what they take, in bytes of disk."""

    kind: str
    count: int
    size: int


class DuReport(Struct, frozen=True):
    """What a store takes. `records` counts the bytes of their values, which are in `index`."""

    parts: tuple[Usage, ...]
    records: tuple[Usage, ...]

    @property
    def total(self) -> int:
        """All bytes of disk below the root, as du(1) counts them."""
        return sum(part.size for part in self.parts)


def usage(session: Session) -> DuReport:
    """Measure the store. Snapshots are walked once and remembered; all else is looked at."""
    layout = session.layout
    snapshots = snapshot_sizes(session)
    count = size = 0
    for _, taken in blob_sizes(layout):
        count += 1
        size += taken
    parts = [
        Usage("blobs", count, size),
        Usage("snapshots", len(snapshots), sum(snapshots.values())),
    ]
    for name in ("mounts", "tmp", *LOOSE):
        directory = layout.directory(name)
        names = _names(directory)
        size = sum(disk_usage(f"{directory}/{entry}") for entry in names)
        parts.append(Usage(name, len(names), size))
    index = [name for name in _names(layout.root) if name.startswith("index.sqlite")]
    parts.append(Usage("index", 1, sum(disk_usage(f"{layout.root}/{name}") for name in index)))
    parts.append(Usage("frame", 1, _frame(layout)))
    rows = session.index.rows(
        "SELECT kind, count(*), sum(length(value)) FROM records GROUP BY kind ORDER BY kind"
    )
    return DuReport(tuple(parts), tuple(Usage(*row) for row in rows))


def _frame(layout: Layout) -> int:
    """Return what an empty store takes: its directories, small files and the reserve."""
    total = disk_usage(f"{layout.root}/locks")
    total += os.lstat(layout.root).st_blocks * 512
    for name in ("VERSION", "CACHEDIR.TAG", "reserve"):
        total += disk_usage(f"{layout.root}/{name}")
    for name in ("blobs", "blobs/sha256", "snapshots", "mounts", "tmp", *LOOSE):
        total += _own(layout.directory(name))
    for shard in _names(layout.directory("blobs/sha256")):
        total += _own(f"{layout.root}/blobs/sha256/{shard}")
    return total


def blob_sizes(layout: Layout) -> Iterator[tuple[str, int]]:
    """Yield the name of the object and the bytes of disk of every blob file."""
    top = layout.directory("blobs/sha256")
    for shard in _names(top):
        for name in _names(f"{top}/{shard}"):
            yield f"blob:sha256:{name}", _own(f"{top}/{shard}/{name}")


def object_sizes(session: Session) -> Iterator[tuple[str, int]]:
    """Yield the name and the bytes of disk of every blob and snapshot."""
    yield from blob_sizes(session.layout)
    yield from snapshot_sizes(session).items()


def snapshot_sizes(session: Session) -> dict[str, int]:
    """Return the bytes of disk of every snapshot directory, by the name of the object."""
    sql = "SELECT name, bytes FROM objects WHERE name>='snapshot:' AND name<'snapshot;'"
    rows = session.index.rows(sql)
    known = dict(rows)
    sizes: dict[str, int] = {}
    fresh: list[tuple[int, str]] = []
    for entry in _names(session.layout.directory("snapshots")):
        name = f"snapshot:{entry}"
        size = known.get(name)
        if size is None:
            size = disk_usage(session.layout.snapshot(entry))
            if name in known:
                fresh.append((size, name))
        sizes[name] = size
    if fresh and not session.read_only:
        sql = "UPDATE objects SET bytes=? WHERE name=?"
        session.index.write(lambda connection: connection.executemany(sql, fresh))
    return sizes


def mounts(layout: Layout) -> dict[str, tuple[int, float]]:
    """Return the bytes of disk and the time of last use of every cache mount, by name."""
    found: dict[str, tuple[int, float]] = {}
    for entry in _names(layout.directory("mounts")):
        path = f"{layout.directory('mounts')}/{entry}"
        try:
            found[f"mount:{entry}"] = disk_usage(path), os.lstat(path).st_mtime
        except FileNotFoundError:
            continue
    return found


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _own(path: str) -> int:
    try:
        return os.lstat(path).st_blocks * 512
    except FileNotFoundError:
        return 0
