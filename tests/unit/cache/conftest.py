"""Knows how the tests of the store make one, break its disk, and run a second process beside it."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildgraph_cache.disk import Disk
from buildgraph_cache.store import Store


class FaultyDisk(Disk):
    """A disk whose `at`-th durable call (from 1) raises `error`, or ends the process."""

    def __init__(self, at: int = 0, error: OSError | None = None, only: str = "") -> None:
        self.at = at
        self.error = error
        self.only = only
        self.calls: list[str] = []

    def before(self, call: str) -> None:
        if self.only and call != self.only:
            return
        self.calls.append(call)
        if len(self.calls) == self.at:
            if self.error is None:
                os._exit(9)
            raise self.error if call != "commit" else as_sqlite_says(self.error)

    def syncfs(self, fd: int) -> None:
        """Only pretend: the test machine's disk may have much of others to write out."""
        self.before("syncfs")


def as_sqlite_says(error: OSError) -> sqlite3.OperationalError:
    """Return what SQLite makes of an error of the disk (sqlite.org/rescode.html)."""
    full = error.errno == errno.ENOSPC
    said = sqlite3.OperationalError("database or disk is full" if full else "disk I/O error")
    said.sqlite_errorcode = sqlite3.SQLITE_FULL if full else sqlite3.SQLITE_IOERR
    return said


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; return its exit status, 1 where it raised."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(name="in_child")
def _in_child() -> Callable[[Callable[[], None]], int]:
    return in_child


@pytest.fixture
def faulty_disk() -> type[FaultyDisk]:
    return FaultyDisk


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """Return a directory where hundreds of stores can be made without waiting for a disk."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shm) as path:
        yield Path(path)


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def store(root: str) -> Iterator[Store]:
    with Store.open(root) as opened:
        yield opened


@pytest.fixture
def make_snapshot() -> Callable[..., str]:
    """Return a function that publishes a snapshot with some files and returns its path."""

    def make(store: Store, name: str, files: int = 3, size: int = 100) -> str:
        with store.new_scratch() as scratch:
            for number in range(files):
                Path(scratch.upper, f"file-{number}").write_bytes(bytes(size))
            return store.publish_snapshot(name, scratch.upper)

    return make
