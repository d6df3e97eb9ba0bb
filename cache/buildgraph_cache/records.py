"""Knows small named values that point at objects; must not know what they stand for.

A record is believed when a syncfs(2) covered everything it refers to (`durable`), or when the
machine has not been started anew since it was written: a process that is killed loses nothing the
kernel already has, only a power cut does.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from buildgraph_cache.objects import is_object_ref
from buildgraph_cache.session import Session

_GET = "SELECT value, refs, used_seq, durable, boot, created FROM records WHERE kind=? AND key=?"
_TOUCH = "UPDATE records SET used_seq=max(used_seq,?) WHERE kind=? AND key=? RETURNING created"
_PUT = """INSERT OR REPLACE INTO records(
    kind, key, used_seq, created, seconds, durable, boot, refs, value) VALUES(?,?,?,?,?,0,?,?,?)"""
_FULL = """SELECT kind, key, value, refs, created, used_seq, seconds, durable, boot, rowid
    FROM records WHERE """
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Record:
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
        row = self._session.index.row(_GET, (kind, key))
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
                row = connection.execute(_GET, (kind, key)).fetchone()
                if row is not None:
                    hits.append((key, row))
            connection.executemany(
                "UPDATE records SET used_seq=max(used_seq,?) WHERE kind=? AND key=?",
                [(generation, kind, key) for key, row in hits if row[2] < generation],
            )
            return hits

        if self._session.read_only or not generation:
            hits = [(key, self._session.index.row(_GET, (kind, key))) for key in keys]
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
        _, refs, used, durable, boot, created = row
        session = self._session
        if not durable and boot != session.boot:
            self._forget(kind, key, created)
            return None
        generation = session.generation
        if used < generation and not touched and not session.read_only:
            again = session.index.row(_TOUCH, (generation, kind, key))
            if again is None or again[0] != created:
                return None  # collected, or replaced, between the two statements
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
                if self._session.index.row(sql, (kind, key)) is None:
                    return False
            elif not os.path.lexists(self._session.layout.object(name)):
                return False
        return True

    def _forget(self, kind: str, key: str, created: int) -> None:
        if not self._session.read_only:
            sql = "DELETE FROM records WHERE kind=? AND key=? AND created=?"
            self._session.index.put(sql, (kind, key, created))

    def put(self, kind: str, key: str, value: bytes, refs: Iterable[str], seconds: float) -> None:
        """Write one record, replacing what was there."""
        row, names = self._row(kind, key, value, refs, seconds)
        self._session.index.put(_PUT, row)
        self._wrote(row, names)

    def put_many(self, kind: str, items: Iterable[tuple[str, bytes, Iterable[str]]]) -> None:
        """Write records of one kind in one transaction."""
        rows = [self._row(kind, key, value, refs, 0.0) for key, value, refs in items]
        self._session.index.write(lambda c: c.executemany(_PUT, [row for row, _ in rows]))
        for row, names in rows:
            self._wrote(row, names)

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
        row = (kind, key, session.stamp, created, seconds, session.boot, text, value)
        return row, names

    def _wrote(self, row: tuple[Any, ...], names: tuple[str, ...]) -> None:
        kind, key, _, created, *_ = row
        with self._session.lock:
            self._session.soft.records[(kind, key)] = (created, names)

    def delete(self, kind: str, key: str) -> bool:
        """Delete one record; return whether it was there."""
        self._session.writable("deleting a record")
        sql = "DELETE FROM records WHERE kind=? AND key=?"
        return self._session.index.put(sql, (kind, key)) > 0

    def one(self, kind: str, key: str) -> Record | None:
        """Return a record for looking at; not pinned, its references unchecked."""
        row = self._session.index.row(f"{_FULL} kind=? AND key=?", (kind, key))
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
        kind, key, value, refs, created, used, seconds, durable, boot, _ = row
        if not durable and boot != self._session.boot:
            return None
        return Record(kind, key, value, refs_of(refs), created, used, seconds, bool(durable))


def _refs_text(names: tuple[str, ...]) -> str:
    if not names:
        return "[]"
    import json

    return json.dumps(names)


def refs_of(text: str) -> tuple[str, ...]:
    """Return the references in a row, which are a JSON list."""
    if text == "[]":
        return ()
    import json

    return tuple(json.loads(text))


def referrers(
    connection: sqlite3.Connection, wanted: Callable[[str], bool]
) -> list[tuple[str, str]]:
    """Return (kind, key) of every record that refers, also by way of others, to a wanted name."""
    by_ref: dict[str, list[tuple[str, str]]] = {}
    for kind, key, refs in connection.execute(
        "SELECT kind, key, refs FROM records WHERE refs<>'[]'"
    ):
        for name in refs_of(refs):
            by_ref.setdefault(name, []).append((kind, key))
    pending = [name for name in by_ref if wanted(name)]
    found: dict[tuple[str, str], None] = {}
    while pending:
        for owner in by_ref.get(pending.pop(), ()):
            if owner not in found:
                found[owner] = None
                pending.append(f"record:{owner[0]}/{owner[1]}")
    return list(found)


def delete_referrers(connection: sqlite3.Connection, names: set[str]) -> int:
    """Delete every record that refers, also by way of others, to one of the names."""
    owners = referrers(connection, names.__contains__)
    connection.executemany("DELETE FROM records WHERE kind=? AND key=?", owners)
    return len(owners)
