"""Knows how to tell whether a store is whole, and sets aside what is not.

Must not know how a layer is packed: whoever does hands in `snapshot_digest`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from buildgraph_cache.digest import Digest
from buildgraph_cache.objects import blob_ref, digest_of
from buildgraph_cache.records import refs_of
from buildgraph_cache.scratch import sweep
from buildgraph_cache.session import Session
from buildgraph_cache.shelf import Shelf
from buildgraph_cache.usage import blob_sizes, snapshot_sizes

T = TypeVar("T")
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
Progress = Callable[[str, int, int], None]  # what, how many are done, of how many
SnapshotDigest = Callable[[str], Digest]


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that was not as it should be, and has been set aside or deleted."""

    kind: str  # index | blob | snapshot | record
    name: str
    problem: str

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}"


class Check:
    """One verification."""

    def __init__(
        self,
        session: Session,
        deep: bool,
        progress: Progress | None,
        snapshot_digest: SnapshotDigest | None,
    ) -> None:
        self._session = session
        self._shelf = Shelf(session)
        self._deep = deep
        self._progress = progress
        self._snapshot_digest = snapshot_digest
        self._damage: list[Damage] = []

    def run(self) -> list[Damage]:
        """Check everything; return what was wrong."""
        session = self._session
        session.writable("verifying")
        for problem in session.index.problems():
            self._found("index", session.layout.index, problem)
        if self._damage:
            session.index.reset()
        sweep(session.layout, session.disk)
        self._each("blobs", list(blob_sizes(session.layout)), self._blob)
        self._each("snapshots", list(snapshot_sizes(session)), self._snapshot)
        rows = session.index.rows("SELECT kind, key, created, refs FROM records")
        self._each("records", rows, self._record)
        return self._damage

    def _found(self, kind: str, name: str, problem: str) -> None:
        self._damage.append(Damage(kind, name, problem))

    def _each(self, what: str, items: list[T], look: Callable[[T], None]) -> None:
        for number, item in enumerate(items):
            if self._progress is not None:
                self._progress(what, number, len(items))
            look(item)
        if self._progress is not None:
            self._progress(what, len(items), len(items))

    def _blob(self, name: str) -> None:
        try:
            fd = os.open(self._shelf.path(name), _READ)
        except FileNotFoundError:
            return  # collected meanwhile
        except OSError as error:
            self._bad("blob", name, error.strerror or str(error))
            return
        try:
            trusted = self._trusted(name)
            if not trusted or self._deep:
                digest, fingerprint = digest_of(fd)
                sound = blob_ref(digest) == name
                if sound and not trusted:
                    self._shelf.register(name, fd, fingerprint)
            else:
                sound = self._shelf.intact(name, fd)
        except OSError:
            sound = False
        finally:
            os.close(fd)
        if not sound:
            self._bad("blob", name, "its bytes are not what its name says")

    def _snapshot(self, name: str) -> None:
        if not self._deep or self._snapshot_digest is None:
            return
        path = self._shelf.path(name)
        try:
            digest = self._snapshot_digest(path)
        except FileNotFoundError:
            if os.path.lexists(path):
                raise
            return  # collected meanwhile
        except OSError as error:
            self._bad("snapshot", name, error.strerror or str(error))
            return
        if digest.removeprefix("sha256:") != name.removeprefix("snapshot:"):
            self._bad("snapshot", name, f"its files make the layer {digest}")
        elif not self._trusted(name):
            self._shelf.register_snapshot(name)

    def _trusted(self, name: str) -> bool:
        sql = "SELECT durable OR boot=? FROM objects WHERE name=?"
        row = self._session.index.row(sql, (self._session.boot, name))
        return row is not None and bool(row[0])

    def _bad(self, kind: str, name: str, problem: str) -> None:
        self._shelf.quarantine([name])
        self._found(kind, name, problem)

    def _record(self, row: tuple[str, str, int, str]) -> None:
        kind, key, created, text = row
        session = self._session

        def change(connection: sqlite3.Connection) -> str:
            sql = "SELECT durable OR boot=? FROM records WHERE kind=? AND key=? AND created=?"
            found = connection.execute(sql, (session.boot, kind, key, created)).fetchone()
            if found is None:
                return ""
            missing = next((ref for ref in refs_of(text) if not self._there(connection, ref)), "")
            if missing or not found[0]:
                sql = "DELETE FROM records WHERE kind=? AND key=? AND created=?"
                connection.execute(sql, (kind, key, created))
            return missing if found[0] else ""

        # Looked at again under the lock before anything is done: a collection may be on its way.
        if text != "[]" and not all(self._there(None, ref) for ref in refs_of(text)):
            missing = session.index.write(change)
            if missing:
                self._found("record", f"record:{kind}/{key}", f"{missing} is missing")

    def _there(self, connection: sqlite3.Connection | None, ref: str) -> bool:
        if ref.startswith("record:"):
            kind, _, key = ref[7:].partition("/")
            sql, values = "SELECT 1 FROM records WHERE kind=? AND key=?", (kind, key)
        else:
            if not os.path.lexists(self._shelf.path(ref)):
                return False
            sql, values = (
                "SELECT 1 FROM objects WHERE name=? AND (durable OR boot=?)",
                (
                    ref,
                    self._session.boot,
                ),
            )
        if connection is None:
            return self._session.index.row(sql, values) is not None
        return connection.execute(sql, values).fetchone() is not None
