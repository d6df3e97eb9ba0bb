"""Knows the SQLite file of a store: its schema, its one connection, what its errors mean.

Must not know what a record is for. The index is disposable: damage is moved aside, and a new one
takes its place; the worst that follows is that work is done again.

One connection serves all threads behind one lock. That was measured against a connection for each
thread: a lookup takes 5 microseconds, so threads of a Python program gain nothing from more, and a
single connection keeps the statement cache warm and has one transaction at a time.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from buildgraph.errors import BuildgraphError, HostError, StoreCorrupt
from buildgraph_cache.disk import Disk, full_error, host_error, mount_of
from buildgraph_cache.layout import Layout
from buildgraph_cache.locks import file_lock

T = TypeVar("T")

# Sequence numbers start at the milliseconds of the clock, far over 2**32: all of them take six
# bytes in a row, so that touching a row never changes its size and never moves its neighbours. A
# later index of the same store starts higher than any lease of an earlier one.
_SCHEMA = """
PRAGMA auto_vacuum=INCREMENTAL;
PRAGMA journal_mode=WAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS generations(seq INTEGER PRIMARY KEY, started INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS records(
    kind TEXT NOT NULL, key BLOB NOT NULL, used_seq INTEGER NOT NULL, created INTEGER NOT NULL,
    seconds REAL NOT NULL, durable INTEGER NOT NULL, boot TEXT NOT NULL, refs TEXT NOT NULL,
    sum BLOB NOT NULL, value BLOB NOT NULL, UNIQUE(kind, key));
CREATE TABLE IF NOT EXISTS objects(
    name TEXT PRIMARY KEY, used_seq INTEGER NOT NULL, durable INTEGER NOT NULL, boot TEXT NOT NULL,
    bytes INTEGER, fingerprint BLOB) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES('seq', {seq}), ('first', {seq}), ('schema', {schema});
INSERT OR IGNORE INTO generations SELECT value, {now} FROM meta WHERE name='first';
COMMIT;
"""
SCHEMA = 2  # an index of an older one is replaced: it is disposable
_CHECKPOINT_PAGES = 4000  # 16 MiB of log before SQLite folds it in by itself
_BUSY_SECONDS = 60.0


class Index:
    """The open index. Methods are safe to call from any thread; not across fork(2)."""

    def __init__(self, layout: Layout, disk: Disk, read_only: bool) -> None:
        self._layout = layout
        self._disk = disk
        self._lock = threading.RLock()
        self.read_only = read_only
        self.rebuilt = False  # a new index had to take the place of a lost or damaged one
        self._connection = self._open()

    def close(self) -> None:
        """Close the connection; the last one folds the log into the file."""
        with self._lock:
            self._connection.close()

    def row(self, sql: str, values: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        """Run one statement and return its first row."""

        def run(connection: sqlite3.Connection) -> tuple[Any, ...] | None:
            found: tuple[Any, ...] | None = connection.execute(sql, values).fetchone()
            return found

        return self._guard(run)

    def rows(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Run one query and return all its rows."""
        return self._guard(lambda connection: connection.execute(sql, values).fetchall())

    def read(self, look: Callable[[sqlite3.Connection], T]) -> T:
        """Run several queries."""
        return self._guard(look)

    def put(self, sql: str, values: tuple[Any, ...]) -> int:
        """Run one changing statement as its own transaction; return how many rows it changed."""

        def run(connection: sqlite3.Connection) -> int:
            self._disk.before("commit")
            return connection.execute(sql, values).rowcount

        return self._guard(run)

    def write(self, change: Callable[[sqlite3.Connection], T], flush: bool = False) -> T:
        """Run `change` in one exclusive transaction; with `flush` it survives a power cut.

        An exception rolls everything back. `change` may be run a second time, on a new and empty
        index, when the first run finds the old one damaged.
        """

        def run(connection: sqlite3.Connection) -> T:
            if flush:
                connection.execute("PRAGMA synchronous=FULL")
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = change(connection)
                self._disk.before("commit")
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                if flush:
                    connection.execute("PRAGMA synchronous=NORMAL")
            return result

        return self._guard(run)

    def checkpoint(self) -> None:
        """Fold the log into the file and cut it, as far as readers allow."""
        self._guard(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)"))

    def shrink(self) -> None:
        """Give pages freed by deletions back to the file system."""

        def run(connection: sqlite3.Connection) -> None:
            # A statement without columns is stepped once by execute(), which frees one page.
            connection.executescript("PRAGMA incremental_vacuum;")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

        self._guard(run)

    def problems(self) -> list[str]:
        """Return what SQLite's own check finds wrong with the file."""
        try:
            with self._lock:
                found = self._connection.execute("PRAGMA integrity_check(20)").fetchall()
        except sqlite3.DatabaseError as error:
            return [str(error)]
        return [str(row[0]) for row in found if row[0] != "ok"]

    def reset(self) -> None:
        """Replace the index by an empty one; the old file goes to quarantine."""
        with self._lock:
            self._replace(self._connection)

    def _guard(self, run: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                return run(self._connection)
            except sqlite3.Error as error:
                if not _is_damage(error) or self.read_only:
                    raise self._translate(error) from error
                self._replace(self._connection)
            try:
                return run(self._connection)
            except sqlite3.Error as error:
                raise self._translate(error) from error

    def _translate(self, error: sqlite3.Error) -> BuildgraphError:
        return index_error(error, self._layout)

    def _open(self) -> sqlite3.Connection:
        if self.read_only:
            return _open_read_only(self._layout)
        path = self._layout.index
        try:
            connection = _connect(f"file:{_quote(path)}?mode=rw")
            try:
                _check(connection)
            except BaseException:
                connection.close()
                raise
            return connection
        except sqlite3.Error as error:
            missing = not os.path.exists(path)
            if not missing and not _is_damage(error) and not _is_unmade(error):
                raise self._translate(error) from error
        return self._create()

    def _create(self) -> sqlite3.Connection:
        """Make the index, or replace a damaged one; one process at a time."""
        with file_lock(self._layout.open_lock):
            try:
                connection = _connect(f"file:{_quote(self._layout.index)}?mode=rwc")
                try:
                    _make(connection, self._layout)
                    _check(connection)
                except BaseException:
                    connection.close()
                    raise
                self.rebuilt = _has_objects(self._layout)
            except sqlite3.Error as error:
                if not _is_damage(error):
                    raise self._translate(error) from error
                self._move_aside()
                self.rebuilt = True
                connection = _connect(f"file:{_quote(self._layout.index)}?mode=rwc")
                _make(connection, self._layout)
        return connection

    def _replace(self, damaged: sqlite3.Connection) -> None:
        """Open the index anew, moving it aside first unless another process already did."""
        with file_lock(self._layout.open_lock):
            try:
                probe = _connect(f"file:{_quote(self._layout.index)}?mode=rw")
                sound = probe.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
                probe.close()
            except sqlite3.Error:
                sound = False
            if not sound:
                self._move_aside()
        # Closed only now: SQLite sees that its file was moved and leaves the new log alone.
        damaged.close()
        self._connection = self._create()
        self.rebuilt = True

    def _move_aside(self) -> None:
        stamp = f"{self._layout.directory('quarantine')}/index-{time.time_ns()}"
        for suffix in ("", "-wal", "-shm"):
            try:
                self._disk.rename(self._layout.index + suffix, f"{stamp}.sqlite{suffix}")
            except FileNotFoundError:
                continue


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri,
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=128,
    )
    # Noise in a text must not look like a mistake of ours: `sum` is there to find it.
    connection.text_factory = _text
    try:
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
    except BaseException:
        connection.close()
        raise
    return connection


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _check(connection: sqlite3.Connection) -> None:
    row = connection.execute("SELECT value FROM meta WHERE name='schema'").fetchone()
    if row is None:
        raise sqlite3.OperationalError("no such table: meta is empty")
    if row[0] < SCHEMA:
        raise sqlite3.DataError(f"the index has the old schema {row[0]}")
    if row[0] > SCHEMA:
        raise HostError(
            f"the index has schema {row[0]}; this program knows {SCHEMA}",
            hint="use the newer buildgraph, or another directory with --store DIR",
        )


def _make(connection: sqlite3.Connection, layout: Layout) -> None:
    leases = [int(name) for name in os.listdir(f"{layout.root}/locks/leases") if name.isdigit()]
    seq = max([int(time.time() * 1000), 1 << 33, *(lease + 1 for lease in leases)])
    connection.executescript(_SCHEMA.format(seq=seq, now=int(time.time()), schema=SCHEMA))
    os.chmod(layout.index, 0o600)


def _has_objects(layout: Layout) -> bool:
    return bool(os.listdir(f"{layout.root}/blobs/sha256") or os.listdir(f"{layout.root}/snapshots"))


def _open_read_only(layout: Layout) -> sqlite3.Connection:
    """Open without writing a byte; a log left by a dead writer is read where SQLite can."""
    path = _quote(layout.index)
    error: sqlite3.Error | None = None
    for query in ("mode=ro", "mode=ro&immutable=1"):
        try:
            connection = sqlite3.connect(
                f"file:{path}?{query}", uri=True, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as caught:
            error = caught
            continue
        try:
            connection.text_factory = _text
            _check(connection)
            return connection
        except sqlite3.Error as caught:
            error = caught
            connection.close()
        except BaseException:
            connection.close()
            raise
    assert error is not None
    raise index_error(error, layout) from error


def _quote(path: str) -> str:
    """Escape a path for SQLite's file: URIs (sqlite.org/uri.html)."""
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _is_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or isinstance(
        error, sqlite3.DataError
    )


def _is_unmade(error: sqlite3.Error) -> bool:
    return "no such table" in str(error)


def index_error(error: sqlite3.Error, layout: Layout) -> BuildgraphError:
    """Return what an error of SQLite means to the user."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    where = f"the index of {layout.root}"
    if code == sqlite3.SQLITE_FULL:
        return full_error(layout.root, f"writing {where}")
    if code == sqlite3.SQLITE_BUSY:
        return HostError(
            f"{where} was locked by another process for {_BUSY_SECONDS:.0f} seconds",
            hint="look for a stopped buildgraph process",
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        if os.statvfs(layout.root).f_flag & os.ST_RDONLY:
            return host_error(OSError(errno.EROFS, str(error)), layout.root, f"writing {where}")
        return HostError(
            f"{where} cannot be written: {error} ({mount_of(layout.root)})",
            hint="the disk may be full or read-only; choose another store with --store DIR",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreCorrupt(f"{where} is damaged: {error}", hint="run `buildgraph cache verify`")
    return HostError(
        f"{where} cannot be used: {error} ({mount_of(layout.root)})",
        hint="look at the disk: space, permissions, the kernel's log",
    )
