"""Knows how to read a file that must still be the one we have seen; must not know which or why.

A file is identified by device, inode, size and both times: ctime cannot be set back by an
ordinary program, so whoever writes to a file between two looks is found out.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat as bits
from typing import Final

from buildgraph.errors import HostError, InputError
from buildgraph.filetree import FileStat, is_bare, kept_xattr, plain_xattr
from buildgraph_cache.digest import Digest

_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CHUNK: Final = 1 << 20
_NO_XATTRS: Final = (errno.ENOTSUP, errno.ENOSYS)


class ChangedWhileReading(HostError):
    """A file of the context is not what it was when its directory was read."""


def same_file(now: os.stat_result, then: FileStat) -> bool:
    """Say whether a descriptor's file has not been changed or replaced since `then`."""
    return (
        now.st_ino == then.ino
        and now.st_size == then.size
        and now.st_mtime_ns == then.mtime_ns
        and now.st_ctime_ns == then.ctime_ns
        and now.st_dev == then.dev
        and bits.S_ISREG(now.st_mode)
    )


def kept_xattrs(path: str) -> tuple[tuple[str, bytes], ...]:
    """Return the attributes of `path` that a layer keeps; its last link is not followed."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return ()
        raise HostError(f"cannot read extended attributes: {error.strerror}") from error
    return tuple(
        (name, plain_xattr(name, os.getxattr(path, name, follow_symlinks=False)))
        for name in sorted(names)
        if kept_xattr(name)
    )


def changed(path: str, how: str) -> ChangedWhileReading:
    """Return the error for a file that is not what it was."""
    return ChangedWhileReading(
        f"changed while reading: {path}: {how}", hint="stop what writes to it and build again"
    )


def cannot_read(path: str, error: OSError) -> HostError | InputError:
    """Return the error of ours that says why a path could not be opened."""
    shown = path or "."
    if error.errno in (errno.EACCES, errno.EPERM):
        return InputError(
            f"cannot read {shown}: {error.strerror}",
            hint="change its mode, or name it in the ignore file",
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
        return changed(shown, "it is gone, or something else is in its place")
    return HostError(f"cannot read {shown}: {error.strerror}")


class Reader:
    """Opens and hashes regular files; remembers whether the access time may be left alone."""

    __slots__ = ("_no_atime",)

    def __init__(self) -> None:
        self._no_atime = os.O_NOATIME

    def open(self, directory: int, name: str, path: str, stat: FileStat) -> int:
        """Open `name` in `directory` if it is still what `stat` says; the caller closes it.

        `path` is for messages. Raises ChangedWhileReading, InputError, HostError.
        """
        try:
            fd = self._open(directory, name)
        except OSError as error:
            raise cannot_read(path, error) from error
        if not same_file(os.fstat(fd), stat):
            os.close(fd)
            raise changed(path, "its size or times are not what they were")
        return fd

    def read_ahead(self, directory: int, name: str) -> None:
        """Have the kernel begin to read a file, without waiting for it. Raises OSError."""
        fd = self._open(directory, name)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(fd)

    def _open(self, directory: int, name: str) -> int:
        asked = self._no_atime  # another thread may find out between the call and the answer
        try:
            return os.open(name, _FILE | asked, dir_fd=directory)
        except PermissionError as error:
            if error.errno != errno.EPERM or not asked:
                raise
        # O_NOATIME is for owners only, open(2); from here on we do without.
        self._no_atime = 0
        return os.open(name, _FILE, dir_fd=directory)

    def hash(
        self, directory: int, name: str, path: str, stat: FileStat
    ) -> tuple[Digest, bool, bytes | None]:
        """Return the sha256 of a file that is the same before and after. Raises as `open`.

        Beside it whether the file is bare: without attributes that a layer keeps. To ask an open
        file costs a tenth of asking by a path. Last the bytes of a file that was read in one go.
        """
        fd = self.open(directory, name, path, stat)
        try:
            hasher = hashlib.sha256()
            left = stat.size + 1  # one more, to see that it did not grow
            whole = None
            while left > 0 and (data := os.read(fd, asked := min(left, _CHUNK))):
                hasher.update(data)
                left -= len(data)
                whole = data if len(data) == stat.size else None
                if left == 1 and len(data) < asked:
                    break  # less than was asked for: this was its end
            bare = is_bare(fd, _NO_XATTRS)
            if left != 1 or not same_file(os.fstat(fd), stat):
                raise changed(path, "it was written to meanwhile")
        except OSError as error:
            raise HostError(f"cannot read {path}: {error.strerror}") from error
        finally:
            os.close(fd)
        return Digest("sha256:" + hasher.hexdigest()), bare, whole
