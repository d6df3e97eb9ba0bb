"""Knows how to take things out of a store beside running builds; must not know what they were.

The protocol is told in README.md, "Leases and collection". In short: every decision is made again
inside a short exclusive transaction of the index, records go before objects, objects are moved out
of sight before they are deleted, and deletion itself happens outside any lock.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from buildgraph.errors import HostError
from buildgraph_cache.disk import host_error
from buildgraph_cache.layout import RESERVE_BYTES, is_full, make_reserve, release_reserve
from buildgraph_cache.leases import floor as oldest_lease
from buildgraph_cache.locks import file_lock, sweep_locks, try_flock
from buildgraph_cache.mount_care import remove_mount
from buildgraph_cache.objects import key_bytes
from buildgraph_cache.plan import Plan, Reach, RecordRow, plan_removal
from buildgraph_cache.records import scan
from buildgraph_cache.removal import delete_tree, disk_usage
from buildgraph_cache.scratch import Scratch, sweep
from buildgraph_cache.session import Session
from buildgraph_cache.shelf import DOOMED, Shelf
from buildgraph_cache.usage import LOOSE, DuReport, blob_sizes, mounts, snapshot_sizes, usage

# Objects in one transaction. Every batch reads all records again, so smaller ones would not make
# builds wait less for the index, only more often.
_BATCH = 2000
_ROUNDS = 4
_LOOSE_AGE = {"partial": 86_400, "failed": 7 * 86_400, "quarantine": 7 * 86_400, "logs": 2_592_000}


@dataclass(frozen=True, slots=True)
class GcReport:
    """What a collection did. Sizes are bytes of disk."""

    before: int
    after: int
    objects: int
    records: int
    loose: int  # scratch, downloads, logs and the like of dead processes
    pinned: tuple[str, ...]  # objects that a running build holds
    pinned_size: int
    limit: int | None
    stuck: tuple[str, ...] = ()  # paths that could not be deleted
    readers: bool = False  # a read-only opener held everything

    @property
    def over_limit(self) -> bool:
        """Whether the store is still larger than asked for."""
        return self.limit is not None and self.after > self.limit


class Collector:
    """One collection."""

    def __init__(
        self,
        session: Session,
        max_bytes: int | None,
        max_age: float | None,
        keep: Callable[[RecordRow], bool] | None,
    ) -> None:
        self._session = session
        self._shelf = Shelf(session)
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._keep = keep
        self._objects = 0
        self._records = 0
        self._loose = 0
        self._stuck: list[str] = []
        self._readers = False
        self._floor = 0

    def run(self) -> GcReport:
        """Collect, and say what came of it."""
        session = self._session
        session.writable("collecting")
        try:
            with file_lock(session.layout.gc_lock):
                self._make_room()
                before = usage(session)
                self._sweep(before)
                self._forget_lost()
                for _ in range(_ROUNDS):
                    if not self._round():
                        break
                self._sweep_orphans()
                session.index.shrink()
                make_reserve(session.layout)
                return self._report(before)
        except OSError as error:
            raise host_error(error, session.layout.root, "collecting") from error

    def _make_room(self) -> None:
        if is_full(self._session.layout.root):
            release_reserve(self._session.layout)

    def _sweep(self, before: DuReport) -> None:
        """Delete what needs no index to be known as garbage."""
        layout, disk = self._session.layout, self._session.disk
        sweep_locks(f"{layout.directory('locks')}/keys")
        count, self._stuck = sweep(layout, disk)
        self._loose += count
        excess = 0 if self._max_bytes is None else before.total - self._max_bytes
        excess -= sum(part.size for part in before.parts if part.kind == "tmp")
        now = time.time()
        for kind in LOOSE:
            for path, modified in _oldest_first(layout.directory(kind)):
                if excess <= 0 and now - modified < _LOOSE_AGE[kind]:
                    continue
                size = disk_usage(path)
                if self._delete_loose(path):
                    excess -= size

    def _delete_loose(self, path: str) -> bool:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            fd = -1
        try:
            if fd >= 0 and not try_flock(fd):
                return False  # a download that goes on, a log being written
            delete_tree(self._session.disk, path)
        except (OSError, HostError):
            self._stuck.append(path)
            return False
        finally:
            if fd >= 0:
                os.close(fd)
        self._loose += 1
        return True

    def _forget_lost(self) -> None:
        """Delete records that a power cut made unbelievable, and times nobody was used at."""

        def change(connection: sqlite3.Connection) -> int:
            boot = self._session.boot
            sql = "DELETE FROM records WHERE durable=0 AND boot<>?"
            count = connection.execute(sql, (boot,)).rowcount
            connection.execute(
                """DELETE FROM generations WHERE seq < (SELECT min(seq) FROM (
                    SELECT min(used_seq) AS seq FROM records UNION ALL
                    SELECT min(used_seq) FROM objects WHERE used_seq>0 UNION ALL
                    SELECT value FROM meta WHERE name='seq'))"""
            )
            return count

        self._records += self._session.index.write(change)

    def _round(self) -> bool:
        """Plan once and carry it out; return whether another round may find more."""
        session = self._session
        sizes = {**blob_sizes(session.layout), **snapshot_sizes(session)}
        reach, known = self._reach()
        self._floor = session.index.write(lambda c: oldest_lease(c, session.layout))
        sizes = {name: size for name, size in sizes.items() if name in known}
        self._add_mounts(reach, sizes)
        excess = None
        if self._max_bytes is not None:
            session.index.shrink()  # or the log of our own deletions would count as too much
            total = usage(session).total
            if not os.path.exists(f"{session.layout.reserve}/0"):
                total += RESERVE_BYTES  # it comes back at the end
            excess = max(0, total - self._max_bytes)
        plan = plan_removal(reach, sizes, self._floor, self._aged(), excess)
        if not plan.objects and not plan.records:
            return False
        done = self._objects + self._records + self._loose
        self._carry_out(plan, reach)
        return excess is not None and self._objects + self._records + self._loose > done

    def _aged(self) -> int:
        """Return the last generation that began before the allowed age, 0 for none."""
        if self._max_age is None:
            return 0
        row = self._session.index.row(
            "SELECT max(seq) FROM generations WHERE started<=?", (time.time() - self._max_age,)
        )
        return int(row[0]) if row is not None and row[0] is not None else 0

    def _reach(self) -> tuple[Reach, dict[str, int]]:
        records = self._session.index.read(lambda connection: list(scan(connection)))
        objects = dict(self._session.index.rows("SELECT name, used_seq FROM objects"))
        return Reach(records, objects, self._keep), objects

    def _add_mounts(self, reach: Reach, sizes: dict[str, int]) -> None:
        """Line cache mounts up with the objects, by the generation they were last used in."""
        for name, (size, used) in mounts(self._session.layout).items():
            sizes[name] = size
            sql = "SELECT max(seq) FROM generations WHERE started<=?"
            row = self._session.index.row(sql, (used,))
            reach.used[name] = int(row[0]) if row is not None and row[0] is not None else 0
            # A lease does not pin it: the lock on it does.
            reach.used[name] = min(reach.used[name], self._floor - 1)

    def _carry_out(self, plan: Plan, reach: Reach) -> None:
        for name in plan.objects:
            if name.startswith("mount:"):
                self._drop_mount(name.removeprefix("mount:"))
        objects = [name for name in plan.objects if not name.startswith("mount:")]
        for start in range(0, len(objects), _BATCH):
            self._remove(objects[start : start + _BATCH], set())
        bare = plan.records - reach.leading_to(plan.objects)
        if bare:
            self._remove([], bare)

    def _drop_mount(self, name: str) -> None:
        try:
            self._loose += remove_mount(self._session, name)
        except (OSError, HostError):
            self._stuck.append(f"{self._session.layout.directory('mounts')}/{name}")

    def _remove(self, names: list[str], records: set[str]) -> None:
        """Take objects and records away that are, now, still nobody's."""
        session = self._session
        with self._no_readers() as free, Scratch(session.layout, session.disk) as trash:
            if not free:
                self._readers = True
                return

            def doom(connection: sqlite3.Connection) -> tuple[list[str], int]:
                return self._doom(connection, names, records)

            def move(connection: sqlite3.Connection) -> list[str]:
                return self._shelf.move_doomed(connection, doomed, trash.path, pinned=False)

            doomed, count = session.index.write(doom)
            moved = session.index.write(move) if doomed else []
        self._objects += len(moved)
        self._records += count

    def _doom(
        self, connection: sqlite3.Connection, names: list[str], records: set[str]
    ) -> tuple[list[str], int]:
        """Delete the records that lead to those of the names that nobody holds now.

        Who leads where is read again, under the lock: a record may have been written, and its
        writer's lease have ended, since the plan was made.
        """
        floor = oldest_lease(connection, self._session.layout)
        now = Reach(scan(connection), {})
        held = pinned_names(connection, floor, now)
        doomed = [name for name in names if name not in held]
        gone = now.leading_to(doomed) | ((records & now.records.keys()) - held)
        gone |= now.leading_to(gone)
        rows = [now.records[name] for name in gone if name not in held]
        connection.executemany(
            "DELETE FROM records WHERE kind=? AND key=?",
            [(row.kind, key_bytes(row.key)) for row in rows],
        )
        connection.executemany(
            "UPDATE objects SET used_seq=? WHERE name=?", [(DOOMED, name) for name in doomed]
        )
        return doomed, len(rows)

    @contextmanager
    def _no_readers(self) -> Iterator[bool]:
        """Keep openers of a read-only store, who cannot write what they use, out for a moment."""
        fd = os.open(self._session.layout.readers_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            yield try_flock(fd)
        finally:
            os.close(fd)

    def _sweep_orphans(self) -> None:
        """Delete objects that no row knows: their publisher, or a collection, died on the way."""
        session = self._session
        known = {name for (name,) in session.index.rows("SELECT name FROM objects")}
        there = [*blob_sizes(session.layout), *snapshot_sizes(session)]
        orphans = [name for name in there if name not in known]
        for start in range(0, len(orphans), _BATCH):
            self._remove_orphans(orphans[start : start + _BATCH])
        session.index.write(self._drop_empty_shards)

    def _remove_orphans(self, names: list[str]) -> None:
        session = self._session
        with self._no_readers() as free, Scratch(session.layout, session.disk) as trash:
            if not free:
                self._readers = True
                return

            def change(connection: sqlite3.Connection) -> int:
                if oldest_lease(connection, session.layout) == 0:
                    return 0
                count = 0
                for number, name in enumerate(names):
                    sql = "SELECT 1 FROM objects WHERE name=?"
                    if connection.execute(sql, (name,)).fetchone() is None:
                        try:
                            path = session.layout.object(name)
                            session.disk.rename(path, f"{trash.path}/{number}")
                            count += 1
                        except FileNotFoundError:
                            continue
                return count

            self._objects += session.index.write(change)

    def _drop_empty_shards(self, connection: sqlite3.Connection) -> None:
        top = self._session.layout.directory("blobs/sha256")
        for shard in os.listdir(top):
            try:
                os.rmdir(f"{top}/{shard}")
            except OSError:
                continue

    def _report(self, before: DuReport) -> GcReport:
        session = self._session
        after = usage(session)

        def look(connection: sqlite3.Connection) -> set[str]:
            floor = oldest_lease(connection, session.layout)
            return pinned_names(connection, floor, Reach(scan(connection), {}))

        held = session.index.write(look)
        sizes = {**blob_sizes(session.layout), **snapshot_sizes(session)}
        pinned = sorted(name for name in sizes if name in held)
        return GcReport(
            before=before.total,
            after=after.total,
            objects=self._objects,
            records=self._records,
            loose=self._loose,
            pinned=tuple(pinned),
            pinned_size=sum(sizes[name] for name in pinned),
            limit=self._max_bytes,
            stuck=tuple(self._stuck),
            readers=self._readers,
        )


def pinned_names(connection: sqlite3.Connection, floor: int, reach: Reach) -> set[str]:
    """Return the names of all records and objects that live leases hold."""
    pending = [row.name for row in reach.records.values() if row.used_seq >= floor]
    for (name,) in connection.execute("SELECT name FROM objects WHERE used_seq>=?", (floor,)):
        pending.append(name)
    held: set[str] = set()
    while pending:
        current = pending.pop()
        if current not in held:
            held.add(current)
            row = reach.records.get(current)
            if row is not None:
                pending.extend(row.refs)
    return held


def _oldest_first(directory: str) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name in os.listdir(directory):
        path = f"{directory}/{name}"
        try:
            found.append((path, os.lstat(path).st_mtime))
        except FileNotFoundError:
            continue
    return sorted(found, key=lambda item: item[1])
