"""Holds the early writing of a build's layers to being rare, silent and beside it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from buildgraph_cache import writeback
from buildgraph_cache.disk import Disk
from buildgraph_cache.writeback import WriteBack


class Slow(Disk):
    """A disk whose syncfs(2) takes until it is told to end."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)
        self.error: OSError | None = None
        self.calls = 0

    def syncfs(self, fd: int) -> None:
        self.calls += 1
        self.begun.release()
        assert self.may_end.acquire(timeout=10)
        if self.error is not None:
            raise self.error


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Slow:
    slow = Slow()
    monkeypatch.setattr(writeback, "Disk", lambda: slow)
    return slow


def ended(one: WriteBack) -> None:
    deadline = time.monotonic() + 10
    while one._busy:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_it_begins_when_enough_was_left_and_one_at_a_time(tmp_path: Path, disk: Slow) -> None:
    one = WriteBack(str(tmp_path), enough=100)
    one.left(60)
    assert not one._busy
    one.left(60)
    assert disk.begun.acquire(timeout=10)
    one.left(500)  # while it goes on: counted, not begun
    assert disk.calls == 1
    disk.may_end.release()
    ended(one)
    one.left(0)
    assert disk.begun.acquire(timeout=10)
    disk.may_end.release()
    ended(one)
    one.left(99)
    assert (disk.calls, one._busy) == (2, False)


def test_errors_are_left_to_whoever_makes_things_durable(tmp_path: Path, disk: Slow) -> None:
    one = WriteBack(str(tmp_path), enough=1)
    disk.error = OSError(5, "Input/output error")
    one.left(1)
    disk.may_end.release()
    ended(one)
    gone = WriteBack(str(tmp_path / "gone"), enough=1)
    gone.left(1)
    ended(gone)


def test_the_real_call(tmp_path: Path) -> None:
    one = WriteBack(str(tmp_path), enough=1)
    one.left(1)
    ended(one)
