"""Knows how to take things out of a store beside running builds; must not know what they were.

The protocol is told in README.md, "Leases and collection". In short: every decision is made again
inside a short exclusive transaction of the index, records go before objects, objects are moved out
of sight before they are deleted, and deletion itself happens outside any lock.
"""

from __future__ import annotations

import os
import sqlite3
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain

from msgspec import Struct

from buildgraph.errors import HostError
from buildgraph_cache.disk import host_error
from buildgraph_cache.layout import RESERVE_BYTES, is_full, make_reserve, release_reserve
from buildgraph_cache.leases import floor as oldest_lease
from buildgraph_cache.locks import file_lock, sweep_locks, try_flock
from buildgraph_cache.memory import give_back_large_blocks
from buildgraph_cache.mount_care import remove_mount
from buildgraph_cache.plan import NOT_THERE, Marks, Reach, RecordRow, mark_of, plan_removal
from buildgraph_cache.records import scan
from buildgraph_cache.removal import delete_tree, disk_usage
from buildgraph_cache.scratch import Scratch, sweep
from buildgraph_cache.session import Session
from buildgraph_cache.shelf import DOOMED, Shelf
from buildgraph_cache.usage import LOOSE, DuReport, mounts, object_sizes, usage

# Objects in one transaction. A batch may have to read all records again, so smaller ones would not
# make builds wait less for the index, only more often.
_BATCH = 2000
_ROUNDS = 4
_NAMES = "SELECT name FROM objects WHERE name>? ORDER BY name LIMIT ?"
_LOOSE_AGE = {"partial": 86_400, "failed": 7 * 86_400, "quarantine": 7 * 86_400, "logs": 2_592_000}


class GcReport(Struct, frozen=True):
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
        self._now = _Now()

    def run(self) -> GcReport:
        """Collect, and say what came of it."""
        session = self._session
        session.writable("collecting")
        give_back_large_blocks()
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
        self._now.forget()
        self._floor = session.index.write(lambda c: oldest_lease(c, session.layout))
        caches = self._mounts()
        excess = None
        if self._max_bytes is not None:
            session.index.shrink()  # or the log of our own deletions would count as too much
            total = usage(session).total
            if not os.path.exists(f"{session.layout.reserve}/0"):
                total += RESERVE_BYTES  # it comes back at the end
            excess = max(0, total - self._max_bytes)
        going = self._plan(caches, excess)
        if not going.objects and not going.records:
            return False
        done = self._objects + self._records + self._loose
        self._carry_out(going, caches)
        return excess is not None and self._objects + self._records + self._loose > done

    def _plan(self, caches: Mapping[str, tuple[int, int]], excess: int | None) -> _Going:
        reach = self._reach(caches)
        sizes = array("q", [NOT_THERE]) * len(reach.marks)
        there = chain(object_sizes(self._session), ((n, s) for n, (s, _) in caches.items()))
        for name, size in there:
            number = reach.number(name)
            if number >= 0 and reach.known[number]:
                sizes[number] = size
        unowned = {reach.number(name) for name in caches}
        plan = plan_removal(reach, sizes, self._floor, self._aged(), excess, unowned)
        for place in reach.leading_to(plan.objects):
            plan.records[place] = 0  # it goes with what it leads to
        bare = (reach.numbers[place] for place, flag in enumerate(plan.records) if flag)
        marks = reach.marks.all
        return _Going(
            Marks(marks[number] for number in plan.objects),
            array("Q", (marks[number] for number in bare)),
        )

    def _aged(self) -> int:
        """Return the last generation that began before the allowed age, 0 for none."""
        if self._max_age is None:
            return 0
        row = self._session.index.row(
            "SELECT max(seq) FROM generations WHERE started<=?", (time.time() - self._max_age,)
        )
        return int(row[0]) if row is not None and row[0] is not None else 0

    def _reach(self, caches: Mapping[str, tuple[int, int]]) -> Reach:
        def look(connection: sqlite3.Connection) -> Reach:
            rows: Iterator[tuple[str, int]] = connection.execute(
                "SELECT name, used_seq FROM objects"
            )
            objects = chain(rows, ((name, used) for name, (_, used) in caches.items()))
            reach = Reach(scan(connection), objects, self._keep)
            del reach.rowids[:]  # a deletion looks again
            return reach

        return self._session.index.read(look)

    def _mounts(self) -> dict[str, tuple[int, int]]:
        """Return the size of each cache mount and the generation it was last used in."""
        out: dict[str, tuple[int, int]] = {}
        for name, (size, used) in mounts(self._session.layout).items():
            sql = "SELECT max(seq) FROM generations WHERE started<=?"
            row = self._session.index.row(sql, (used,))
            seq = int(row[0]) if row is not None and row[0] is not None else 0
            # A lease does not pin it: the lock on it does.
            out[name] = size, min(seq, self._floor - 1)
        return out

    def _carry_out(self, going: _Going, caches: Iterable[str]) -> None:
        for name in caches:
            if going.objects.find(mark_of(name)) >= 0:
                self._drop_mount(name.removeprefix("mount:"))
        batch: list[str] = []
        for name in self._object_names() if going.objects else ():
            if going.objects.find(mark_of(name)) >= 0:
                batch.append(name)
            if len(batch) == _BATCH:
                self._remove(batch, ())
                batch = []
        if batch:
            self._remove(batch, ())
        if going.records:
            self._remove([], going.records)

    def _object_names(self) -> Iterator[str]:
        """Yield the names of all objects that the index knows; rows may come and go meanwhile."""
        last = ""
        while rows := self._session.index.rows(_NAMES, (last, _BATCH)):
            yield from (name for (name,) in rows)
            last = rows[-1][0]

    def _drop_mount(self, name: str) -> None:
        try:
            self._loose += remove_mount(self._session, name)
        except (OSError, HostError):
            self._stuck.append(f"{self._session.layout.directory('mounts')}/{name}")

    def _remove(self, names: list[str], records: Sequence[int]) -> None:
        """Take objects, and records by their marks, away that are, now, still nobody's."""
        session = self._session
        with self._no_readers() as free, Scratch(session.layout, session.disk) as trash:
            if not free:
                self._readers = True
                return

            def doom(connection: sqlite3.Connection) -> tuple[list[str], int]:
                return self._doom(connection, names, records)

            def move(connection: sqlite3.Connection) -> list[str]:
                with self._now.ours(connection):
                    return self._shelf.move_doomed(connection, doomed, trash.path, pinned=False)

            doomed, count = session.index.write(doom)
            moved = session.index.write(move) if doomed else []
        self._objects += len(moved)
        self._records += count

    def _doom(
        self, connection: sqlite3.Connection, names: list[str], records: Sequence[int]
    ) -> tuple[list[str], int]:
        """Delete the records that lead to those of the names that nobody holds now.

        Who leads where is read again, under the lock, wherever somebody has written since it was
        read: a record may have come, and its writer's lease have ended.
        """
        now, held = self._now.look(connection, oldest_lease(connection, self._session.layout))
        with self._now.ours(connection):
            return self._delete(connection, now, held, names, records)

    def _delete(
        self,
        connection: sqlite3.Connection,
        now: Reach,
        held: bytearray,
        names: list[str],
        records: Sequence[int],
    ) -> tuple[list[str], int]:
        numbers = {name: now.number(name) for name in names}
        doomed = [name for name, number in numbers.items() if number < 0 or not held[number]]
        gone = now.leading_to(numbers[name] for name in doomed if numbers[name] >= 0)
        bare = [number for mark in records if (number := now.marks.find(mark)) >= 0]
        gone.update(now.places[n] for n in bare if now.places[n] >= 0 and not held[n])
        gone |= now.leading_to([now.numbers[place] for place in gone])
        rows = [(now.rowids[p],) for p in gone if not held[now.numbers[p]]]
        count = 0
        if rows:
            count = connection.executemany("DELETE FROM records WHERE rowid=?", rows).rowcount
        connection.executemany(
            "UPDATE objects SET used_seq=? WHERE name=?", [(DOOMED, name) for name in doomed]
        )
        return doomed, count

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
        known = Marks(map(mark_of, self._object_names()))
        orphans: list[str] = []
        for name, _ in object_sizes(session):
            if known.find(mark_of(name)) < 0:
                orphans.append(name)
            if len(orphans) == _BATCH:
                self._remove_orphans(orphans)
                orphans = []
        if orphans:
            self._remove_orphans(orphans)
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

    def _pinned(self) -> Iterator[tuple[str, int]]:
        """Yield the objects that a live lease holds, with their sizes."""
        session = self._session

        def look(connection: sqlite3.Connection) -> tuple[Reach, bytearray] | None:
            floor = oldest_lease(connection, session.layout)
            for table in ("records", "objects"):
                sql = f"SELECT 1 FROM {table} WHERE used_seq>=? LIMIT 1"
                if connection.execute(sql, (floor,)).fetchone() is not None:
                    return self._now.look(connection, floor)
            return None

        found = session.index.write(look)
        if found is not None:
            reach, held = found
            for name, size in object_sizes(session):
                number = reach.number(name)
                if number >= 0 and held[number]:
                    yield name, size

    def _report(self, before: DuReport) -> GcReport:
        session = self._session
        after = usage(session)

        pinned = dict(self._pinned())
        return GcReport(
            before=before.total,
            after=after.total,
            objects=self._objects,
            records=self._records,
            loose=self._loose,
            pinned=tuple(sorted(pinned)),
            pinned_size=sum(pinned.values()),
            limit=self._max_bytes,
            stuck=tuple(self._stuck),
            readers=self._readers,
        )


