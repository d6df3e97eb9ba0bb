"""Knows small named values that point at objects; must not know what they stand for.

A record is believed when a syncfs(2) covered everything it refers to (`durable`), or when the
machine has not been started anew since it was written: a process that is killed loses nothing the
kernel already has, only a power cut does. Each row carries a fingerprint of itself, since SQLite
finds damage in its structure, but none in what it holds.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import xxhash
from msgspec import Struct

from buildgraph_cache.objects import is_object_ref, key_bytes, key_text
from buildgraph_cache.session import Session

if TYPE_CHECKING:
    from buildgraph_cache.plan import RecordRow

_GET = """SELECT value, refs, used_seq, durable, boot, created, sum
    FROM records WHERE kind=? AND key=?"""
_TOUCH = "UPDATE records SET used_seq=max(used_seq,?) WHERE kind=? AND key=? RETURNING created"
_COLUMNS = "kind, key, used_seq, created, seconds, boot, refs, value, sum, durable"
_NEW = f"INSERT OR IGNORE INTO records({_COLUMNS}) VALUES(?,?,?,?,?,?,?,?,?,0)"
_REPLACE = f"""INSERT INTO records({_COLUMNS}) VALUES(?,?,?,?,?,?,?,?,?,0)
    ON CONFLICT(kind, key) DO UPDATE SET used_seq=max(used_seq, excluded.used_seq),
    created=excluded.created, seconds=excluded.seconds, boot=excluded.boot, refs=excluded.refs,
    value=excluded.value, sum=excluded.sum, durable=0"""
_FULL = """SELECT kind, key, value, refs, created, used_seq, seconds, durable, boot, sum, rowid
    FROM records WHERE """
_SCAN = "SELECT kind, key, used_seq, refs, length(value), rowid FROM records"
_BATCH = 1000
_LOSSLESS = ("utf-8", "surrogatepass")


class Record(Struct, frozen=True):
    """A record. `created_ns` is wall clock, for people; `seconds` is what its work took."""

    kind: str
    key: str
    value: bytes
    refs: tuple[str, ...]
    created_ns: int
    used_seq: int
    seconds: float
    durable: bool


class Records:
    """The records of a store."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, kind: str, key: str) -> bytes | None:
        """Return the value and pin it under the lease, or None where it cannot be relied upon."""
        row = self._session.index.row(_GET, (kind, key_bytes(key)))
        return None if row is None else self._believe(kind, key, row)

    def get_many(self, kind: str, keys: Iterable[str]) -> dict[str, bytes]:
        """Return what `get` would for each key, with one transaction for each thousand."""
        found: dict[str, bytes] = {}
        keys = list(keys)
        for start in range(0, len(keys), _BATCH):
            self._get_batch(kind, keys[start : start + _BATCH], found)
        return found

    def _get_batch(self, kind: str, keys: list[str], found: dict[str, bytes]) -> None:
        generation = self._session.generation

        def change(connection: sqlite3.Connection) -> list[tuple[str, tuple[Any, ...]]]:
            hits = []
            for key in keys:
                row = connection.execute(_GET, (kind, key_bytes(key))).fetchone()
                if row is not None:
                    hits.append((key, row))
            old = [key for key, row in hits if _older(row, generation)]
            sql = "UPDATE records SET used_seq=max(used_seq,?) WHERE kind=? AND key=?"
            connection.executemany(sql, [(generation, kind, key_bytes(key)) for key in old])
            return hits

        if self._session.read_only or not generation:
            row_of = self._session.index.row
            hits = [(key, row_of(_GET, (kind, key_bytes(key)))) for key in keys]
        else:
            hits = list(self._session.index.write(change))
        for key, row in hits:
            value = None if row is None else self._believe(kind, key, row, touched=True)
            if value is not None:
                found[key] = value

    def _believe(
        self, kind: str, key: str, row: tuple[Any, ...], touched: bool = False
    ) -> bytes | None:
        value: bytes = row[0]
        _, refs, _, durable, boot, created, fingerprint = row
        session = self._session
        if fingerprint != _sum(kind, key, created, boot, refs, value):
            self._drop(kind, key)
            return None
        if not durable and boot != session.boot:
            self._forget(kind, key, created)
            return None
        generation = session.generation
        if not touched and not session.read_only and _older(row, generation):
            again = session.index.row(_TOUCH, (generation, kind, key_bytes(key)))
            if again is None:
                return None  # collected between the two statements
            if again[0] != created:
                return self.get(kind, key)  # replaced: the new one is pinned by now
        names = refs_of(refs)
        if names and not self._all_there(names):
            self._forget(kind, key, created)
            return None
        if not durable:
            with session.lock:
                session.soft.records[(kind, key)] = (created, names)
        return value

    def _all_there(self, names: tuple[str, ...]) -> bool:
        for name in names:
            if name.startswith("record:"):
                kind, _, key = name[7:].partition("/")
                sql = "SELECT 1 FROM records WHERE kind=? AND key=?"
                if self._session.index.row(sql, (kind, key_bytes(key))) is None:
                    return False
            elif not os.path.lexists(self._session.layout.object(name)):
                return False
        return True

    def _forget(self, kind: str, key: str, created: int) -> None:
        if not self._session.read_only:
            sql = "DELETE FROM records WHERE kind=? AND key=? AND created=?"
            self._session.index.put(sql, (kind, key_bytes(key), created))

    def _drop(self, kind: str, key: str) -> None:
        if not self._session.read_only:
            sql = "DELETE FROM records WHERE kind=? AND key=?"
            self._session.index.put(sql, (kind, key_bytes(key)))

    def put(self, kind: str, key: str, value: bytes, refs: Iterable[str], seconds: float) -> None:
        """Write one record, replacing what was there."""
        row, names = self._row(kind, key, value, refs, seconds)
        if self._session.index.put(_NEW, row) == 0:
            self._session.index.write(lambda connection: _replace(connection, row))
        self._wrote(kind, key, row[3], names)

    def put_many(self, kind: str, items: Iterable[tuple[str, bytes, Iterable[str]]]) -> None:
        """Write records of one kind in one transaction."""
        rows = [(key, *self._row(kind, key, value, refs, 0.0)) for key, value, refs in items]

        def change(connection: sqlite3.Connection) -> None:
            for _, row, _ in rows:
                if connection.execute(_NEW, row).rowcount == 0:
                    _replace(connection, row)

        self._session.index.write(change)
        for key, row, names in rows:
            self._wrote(kind, key, row[3], names)

    def _row(
        self, kind: str, key: str, value: bytes, refs: Iterable[str], seconds: float
    ) -> tuple[tuple[Any, ...], tuple[str, ...]]:
        session = self._session
        session.writable("writing a record")
        names = tuple(refs)
        if "/" in kind:
            raise ValueError(f"a kind has no slash: {kind!r}")
        for name in names:
            if not name.startswith("record:") and not is_object_ref(name):
                raise ValueError(f"not a reference: {name!r}")
        text = _refs_text(names)
        created = time.time_ns()
        check = _sum(kind, key, created, session.boot, text, value)
        raw = key_bytes(key)
        row = (kind, raw, session.stamp, created, seconds, session.boot, text, value, check)
        return row, names

    def _wrote(self, kind: str, key: str, created: int, names: tuple[str, ...]) -> None:
        with self._session.lock:
            self._session.soft.records[(kind, key)] = (created, names)

    def delete(self, kind: str, key: str) -> bool:
        """Delete one record; return whether it was there."""
        self._session.writable("deleting a record")
        sql = "DELETE FROM records WHERE kind=? AND key=?"
        return self._session.index.put(sql, (kind, key_bytes(key))) > 0

    def state(self, kind: str, key: str) -> str | None:
        """Return `good`, `soft` (lost in a power cut) or `damaged`; None where there is none."""
        row = self._session.index.row(_GET, (kind, key_bytes(key)))
        if row is None:
            return None
        value, refs, _, durable, boot, created, fingerprint = row
        if fingerprint != _sum(kind, key, created, boot, refs, value):
            return "damaged"
        return "good" if durable or boot == self._session.boot else "soft"

    def one(self, kind: str, key: str) -> Record | None:
        """Return a record for looking at; not pinned, its references unchecked."""
        row = self._session.index.row(f"{_FULL} kind=? AND key=?", (kind, key_bytes(key)))
        return self._record(row) if row else None

    def all(self, kind: str | None = None) -> Iterator[Record]:
        """Yield the records of a kind, or of all kinds, for looking at."""
        after = -(1 << 62)
        where = "rowid>? AND (?2 IS NULL OR kind=?2) ORDER BY rowid LIMIT ?3"
        while rows := self._session.index.rows(
            f"{_FULL} {where.replace('rowid>?', 'rowid>?1')}", (after, kind, _BATCH)
        ):
            for row in rows:
                record = self._record(row)
                if record is not None:
                    yield record
            after = int(rows[-1][-1])

    def _record(self, row: tuple[Any, ...]) -> Record | None:
        kind, raw, value, refs, created, used, seconds, durable, boot, fingerprint, _ = row
        key = key_text(raw)
        if not durable and boot != self._session.boot:
            return None
        if fingerprint != _sum(kind, key, created, boot, refs, value):
            return None
        return Record(kind, key, value, refs_of(refs), created, used, seconds, bool(durable))


