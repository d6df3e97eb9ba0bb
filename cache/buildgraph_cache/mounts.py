"""Knows directories that outlive builds and belong to no layer: what `--mount=type=cache` shows.

Must not know what is kept in them. A cache mount is a directory `mounts/<name>-<slot>` with `data`
inside, locked by flock(2) on itself while it is in use: shared by those who may share it, alone
for those who may not, each of whom gets the first slot that is free.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from buildgraph_cache.disk import host_error
from buildgraph_cache.layout import Layout
from buildgraph_cache.locks import release, same_file, try_flock

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def hold_mount(layout: Layout, identity: str, private: bool) -> Iterator[str]:
    """Yield the directory of a cache mount; it cannot be collected meanwhile.

    `identity` may be any text: it is hashed, so it cannot be a path (A35).
    """
    import hashlib

    name = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
    try:
        path, fd = _take(layout, name, private)
    except OSError as error:
        raise host_error(error, layout.root, "preparing a cache mount") from error
    try:
        yield f"{path}/data"
    finally:
        release(fd)


def _take(layout: Layout, name: str, private: bool) -> tuple[str, int]:
    slot = 0
    while True:
        path = f"{layout.directory('mounts')}/{name}-{slot}"
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            fd = os.open(path, _OPEN)
        except FileNotFoundError:
            continue  # collected between the two calls
        locked = try_flock(fd, fcntl.LOCK_EX if private else fcntl.LOCK_SH)
        if locked and same_file(fd, path):
            _mark_used(path)
            return path, fd
        os.close(fd)
        if not locked:
            slot += 1  # somebody has it for himself


def _mark_used(path: str) -> None:
    try:
        os.mkdir(f"{path}/data", 0o755)
        os.chmod(f"{path}/data", 0o755)  # whatever the umask
    except FileExistsError:
        os.utime(path)  # when it was last used, for collections