class _Going(Struct, frozen=True):
    """The marks of objects that are to go, and of records that lead to none of them."""

    objects: Marks
    records: array[int]


class _Now:
    """Who leads where and what is held, as of the last look; read again when somebody has written.

    That is told by SQLite: `data_version` for other connections, the count of changes for this one.
    """

    def __init__(self) -> None:
        self._as_of: tuple[int, ...] = ()
        self._found: tuple[Reach, bytearray] | None = None

    def look(self, connection: sqlite3.Connection, floor: int) -> tuple[Reach, bytearray]:
        """Return both. Must be called inside an exclusive transaction."""
        if self._found is None or self._as_of != (floor, *_version(connection)):
            self._found = None  # room for the new one
            used = "SELECT name, used_seq FROM objects WHERE used_seq>=?"
            reach = Reach(scan(connection), connection.execute(used, (floor,)))
            self._found = reach, reach.held(floor)
            self._as_of = (floor, *_version(connection))
        return self._found

    def forget(self) -> None:
        """Let go of the last look: with a plan's own picture beside it there would be two."""
        self._found = None

    @contextmanager
    def ours(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Let changes made inside not count: what we take away is not missed in the old picture."""
        current = self._as_of[1:] == _version(connection)
        yield
        if current:
            self._as_of = (self._as_of[0], *_version(connection))


def _version(connection: sqlite3.Connection) -> tuple[int, int]:
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return int(version), connection.total_changes


def _oldest_first(directory: str) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name in os.listdir(directory):
        path = f"{directory}/{name}"
        try:
            found.append((path, os.lstat(path).st_mtime))
        except FileNotFoundError:
            continue
    return sorted(found, key=lambda item: item[1])