def _refs_text(names: tuple[str, ...]) -> str:
    if not names:
        return "[]"
    import json

    return json.dumps(names)


def refs_of(text: object) -> tuple[str, ...]:
    """Return the references in a row, which are a JSON list; none where that is damaged."""
    if text == "[]" or not isinstance(text, str):
        return ()
    import json

    try:
        names = json.loads(text)
    except ValueError:
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names)


def _replace(connection: sqlite3.Connection, row: tuple[Any, ...]) -> None:
    """Put a row in the place of another, taking no pin away from anybody.

    A build with a newer lease may rely on what the old row led to: the new row counts as used when
    the old one was, and so does each thing that only the old one leads to.
    """
    sql = "SELECT used_seq, refs FROM records WHERE kind=? AND key=?"
    old = connection.execute(sql, row[:2]).fetchone()
    if old is not None and isinstance(old[0], int):
        for name in set(refs_of(old[1])) - set(refs_of(row[6])):
            if name.startswith("record:"):
                kind, _, key = name[7:].partition("/")
                connection.execute(_TOUCH, (old[0], kind, key_bytes(key))).fetchall()
            else:
                sql = "UPDATE objects SET used_seq=max(used_seq,?) WHERE name=?"
                connection.execute(sql, (old[0], name))
    connection.execute(_REPLACE, row)


