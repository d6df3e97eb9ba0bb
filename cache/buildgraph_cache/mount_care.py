"""Knows how cache mounts are listed, pruned and replaced beside running builds; must not know what
is kept in them.

Whoever replaces or removes a mount holds its lock alone, and moves it out of sight in one rename
before anything of it is deleted: nobody ever sees half of one.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from msgspec import Struct

from buildgraph import kernel
from buildgraph.errors import HostError
from buildgraph_cache.disk import host_error
from buildgraph_cache.locks import file_lock, release, same_file, try_flock
from buildgraph_cache.mounts import mount_name, read_about
from buildgraph_cache.removal import disk_usage
from buildgraph_cache.scratch import Scratch
from buildgraph_cache.session import Session

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME: Final = re.compile(r"([0-9a-f]{64})-([0-9]{1,6})")
_THERE: Final = (errno.EEXIST, errno.ENOTEMPTY)


class CacheMount(Struct, frozen=True):
    """One cache mount. `size` is bytes of disk, `used` the wall clock's seconds of its last use."""

    name: str  # of its directory
    about: Mapping[str, str]
    size: int
    used: float


class Pruned(Struct, frozen=True):
    """What became of the cache mounts that were to go; `stuck` are paths left behind."""

    removed: tuple[CacheMount, ...]
    busy: tuple[CacheMount, ...]
    stuck: tuple[str, ...]


def is_mount_name(name: str, identity: str) -> bool:
    """Return whether `name` is that of a slot of this identity."""
    match = _NAME.fullmatch(name)
    return match is not None and match[1] == mount_name(identity)


def list_mounts(session: Session) -> list[CacheMount]:
    """Return every cache mount, the least recently used first. Walks them all for their sizes."""
    top = session.layout.directory("mounts")
    found = []
    for name in sorted(os.listdir(top)):
        path = f"{top}/{name}"
        try:
            used = os.lstat(path).st_mtime
        except FileNotFoundError:
            continue
        found.append(CacheMount(name, read_about(path), disk_usage(path), used))
    return sorted(found, key=lambda mount: (mount.used, mount.name))


@contextmanager
def alone(session: Session, name: str) -> Iterator[str | None]:
    """Yield the path of a mount nobody else has now; None where somebody does or it is gone."""
    path = f"{session.layout.directory('mounts')}/{name}"
    try:
        fd = os.open(path, _OPEN)
    except FileNotFoundError:
        yield None
        return
    try:
        yield path if try_flock(fd) and same_file(fd, path) else None
    finally:
        release(fd)


def prune_mounts(
    session: Session,
    wanted: Callable[[CacheMount], bool],
    max_bytes: int | None = None,
    max_age: float | None = None,
) -> Pruned:
    """Remove cache mounts that are `wanted` and that nobody has now.

    With `max_age` (seconds) those not used for longer; with `max_bytes` the least recently used
    until the rest of the wanted take no more; with neither, all of them.
    """
    session.writable("pruning cache mounts")
    now = time.time()
    removed: list[CacheMount] = []
    busy: list[CacheMount] = []
    stuck: list[str] = []
    with file_lock(session.layout.gc_lock):
        mounts = [mount for mount in list_mounts(session) if wanted(mount)]
        left = sum(mount.size for mount in mounts)
        for mount in mounts:
            everything = max_age is None and max_bytes is None
            old = max_age is not None and now - mount.used > max_age
            large = max_bytes is not None and left > max_bytes
            if not (everything or old or large):
                continue
            try:
                gone = remove_mount(session, mount.name)
            except (OSError, HostError):
                stuck.append(f"{session.layout.directory('mounts')}/{mount.name}")
                continue
            if gone:
                removed.append(mount)
                left -= mount.size
            else:
                busy.append(mount)
    return Pruned(tuple(removed), tuple(busy), tuple(stuck))


def remove_mount(session: Session, name: str) -> bool:
    """Remove one mount; False where somebody has it. Raises OSError or HostError."""
    with Scratch(session.layout, session.disk) as trash, alone(session, name) as path:
        if path is None:
            return not os.path.lexists(f"{session.layout.directory('mounts')}/{name}")
        session.disk.rename(path, f"{trash.path}/mount")
    return True


def adopt_mounts(session: Session, directory: str, names: Iterable[str]) -> list[str]:
    """Put mounts that lie whole in `directory`, on the store's disk, in the place of the old.

    Each is exchanged in one step, so that killed anywhere there is the old one or the new; what
    was there before is in `directory` then. Returns the names that somebody has, left as they
    are. Raises HostError.
    """
    session.writable("importing cache mounts")
    busy = []
    for name in names:
        try:
            if not _adopt(session, f"{directory}/{name}", name):
                busy.append(name)
        except OSError as error:
            raise host_error(error, session.layout.root, "importing a cache mount") from error
    return busy


def _adopt(session: Session, new: str, name: str) -> bool:
    path = f"{session.layout.directory('mounts')}/{name}"
    while True:
        with alone(session, name) as old:
            if old is not None:
                kernel.exchange(new, old)
                return True
        if os.path.lexists(path):
            return False
        try:
            os.rename(new, path)
            return True
        except OSError as error:
            if error.errno not in _THERE:  # made by a build between the two calls
                raise
