"""Knows what a tree of files looks like from outside; must not know where its bytes are.

Paths are relative `str` in os.fsdecode form (surrogateescape), `/`-separated, without a leading
slash and without `.` or `..`; the root is "". Names sort by their bytes (`name_order`).
"""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Collection
from typing import Final, Protocol

from msgspec import Struct

from buildgraph_cache.digest import Digest

_CAPABILITY: Final = "security.capability"
# As in os.fsencode, which takes more than twice as long; names are asked for many times a file.
_ENCODING: Final = sys.getfilesystemencoding()
_ERRORS: Final = sys.getfilesystemencodeerrors()


class Kind(enum.Enum):
    """The type of a directory entry; values are tar's type flags (POSIX pax, ustar)."""

    FILE = "0"
    HARDLINK = "1"
    SYMLINK = "2"
    CHAR = "3"
    BLOCK = "4"
    DIR = "5"
    FIFO = "6"
    SOCKET = "s"  # exists in contexts, can never be in a layer


class FileStat(Struct, frozen=True):
    """What lstat(2) says, reduced to what we use."""

    kind: Kind
    mode: int  # permission bits incl. setuid, setgid, sticky: 0o7777
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    dev: int = 0
    ino: int = 0
    nlink: int = 1
    rdev: int = 0
    target: str = ""  # of a symbolic link


class FileTree(Protocol):
    """A read-only tree. No method follows a symbolic link, in any component."""

    def stat(self, path: str) -> FileStat | None:
        """Return what is at `path`, or None where nothing is."""

    def list(self, path: str) -> list[tuple[str, FileStat]]:
        """Return the entries of a directory as (name, stat), in `name_order`."""

    def open(self, path: str) -> int:
        """Return a file descriptor for reading a regular file; the caller closes it."""

    def xattrs(self, path: str) -> tuple[tuple[str, bytes], ...]:
        """Return the attributes a layer keeps (`user.*`, `security.capability`), sorted."""

    def digest(self, path: str, stat: FileStat) -> Digest:
        """Return the sha256 of a regular file's bytes."""


def name_order(name: str) -> bytes:
    """Return a name's or path's bytes, which are its place in an order, as os.fsencode does."""
    return name.encode(_ENCODING, _ERRORS)


class FromTree(Struct, frozen=True):
    """Bytes that are a regular file of some tree; `stat` is what it was when it was hashed."""

    tree: FileTree
    path: str
    stat: FileStat


class Entry(Struct, frozen=True):
    """One entry of a layer to be written. `path` as above, never "" ."""

    path: str
    kind: Kind
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int | None = None  # seconds; None = the epoch of the build
    link: str = ""  # symlink: target text; hardlink: path of an earlier entry of this layer
    xattrs: tuple[tuple[str, bytes], ...] = ()
    rdev: int = 0  # os.makedev value of a CHAR or BLOCK entry
    content: bytes | FromTree | None = None  # of a FILE; None means empty


def kept_xattr(name: str) -> bool:
    """Say whether a layer keeps this attribute: `user.*` and `security.capability` (A10).

    ACLs, SELinux labels and `trusted.*` are the machine's, not the image's; docker drops them too.
    Marks of overlayfs and of our store would, copied, hide or change what is in a layer.
    """
    if name.startswith("user."):
        return not name.startswith(("user.overlay.", "user.buildgraph."))
    return name == _CAPABILITY


def plain_xattr(name: str, value: bytes) -> bytes:
    """Return an attribute's value; file capabilities without the user namespace they were set in.

    `struct vfs_ns_cap_data` (revision 3) has a root id at its end, and that is this machine's;
    revision 2 is what every layer has (linux/capability.h).
    """
    if name == _CAPABILITY and len(value) == 24 and value[3] == 3:
        return value[:3] + b"\x02" + value[4:20]
    return value


def is_bare(fd: int, none: Collection[int]) -> bool:
    """Say whether an open file has no attribute that a layer keeps.

    `none` are the error numbers that say so too; raises other OSErrors.
    """
    try:
        return not any(map(kept_xattr, os.listxattr(fd)))
    except OSError as error:
        if error.errno in none:
            return True
        raise
