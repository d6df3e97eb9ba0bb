"""Knows how objects come onto the disk, are found there, and are taken away again.

Must not know what is in a blob or a snapshot, nor who decides that one has to go.

An object is *trusted* when a syncfs(2) covered it or when it was published since the machine was
started. Any other blob is hashed once before it is used again; any other snapshot, which cannot be
checked here, counts as absent.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from typing import Any

from buildgraph_cache.digest import Digest
from buildgraph_cache.disk import host_error
from buildgraph_cache.locks import same_file
from buildgraph_cache.objects import blob_ref, digest_of, fingerprint_of
from buildgraph_cache.records import delete_referrers
from buildgraph_cache.removal import delete_tree
from buildgraph_cache.scratch import Scratch
from buildgraph_cache.session import Session

_ROW = "SELECT used_seq, durable, boot, fingerprint FROM objects WHERE name=?"
_TOUCH = "UPDATE objects SET used_seq=max(used_seq,?) WHERE name=? RETURNING 1"
_PUT = """INSERT INTO objects(name, used_seq, durable, boot, bytes, fingerprint)
    VALUES(?,?,0,?,?,?) ON CONFLICT(name) DO UPDATE SET used_seq=max(used_seq, excluded.used_seq),
    durable=0, boot=excluded.boot, bytes=excluded.bytes, fingerprint=excluded.fingerprint"""
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
DOOMED = -1  # used_seq of an object that is about to be taken away


class Shelf:
    """The objects of a store."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def path(self, name: str) -> str:
        """Return where the object is or would be."""
        return self._session.layout.object(name)

    def use(self, name: str) -> bool:
        """Pin an object under the lease; return whether it is there and trusted."""
        session = self._session
        path = self.path(name)
        if name in session.pinned:
            return os.path.lexists(path)
        pinned = session.pinned  # of the lease held now; a newer lease starts with a new set
        row = session.index.row(_ROW, (name,))
        if row is None:
            return self._adopt(name)
        used, durable, boot, _ = row
        generation = session.generation
        if used < generation and not session.read_only:
            if session.index.row(_TOUCH, (generation, name)) is None:
                return self._adopt(name)  # collected between the two statements
        if not durable and boot != session.boot:
            return self._adopt(name)
        if not os.path.lexists(path):
            return False
        if not durable:
            with session.lock:
                session.soft.objects.add(name)
        if generation or session.read_only:
            pinned.add(name)
        return True

    def has(self, name: str, size: int) -> bool:
        """Do as `use`, and look whether a blob is as long as it should be."""
        return self.use(name) and _size(self.path(name)) == size

    def _adopt(self, name: str) -> bool:
        """Take in a blob that the index does not vouch for, if its bytes are what its name says."""
        session = self._session
        if not name.startswith("blob:"):
            return False
        path = self.path(name)
        try:
            fd = os.open(path, _READ)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise host_error(error, path, f"reading {name}") from error
        try:
            digest, fingerprint = digest_of(fd)
            if blob_ref(digest) != name:
                if not session.read_only:
                    self.quarantine([name])
                return False
            if session.read_only:
                session.pinned.add(name)
                return True
            return self.register(name, fd, fingerprint)
        except OSError:
            return False  # EIO: as good as absent, to be made again (R09)
        finally:
            os.close(fd)

    def register(self, name: str, fd: int, fingerprint: bytes) -> bool:
        """Vouch for a blob whose bytes were just found to be right."""
        size = os.fstat(fd).st_blocks * 512

        def change(connection: sqlite3.Connection) -> bool:
            if not same_file(fd, self.path(name)):
                return False  # swept as an orphan while it was hashed
            values = (name, self._session.stamp, self._session.boot, size, fingerprint)
            connection.execute(_PUT, values)
            return True

        done = self._session.index.write(change)
        if done:
            self._remember(name)
        return done

    def register_snapshot(self, name: str) -> None:
        """Vouch for a snapshot that was just found to be right."""
        session = self._session
        values = (name, session.stamp, session.boot, None, None)
        session.index.put(_PUT, values)
        self._remember(name)

    def _remember(self, name: str) -> None:
        with self._session.lock:
            self._session.soft.objects.add(name)

    def publish_blob(self, temp: str, fd: int, digest: Digest, fingerprint: bytes) -> None:
        """Move a finished temporary file to its name; idempotent.

        Rename and row happen in one exclusive transaction: a collection, which takes the same
        lock, never sees the file without its row unless we died in between.
        """
        session = self._session
        name = blob_ref(digest)
        final = self.path(name)
        info = os.fstat(fd)

        def change(connection: sqlite3.Connection) -> None:
            row = connection.execute(_ROW, (name,)).fetchone()
            if row is not None and self._trusted(row) and _size(final) == info.st_size:
                connection.execute(_TOUCH, (session.stamp, name)).fetchall()
                return
            try:
                session.disk.rename(temp, final)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(final), mode=0o700, exist_ok=True)
                session.disk.rename(temp, final)
            size = info.st_blocks * 512
            connection.execute(_PUT, (name, session.stamp, session.boot, size, fingerprint))

        session.index.write(change)
        self._remember(name)

    def publish_snapshot(self, name: str, directory: str, size: int | None) -> str:
        """Move a finished directory to its name, or drop it where the snapshot is there already."""
        session = self._session
        final = self.path(name)
        trash: list[Scratch] = []

        def change(connection: sqlite3.Connection) -> bool:
            row = connection.execute(_ROW, (name,)).fetchone()
            there = os.path.lexists(final)
            if there and row is not None and self._trusted(row):
                connection.execute(_TOUCH, (session.stamp, name)).fetchall()
                return False
            if there:
                trash.append(Scratch(session.layout, session.disk))
                session.disk.rename(final, f"{trash[-1].path}/old")
            session.disk.rename(directory, final)
            connection.execute(_PUT, (name, session.stamp, session.boot, size, None))
            return True

        try:
            if not session.index.write(change):
                delete_tree(session.disk, directory)
        except OSError as error:
            raise host_error(error, session.layout.root, f"publishing {name}") from error
        finally:
            for scratch in trash:
                scratch.close()
        self._remember(name)
        return final

    def _trusted(self, row: tuple[Any, ...]) -> bool:
        return bool(row[1]) or row[2] == self._session.boot

    def fingerprint(self, name: str) -> bytes | None:
        """Return the fingerprint taken when a blob was published."""
        row = self._session.index.row(_ROW, (name,))
        return row[3] if row is not None and isinstance(row[3], bytes) else None

    def intact(self, name: str, fd: int) -> bool:
        """Return whether an open blob still has the bytes it was published with."""
        expected = self.fingerprint(name)
        try:
            if expected is not None:
                return fingerprint_of(fd) == expected
            return blob_ref(digest_of(fd)[0]) == name
        except OSError:
            return False  # EIO

    def take_away(
        self, names: Iterable[str], to: str, pinned: bool = True
    ) -> tuple[list[str], int]:
        """Move objects out of the store into the directory `to`, their records having gone first.

        Two transactions: the first deletes every record that leads to one of them and dooms them,
        the second moves those that nobody has used in between. Dying anywhere leaves at most
        objects without records, which the next collection removes. With `pinned` even those that
        are used in between are moved, for they are damaged. Returns what was moved and how many
        records were deleted.
        """
        session = self._session
        wanted = sorted(set(names))

        def doom(connection: sqlite3.Connection) -> int:
            count = delete_referrers(connection, set(wanted))
            connection.executemany(
                "UPDATE objects SET used_seq=?, durable=0, boot='' WHERE name=?",
                [(DOOMED, name) for name in wanted],
            )
            return count

        def move(connection: sqlite3.Connection) -> list[str]:
            return self.move_doomed(connection, wanted, to, pinned)

        records = session.index.write(doom)
        with session.lock:
            session.pinned = session.pinned - set(wanted)
            session.soft.objects -= set(wanted)
        return session.index.write(move), records

    def move_doomed(
        self, connection: sqlite3.Connection, names: list[str], to: str, pinned: bool
    ) -> list[str]:
        """Move those of the objects that are still doomed, and their rows, away."""
        moved = []
        for name in names:
            row = connection.execute(
                "SELECT used_seq FROM objects WHERE name=?", (name,)
            ).fetchone()
            if row is not None and row[0] != DOOMED and not pinned:
                continue
            try:
                target = f"{to}/{name.replace(':', '-')}"
                if os.path.lexists(target):
                    target += f"-{os.urandom(4).hex()}"
                self._session.disk.rename(self.path(name), target)
                moved.append(name)
            except FileNotFoundError:
                pass
            connection.execute("DELETE FROM objects WHERE name=?", (name,))
        return moved

    def quarantine(self, names: Iterable[str]) -> None:
        """Set damaged objects aside, so that the next build makes them anew."""
        session = self._session
        try:
            self.take_away(names, session.layout.directory("quarantine"))
        except OSError as error:
            raise host_error(error, session.layout.root, "quarantining") from error

    def remove(self, name: str) -> None:
        """Delete one object and every record that leads to it; nothing there is fine."""
        session = self._session
        session.writable(f"removing {name}")
        try:
            with Scratch(session.layout, session.disk) as trash:
                self.take_away([name], trash.path)
        except OSError as error:
            raise host_error(error, session.layout.root, f"removing {name}") from error


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return -1
