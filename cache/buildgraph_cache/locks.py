"""Knows flock(2): who holds what, and how to wait; must not know what is being guarded.

All locks are on open file descriptions, so the kernel frees them whatever happens to the holder,
they hold between threads as well as between processes, and they work across PID namespaces. What
is written into a lock file is for people only.

A lock file is removed by its holder while it is still locked. Whoever gets a lock therefore has to
look whether the name still means the file that was locked, and start over if it does not.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_CREATE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def try_flock(fd: int, how: int = fcntl.LOCK_EX) -> bool:
    """Take a lock without waiting; return whether it was had."""
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def release(fd: int) -> None:
    """Unlock and close. Said aloud, since a forked child may share the open file and outlive us."""
    try:
        fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def same_file(fd: int, path: str) -> bool:
    """Return whether `path` still names the open file `fd`."""
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


@contextmanager
def file_lock(path: str, how: int = fcntl.LOCK_EX) -> Iterator[int]:
    """Hold a lock on a file that is never removed, waiting for it."""
    fd = os.open(path, _CREATE, 0o600)
    try:
        fcntl.flock(fd, how)
        yield fd
    finally:
        release(fd)


@contextmanager
def named_lock(
    path: str,
    on_wait: Callable[[str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    patience: float = 5.0,
) -> Iterator[None]:
    """Hold the lock named by `path`; the file goes away with the last holder.

    After `patience` seconds `on_wait` is told once who holds it. `cancelled` is asked while
    waiting; when it says yes InterruptedError is raised.
    """
    fd = _acquire(path, on_wait, cancelled, patience)
    try:
        yield
    finally:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        finally:
            release(fd)


def sweep_locks(directory: str) -> None:
    """Remove the lock files that dead holders left."""
    for name in os.listdir(directory):
        path = f"{directory}/{name}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        try:
            if try_flock(fd) and same_file(fd, path):
                os.unlink(path)
        finally:
            os.close(fd)


def _acquire(
    path: str,
    on_wait: Callable[[str], None] | None,
    cancelled: Callable[[], bool] | None,
    patience: float,
) -> int:
    began = time.monotonic()
    told = on_wait is None
    pause = 0.001
    while True:
        fd = os.open(path, _CREATE, 0o600)
        if try_flock(fd) and same_file(fd, path):
            os.ftruncate(fd, 0)
            os.write(fd, f"{os.getpid()}\n".encode())
            return fd
        holder = os.read(fd, 64).decode(errors="replace").strip()
        os.close(fd)
        if cancelled is not None and cancelled():
            raise InterruptedError("waiting for a lock was cancelled")
        if not told and time.monotonic() - began >= patience and on_wait is not None:
            told = True
            on_wait(f"waiting for process {holder or 'unknown'}")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
