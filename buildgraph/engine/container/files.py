"""Knows how to look into a running container's file system from outside; must not know what for.

A FileTree over the root its processes have, mounts included. No path leaves that root, no link is
followed but by `follow`, and owners are those seen inside.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from buildgraph.closing import Closing
from buildgraph.engine.treewalk import Found, follow
from buildgraph.errors import HostError, InputError
from buildgraph.filetree import FileStat, Kind, name_order
from buildgraph.rootpath import Root
from buildgraph_cache.digest import Digest

_KINDS: Final = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIR,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
}
_NOBODY: Final = 65534
_GONE: Final = (FileNotFoundError, NotADirectoryError)


class ContainerFiles(Closing):
    """A FileTree; a context manager. `shift` is what the host adds to the container's ids."""

    def __init__(self, root: int, shift: int):
        self._root = Root(root)
        self._shift = shift

    def close(self) -> None:
        """Let go of the container's root. Idempotent."""
        self._root.close()

    def follow(self, path: str) -> Found:
        """Return where a path leads, every link followed inside the root."""
        return follow(self, path)

    def stat(self, path: str) -> FileStat | None:
        """Return what is at `path`, or None where nothing is."""
        try:
            fd = self._root.open(path or ".", os.O_PATH | os.O_NOFOLLOW, follow=False)
        except _GONE:
            return None
        except OSError as error:
            raise _lost(path, error) from error
        try:
            return self._stat(fd)
        finally:
            os.close(fd)

    def _stat(self, fd: int) -> FileStat:
        found = os.fstat(fd)
        kind = _KINDS[stat.S_IFMT(found.st_mode)]
        return FileStat(
            kind,
            stat.S_IMODE(found.st_mode),
            self._inside(found.st_uid),
            self._inside(found.st_gid),
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
            found.st_dev,
            found.st_ino,
            found.st_nlink,
            found.st_rdev,
            os.readlink("", dir_fd=fd) if kind is Kind.SYMLINK else "",
        )

    def _inside(self, number: int) -> int:
        return number - self._shift if number >= self._shift else _NOBODY

    def list(self, path: str) -> list[tuple[str, FileStat]]:
        """Return the entries of a directory as (name, stat), in `name_order`.

        Raises FileNotFoundError or NotADirectoryError.
        """
        fd = self._root.open(path or ".", os.O_RDONLY | os.O_DIRECTORY, follow=False)
        try:
            names = sorted(os.listdir(fd), key=name_order)
        finally:
            os.close(fd)
        prefix = f"{path}/" if path else ""
        found = ((name, self.stat(prefix + name)) for name in names)
        return [(name, one) for name, one in found if one is not None]

    def open(self, path: str) -> int:
        """Return a file descriptor for reading a regular file; the caller closes it."""
        fd = self._root.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, follow=False)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise InputError(f"/{path} is not a regular file")
        return fd

    def xattrs(self, path: str) -> tuple[tuple[str, bytes], ...]:
        """Return `user.*` and `security.capability` of a file or directory, sorted."""
        fd = self._root.open(path or ".", os.O_RDONLY | os.O_NONBLOCK, follow=False)
        try:
            names = [n for n in os.listxattr(fd) if n.startswith("user.") or n == _CAPABILITY]
            return tuple((name, os.getxattr(fd, name)) for name in sorted(names))
        finally:
            os.close(fd)

    def digest(self, path: str, stat: FileStat) -> Digest:  # FileTree's signature
        """Return the sha256 of a regular file's bytes, by reading them."""
        import hashlib

        with open(self.open(path), "rb") as file:
            return Digest(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")


_CAPABILITY: Final = "security.capability"


def _lost(path: str, error: OSError) -> HostError:
    return HostError(f"cannot look at /{path} of the container: {error.strerror}")
