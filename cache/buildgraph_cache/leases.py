"""Knows how a build says "from now on I rely on what I look up"; must not know what that is.

A lease is a number from the index, its generation, and a file `locks/leases/<generation>` under
flock(2). Both come into being in one exclusive transaction of the index, and a collection looks at
the files only in such a transaction, so it sees a lease whole or not at all. See README.md.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time

from buildgraph.closing import Closing
from buildgraph.errors import HostError
from buildgraph_cache.disk import host_error
from buildgraph_cache.layout import Layout
from buildgraph_cache.locks import release, try_flock
from buildgraph_cache.session import Session

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class Lease(Closing):
    """A promise of the store to keep what is used under it; ends with `close` or the process."""

    def __init__(self, session: Session, generation: int, fd: int, path: str) -> None:
        self.generation = generation
        self._session = session
        self._fd = fd
        self._path = path

    def close(self) -> None:
        """Give the lease back; idempotent."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        self._session.left(self.generation)
        try:
            if self._path:
                os.unlink(self._path)
        except OSError:
            pass  # the next collection finds it unlocked
        finally:
            release(fd)


def new_lease(session: Session) -> Lease:
    """Take a lease; it counts from before this returns."""
    if session.read_only:
        return _reader_lease(session)
    taken: list[tuple[int, str]] = []

    def change(connection: sqlite3.Connection) -> tuple[int, int, str]:
        while True:
            row = connection.execute(
                "UPDATE meta SET value=value+1 WHERE name='seq' RETURNING value"
            ).fetchone()
            generation = int(row[0])
            path = f"{session.layout.directory('locks')}/leases/{generation}"
            try:
                fd = os.open(path, _CREATE, 0o600)
            except FileExistsError:
                continue  # of a lease under an index that was replaced
            break
        taken.append((fd, path))
        os.write(fd, f"{os.getpid()}\n".encode())
        if not try_flock(fd):
            raise HostError(f"{path} is locked by a stranger")
        connection.execute("INSERT INTO generations VALUES(?,?)", (generation, int(time.time())))
        return generation, fd, path

    try:
        generation, fd, path = session.index.write(change)
    except BaseException as error:
        for fd, path in taken:
            os.unlink(path)
            os.close(fd)
        if isinstance(error, OSError):
            raise host_error(error, session.layout.root, "taking a lease") from error
        raise
    session.entered(generation)
    return Lease(session, generation, fd, path)


def _reader_lease(session: Session) -> Lease:
    """Hold off collections as a whole, for we cannot write down what we use."""
    try:
        fd = os.open(session.layout.readers_lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise host_error(error, session.layout.root, "taking a lease") from error
    fcntl.flock(fd, fcntl.LOCK_SH)
    return Lease(session, 0, fd, "")


def floor(connection: sqlite3.Connection, layout: Layout) -> int:
    """Return the oldest live generation: what was used at it or later has to stay.

    Must be called inside an exclusive transaction. Removes the files of dead leases. Without live
    leases the answer is one more than the newest generation ever given.
    """
    directory = f"{layout.directory('locks')}/leases"
    (newest,) = connection.execute("SELECT value FROM meta WHERE name='seq'").fetchone()
    (first,) = connection.execute("SELECT value FROM meta WHERE name='first'").fetchone()
    oldest = int(newest) + 1
    for name in os.listdir(directory):
        if not name.isdigit():
            continue
        try:
            fd = os.open(f"{directory}/{name}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        try:
            if try_flock(fd):
                _unlink(f"{directory}/{name}")
            elif int(name) <= int(first):
                return 0  # a build that uses an index which was replaced: keep everything
            else:
                oldest = min(oldest, int(name))
        finally:
            os.close(fd)
    return oldest


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # its holder was giving it back
