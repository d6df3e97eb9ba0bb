"""Knows how entries become a directory in overlayfs's form; must not know where they come from.

For entries of our own making, in canonical order, so that a parent is always a directory made a
moment ago in a directory nobody else can reach; strangers' archives go through `unpack`.
"""

from __future__ import annotations

import errno
import os
import stat as stat_bits
from collections.abc import Iterable, Iterator
from typing import Final

from buildgraph.filetree import Entry, Kind
from buildgraph.oci.dirtree import NODE_XATTR, node_value
from buildgraph.oci.tarstream import OPAQUE_NAME, WHITEOUT_PREFIX, read_content
from buildgraph.oci.unpack import write_all
from buildgraph.rootpath import Root

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CACHED: Final = 64


class EntryWriter:
    """Writes entries below an empty directory while their tar is being read. Close it when done."""

    def __init__(self, directory: str, epoch: int, overlay: str) -> None:
        """`overlay` is `trusted` or `user`, as in `dirtree`."""
        self._root = Root.at(directory)
        self._epoch = epoch
        self._overlay = overlay
        self._parents: dict[str, int] = {}
        self._times: list[tuple[str, int]] = []

    def __enter__(self) -> EntryWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._parents.values():
            os.close(fd)
        self._parents.clear()
        self._root.close()

    def passing(self, ordered: Iterable[Entry]) -> Iterator[Entry]:
        """Pass the entries on, making each; files with bytes are made by `read`."""
        for entry in ordered:
            if entry.kind is not Kind.FILE or not entry.size:
                self._make(entry)
            yield entry

    def read(self, entry: Entry) -> Iterator[bytes]:
        """Yield the bytes of a file on their way into the new file."""
        parent, name = self._parent(entry.path)
        fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            for data in read_content(entry):
                write_all(fd, data)
                yield data
            self._settle(fd, entry)
            at = self._time(entry)
            os.utime(fd, ns=(at, at))
        finally:
            os.close(fd)

    def finish(self) -> None:
        """Set the times of the directories, which making their entries has changed."""
        for path, at in self._times:
            os.utime(path, ns=(at, at), dir_fd=self._root.fd, follow_symlinks=False)

    def _time(self, entry: Entry) -> int:
        mtime = entry.mtime
        return 1_000_000_000 * (self._epoch if mtime is None or mtime > self._epoch else mtime)

    def _settle(self, fd: int, entry: Entry) -> None:
        os.fchown(fd, entry.uid, entry.gid)  # also to ourselves: a setgid parent gave its own
        os.fchmod(fd, entry.mode)  # after the owner: chown(2) drops setuid
        for key, value in entry.xattrs:
            os.setxattr(fd, key, value)

    def _make(self, entry: Entry) -> None:
        parent, name = self._parent(entry.path)
        kind = entry.kind
        if kind is Kind.DIR:
            os.mkdir(name, 0o700, dir_fd=parent)
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
            try:
                self._settle(fd, entry)
            finally:
                os.close(fd)
            self._times.append((entry.path, self._time(entry)))
        elif kind is Kind.FILE:
            self._empty(entry, parent, name)
        elif kind is Kind.HARDLINK:
            holder, target = self._parent(entry.link)
            os.link(target, name, src_dir_fd=holder, dst_dir_fd=parent, follow_symlinks=False)
        else:
            self._special(entry, parent, name)
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
            if kind is not Kind.SYMLINK:
                os.chmod(name, entry.mode, dir_fd=parent)
            at = self._time(entry)
            os.utime(name, ns=(at, at), dir_fd=parent, follow_symlinks=False)

    def _empty(self, entry: Entry, parent: int, name: str) -> None:
        if name == OPAQUE_NAME:
            os.setxattr(f"/proc/self/fd/{parent}", f"{self._overlay}.overlay.opaque", b"y")
            return
        if name.startswith(WHITEOUT_PREFIX):
            os.mknod(name[len(WHITEOUT_PREFIX) :], stat_bits.S_IFCHR, 0, dir_fd=parent)
            return
        for _ in self.read(entry):
            pass

    def _special(self, entry: Entry, parent: int, name: str) -> None:
        if entry.kind is Kind.SYMLINK:
            os.symlink(entry.link, name, dir_fd=parent)
        elif entry.kind is Kind.FIFO:
            os.mkfifo(name, 0o600, dir_fd=parent)
        elif self._overlay == "trusted":
            kind = stat_bits.S_IFCHR if entry.kind is Kind.CHAR else stat_bits.S_IFBLK
            os.mknod(name, kind | 0o600, entry.rdev, dir_fd=parent)
        else:
            fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
            try:
                os.setxattr(fd, NODE_XATTR, node_value(entry.kind, entry.rdev))
            finally:
                os.close(fd)

    def _parent(self, path: str) -> tuple[int, str]:
        """Return (descriptor of the parent, last name); the descriptor stays ours."""
        parent, _, name = path.rpartition("/")
        fd = self._parents.get(parent)
        if fd is None:
            if len(self._parents) >= _CACHED:
                for old in self._parents.values():
                    os.close(old)
                self._parents.clear()
            fd = self._parents[parent] = self._open(parent)
        return fd, name

    def _open(self, parent: str) -> int:
        try:
            return os.open(parent or ".", _DIRECTORY, dir_fd=self._root.fd)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
        walker = Root(os.dup(self._root.fd), native=False)
        try:
            return walker.open(parent, _DIRECTORY)
        finally:
            walker.close()
