"""Knows private directories below `tmp/` and how to tell the living from the dead.

Must not know what is made in them. A scratch directory is locked by flock(2) on itself for as long
as it is in use; the kernel frees the lock of a process that dies, and `sweep` deletes every scratch
directory that it can lock.
"""

from __future__ import annotations

import fcntl
import os
from types import TracebackType

from buildgraph.errors import HostError
from buildgraph_cache.disk import Disk, host_error
from buildgraph_cache.layout import Layout
from buildgraph_cache.locks import release, same_file, try_flock
from buildgraph_cache.removal import delete_tree

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ANY = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class Scratch:
    """A directory of the store's file system that is ours until `close`, and then gone."""

    def __init__(self, layout: Layout, disk: Disk) -> None:
        self._disk = disk
        self.path, self._fd = _make(layout)

    @property
    def upper(self) -> str:
        """The overlay upper directory, made on demand; may be renamed away by a publish."""
        return self.directory("upper")

    @property
    def work(self) -> str:
        """The overlay work directory, made on demand."""
        return self.directory("work")

    def directory(self, name: str) -> str:
        """Return a directory of this name inside, made on demand with mode 0755."""
        path = f"{self.path}/{name}"
        try:
            os.mkdir(path)
            os.chmod(path, 0o755)  # whatever the umask: an upper is the root of a layer
        except FileExistsError:
            pass
        except OSError as error:
            raise host_error(error, self.path, "making a scratch directory") from error
        return path

    def close(self) -> None:
        """Delete the directory and unlock it; idempotent.

        Raises HostError when something is still mounted inside; the next sweep tries again.
        """
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            delete_tree(self._disk, self.path)
        except OSError as error:
            raise host_error(error, self.path, f"deleting {self.path}") from error
        finally:
            release(fd)

    def __enter__(self) -> Scratch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except HostError:
            if error is None:  # the first error is the one to tell; the sweep does the rest
                raise


def _make(layout: Layout) -> tuple[str, int]:
    while True:
        path = f"{layout.directory('tmp')}/{os.urandom(8).hex()}"
        try:
            os.mkdir(path, 0o700)
            fd = os.open(path, _OPEN)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and os.path.isdir(os.path.dirname(path)):
                continue  # a sweep was quicker
            raise host_error(error, path, "making a scratch directory") from error
        if try_flock(fd) and same_file(fd, path):
            return path, fd
        os.close(fd)


def sweep(layout: Layout, disk: Disk) -> tuple[int, list[str]]:
    """Delete what dead processes left in `tmp/`; return how many and what could not be deleted."""
    removed = 0
    stuck: list[str] = []
    root = layout.directory("tmp")
    for name in os.listdir(root):
        path = f"{root}/{name}"
        try:
            fd = os.open(path, _ANY)
        except FileNotFoundError:
            continue
        except OSError:  # a link or a socket: nothing that we make
            stuck.append(path)
            continue
        try:
            if try_flock(fd) and same_file(fd, path):
                delete_tree(disk, path)
                removed += 1
        except (OSError, HostError):
            stuck.append(path)
        finally:
            os.close(fd)
    return removed, stuck


def in_use(layout: Layout) -> set[str]:
    """Return the paths of the scratch directories that somebody holds now."""
    root = layout.directory("tmp")
    held: set[str] = set()
    for name in os.listdir(root):
        try:
            fd = os.open(f"{root}/{name}", _ANY)
        except OSError:
            continue
        try:
            if not try_flock(fd, fcntl.LOCK_SH):
                held.add(f"{root}/{name}")
        finally:
            os.close(fd)
    return held
