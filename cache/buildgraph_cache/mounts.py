"""Knows directories that outlive builds and belong to no layer: what `--mount=type=cache` shows.

Must not know what is kept in them. A cache mount is a directory `mounts/<name>-<slot>` with `data`
inside and `about` beside it, locked by flock(2) on itself while it is in use: shared by those who
may share it, alone for those who may not. Who wants one alone gets the first slot that is free, or
waits for slot 0.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Literal

from buildgraph_cache.disk import host_error
from buildgraph_cache.layout import Layout
from buildgraph_cache.locks import named_lock, release, same_file, try_flock
from buildgraph_cache.removal import delete_tree
from buildgraph_cache.session import Session

Sharing = Literal["shared", "private", "locked"]

ABOUT_BYTES: Final = 64 * 1024  # what `about` may hold
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PATIENCE: Final = 5.0


def mount_name(identity: str) -> str:
    """Return the file name of an identity, which may be any text: hashed, it is no path (A35)."""
    import hashlib

    return hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()


@contextmanager
def hold_mount(
    session: Session,
    identity: str,
    sharing: Sharing,
    about: Mapping[str, str],
    prepare: Callable[[str], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Iterator[str]:
    """Yield the directory of a cache mount; it is neither collected nor replaced meanwhile.

    A new one is handed to `prepare`, empty, before anybody sees it. `about` is kept for people.
    `locked` waits until nobody has slot 0: after five seconds `on_wait` is told, and
    InterruptedError is raised when `cancelled` says yes.
    """
    layout = session.layout
    try:
        if sharing == "locked":
            path, fd = _wait(layout, mount_name(identity), on_wait, cancelled)
        else:
            path, fd = _take(layout, mount_name(identity), sharing == "private")
    except InterruptedError:
        raise
    except OSError as error:
        raise host_error(error, layout.root, "preparing a cache mount") from error
    try:
        try:
            _prepare(session, path, prepare)
            _note(path, {"identity": identity, **about})
        except OSError as error:
            raise host_error(error, layout.root, "preparing a cache mount") from error
        yield f"{path}/data"
    finally:
        _mark_used(path)
        release(fd)


def read_about(directory: str) -> dict[str, str]:
    """Return what is known of the mount in `directory`; {} where nothing sound is."""
    try:
        fd = os.open(f"{directory}/about", _READ)
    except OSError:
        return {}
    with open(fd, "rb") as file:
        data = file.read(ABOUT_BYTES + 1)
    try:
        found = json.loads(data) if len(data) <= ABOUT_BYTES else None
    except ValueError:
        return {}
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        return {}
    return found


def about_bytes(about: Mapping[str, str]) -> bytes:
    """Return the text that says this, the same for the same words."""
    return json.dumps(dict(about), sort_keys=True).encode() + b"\n"


def _open_slot(path: str) -> int:
    """Return a descriptor of a slot, made where there is none; -1 when it went in between."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    try:
        return os.open(path, _OPEN)
    except FileNotFoundError:
        return -1


def _take(layout: Layout, name: str, private: bool) -> tuple[str, int]:
    slot = 0
    while True:
        path = f"{layout.directory('mounts')}/{name}-{slot}"
        fd = _open_slot(path)
        if fd < 0:
            continue
        locked = try_flock(fd, fcntl.LOCK_EX if private else fcntl.LOCK_SH)
        if locked and same_file(fd, path):
            return path, fd
        os.close(fd)
        if not locked:
            slot += 1  # somebody has it for himself


def _wait(
    layout: Layout,
    name: str,
    on_wait: Callable[[str], None] | None,
    cancelled: Callable[[], bool] | None,
) -> tuple[str, int]:
    began = time.monotonic()
    pause = 0.001
    path = f"{layout.directory('mounts')}/{name}-0"
    while True:
        fd = _open_slot(path)
        if fd >= 0:
            if try_flock(fd) and same_file(fd, path):
                return path, fd
            os.close(fd)
        if cancelled is not None and cancelled():
            raise InterruptedError("waiting for a cache mount was cancelled")
        if on_wait is not None and time.monotonic() - began >= _PATIENCE:
            on_wait("waiting for another step to let go of a cache mount")
            on_wait = None
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _prepare(session: Session, path: str, prepare: Callable[[str], None] | None) -> None:
    """Make `data`, once, out of sight: it is there whole or not at all."""
    data, new = f"{path}/data", f"{path}/data.new"
    if os.path.isdir(data):
        return
    name = os.path.basename(path)
    with named_lock(f"{session.layout.directory('locks')}/keys/{mount_name(f'new {name}')}"):
        if os.path.isdir(data):
            return
        if os.path.lexists(new):  # of somebody who died on the way
            delete_tree(session.disk, new)
        os.mkdir(new, 0o755)
        os.chmod(new, 0o755)  # whatever the umask
        if prepare is not None:
            prepare(new)
        session.disk.rename(new, data)


def _note(path: str, about: Mapping[str, str]) -> None:
    _mark_used(path)
    if read_about(path) == about:
        return
    temp = f"{path}/about.{os.urandom(4).hex()}"
    with open(temp, "xb") as file:
        file.write(about_bytes(about))
    os.rename(temp, f"{path}/about")


def _mark_used(path: str) -> None:
    """Say by its time when a mount was last used, for collections and people."""
    try:
        os.utime(path)
    except OSError:
        pass  # somebody has removed the store by hand; the step says so itself
