"""Knows how to look into a running container's file system from outside; must not know what for.

A FileTree over the root its processes have, mounts included. No path leaves that root, no link is
followed, and owners are those seen inside.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from msgspec.structs import replace

from buildgraph.closing import Closing
from buildgraph.errors import HostError, InputError
from buildgraph.filetree import FileStat, kept_xattr, name_order
from buildgraph.oci.dirtree import file_stat
from buildgraph.rootpath import Root
from buildgraph_cache.digest import Digest

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
        is_link = stat.S_ISLNK(found.st_mode)
        return replace(
            file_stat(found, os.readlink("", dir_fd=fd) if is_link else ""),
            uid=self._inside(found.st_uid),
            gid=self._inside(found.st_gid),
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
        """Return the attributes that a layer keeps, of a file or directory, sorted."""
        fd = self._root.open(path or ".", os.O_RDONLY | os.O_NONBLOCK, follow=False)
        try:
            names = sorted(filter(kept_xattr, os.listxattr(fd)))
            return tuple((name, os.getxattr(fd, name)) for name in names)
        finally:
            os.close(fd)

    def digest(self, path: str, stat: FileStat) -> Digest:  # FileTree's signature
        """Return the sha256 of a regular file's bytes, by reading them."""
        import hashlib

        with open(self.open(path), "rb") as file:
            return Digest(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")


def _lost(path: str, error: OSError) -> HostError:
    return HostError(f"cannot look at /{path} of the container: {error.strerror}")
