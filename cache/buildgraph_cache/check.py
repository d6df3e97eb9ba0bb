"""Knows how to tell whether a store is whole, and sets aside what is not.

Must not know how a layer is packed: whoever does hands in `snapshot_digest`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from typing import TypeVar

from msgspec import Struct

from buildgraph_cache.digest import Digest
from buildgraph_cache.objects import blob_ref, digest_of, key_bytes
from buildgraph_cache.plan import RecordRow
from buildgraph_cache.records import Records, scan
from buildgraph_cache.scratch import sweep
from buildgraph_cache.session import Session
from buildgraph_cache.shelf import Shelf
from buildgraph_cache.usage import blob_sizes, snapshot_sizes

T = TypeVar("T")
_SOFT = "it was not on the disk yet when the machine was started"
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
Progress = Callable[[str, int, int], None]  # what, how many are done, of how many
SnapshotDigest = Callable[[str], Digest]


class Damage(Struct, frozen=True):
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
        self._records = Records(session)
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
        self._each("blobs", [name for name, _ in blob_sizes(session.layout)], self._blob)
        self._each("snapshots", list(snapshot_sizes(session)), self._snapshot)
        rows = session.index.read(lambda connection: list(scan(connection)))
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

    def _record(self, row: RecordRow) -> None:
        problem = self._problem(row)
        if problem == "":
            return
        session = self._session

        def change(connection: sqlite3.Connection) -> str:
            # Looked at again under the lock: a collection may be on its way.
            again = self._problem(row)
            if again:
                sql = "DELETE FROM records WHERE kind=? AND key=?"
                connection.execute(sql, (row.kind, key_bytes(row.key)))
            return again

        problem = session.index.write(change)
        if problem and problem != _SOFT:
            self._found("record", row.name, problem)

    def _problem(self, row: RecordRow) -> str:
        """Return what is wrong with a record as it is now; "" also where it is gone."""
        state = self._records.state(row.kind, row.key)
        if state is None:
            return ""
        if state == "soft":
            return _SOFT
        if state == "damaged":
            return "its bytes are not those that were written"
        missing = next((ref for ref in row.refs if not self._there(ref)), None)
        return f"{missing} is missing" if missing is not None else ""

    def _there(self, ref: str) -> bool:
        if ref.startswith("record:"):
            kind, _, key = ref[7:].partition("/")
            return self._records.state(kind, key) is not None
        return os.path.lexists(self._shelf.path(ref)) and self._trusted(ref)