def _older(row: tuple[Any, ...], generation: int) -> bool:
    return not isinstance(row[2], int) or row[2] < generation


def _sum(
    kind: object, key: str, created: object, boot: object, refs: object, value: object
) -> bytes:
    """Return the fingerprint a row must carry. Columns may hold anything, after damage."""
    hasher = xxhash.xxh3_64(f"{kind}\0{len(key)}\0{created}\0{boot}\0{refs}\0".encode(*_LOSSLESS))
    hasher.update(key_bytes(key))
    hasher.update(value if isinstance(value, bytes) else b"")
    return hasher.digest()


def scan(connection: sqlite3.Connection) -> Iterator[RecordRow]:
    """Yield what collections and checks need to know of every record."""
    from buildgraph_cache.plan import RecordRow

    for kind, key, used, refs, size, rowid in connection.execute(_SCAN):
        used_seq = used if isinstance(used, int) else 0
        yield RecordRow(str(kind), key_text(key), used_seq, refs_of(refs), int(size or 0), rowid)


def delete_referrers(connection: sqlite3.Connection, names: set[str]) -> int:
    """Delete every record that refers, also by way of others, to one of the names."""
    from buildgraph_cache.plan import Reach

    reach = Reach(scan(connection), ())
    numbers = (reach.number(name) for name in names)
    owners = reach.leading_to(number for number in numbers if number >= 0)
    sql = "DELETE FROM records WHERE rowid=?"
    connection.executemany(sql, ((reach.rowids[place],) for place in owners))
    return len(owners)
