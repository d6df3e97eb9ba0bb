"""Knows a layer as a directory in overlayfs's form; must not know what lies below it.

Overlay's form: a character device 0:0 is a whiteout, the extended attribute
`trusted.overlay.opaque=y` (root) or `user.overlay.opaque=y` (a store made by an ordinary user)
marks a directory that hides what is below. A store that may not make device nodes keeps them as
empty files with the attribute `user.buildgraph.node` ("c 1 3"): metadata, never a live device.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat as stat_bits
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol

from buildgraph.errors import HostError
from buildgraph.filetree import (
    Entry,
    FileStat,
    FromTree,
    Kind,
    is_bare,
    kept_xattr,
    name_order,
    plain_xattr,
)
from buildgraph.rootpath import Root
from buildgraph_cache.digest import Digest

NODE_XATTR: Final = "user.buildgraph.node"
_OVERLAY: Final = ("trusted.overlay.", "user.overlay.")
_OPAQUE: Final = ("trusted.overlay.opaque", "user.overlay.opaque")
# Directories and files whose bytes would be elsewhere; our mounts never ask for either.
_UNREADABLE: Final = ("redirect", "metacopy")
_KINDS: Final = {
    stat_bits.S_IFREG: Kind.FILE,
    stat_bits.S_IFDIR: Kind.DIR,
    stat_bits.S_IFLNK: Kind.SYMLINK,
    stat_bits.S_IFCHR: Kind.CHAR,
    stat_bits.S_IFBLK: Kind.BLOCK,
    stat_bits.S_IFIFO: Kind.FIFO,
    stat_bits.S_IFSOCK: Kind.SOCKET,
}
_NO_XATTRS: Final = (errno.ENODATA, errno.ENOTSUP, errno.EPERM, errno.ELOOP, errno.ENXIO)
_CHUNK: Final = 1 << 20
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Below(Protocol):
    """What the scan must know of the layers below."""

    def stat(self, path: str) -> FileStat | None:
        """Return what is at `path`, or None where nothing is."""


def overlay_namespace() -> str:
    """Return `trusted` where this process may use overlayfs as root does, else `user`.

    Inside a user namespace the kernel refuses `trusted.*` (xattr(7)) and overlayfs is mounted
    with `userxattr`.
    """
    if os.geteuid() != 0:
        return "user"
    with open("/proc/self/uid_map", encoding="ascii") as text:
        whole = text.read().split() == ["0", "0", "4294967295"]
    return "trusted" if whole else "user"


def is_whiteout(stat: FileStat) -> bool:
    """Say whether this is overlay's mark for a deleted name."""
    return stat.kind is Kind.CHAR and stat.rdev == 0


def file_stat(st: os.stat_result, target: str = "") -> FileStat:
    """Return lstat(2)'s answer as a FileStat."""
    return FileStat(
        _KINDS[stat_bits.S_IFMT(st.st_mode)],
        st.st_mode & 0o7777,
        st.st_uid,
        st.st_gid,
        st.st_size,
        st.st_mtime_ns,
        st.st_ctime_ns,
        st.st_dev,
        st.st_ino,
        st.st_nlink,
        st.st_rdev,
        target,
    )


class DirTree:
    """A FileTree over one layer's directory. Closes its descriptor when it is collected.

    Callers ask only for paths whose parents they have seen to be directories; the directory is
    the store's own, and nobody writes to it any more. So the kernel may resolve a path at once.
    """

    __slots__ = ("_root", "directory", "user")

    def __init__(self, directory: Path, *, user: bool = False) -> None:
        """Open the directory; `user` says that device nodes are kept as marked files."""
        self.directory = directory
        self.user = user
        self._root = Root.at(str(directory))

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # opening it had failed
            self._root.close()

    @property
    def fd(self) -> int:
        """The descriptor of the directory; it stays this tree's."""
        return self._root.fd

    def stat(self, path: str) -> FileStat | None:
        """Return what is at `path` in this layer, whiteouts too."""
        try:
            st = os.stat(path or ".", dir_fd=self.fd, follow_symlinks=False)
            target = os.readlink(path, dir_fd=self.fd) if stat_bits.S_ISLNK(st.st_mode) else ""
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return self._stat_long(path)
        found = file_stat(st, target)
        if self.user and not st.st_size and found.kind is Kind.FILE:
            return self._marked(path, found)
        return found

    def _stat_long(self, path: str) -> FileStat | None:
        walker = Root(os.dup(self.fd), native=False)
        try:
            parent, name = walker.parent(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        finally:
            walker.close()
        try:
            st = os.stat(name, dir_fd=parent, follow_symlinks=False)
            target = os.readlink(name, dir_fd=parent) if stat_bits.S_ISLNK(st.st_mode) else ""
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # no file system has such a name
                return None
            raise
        finally:
            os.close(parent)
        return file_stat(st, target)

    def _marked(self, path: str, found: FileStat) -> FileStat:
        try:
            node = parse_node(os.getxattr(f"/proc/self/fd/{self.fd}/{path}", NODE_XATTR))
        except OSError:
            return found
        return _as_node(found, *node) if node else found

    def list(self, path: str) -> list[tuple[str, FileStat]]:
        """Return the entries of a directory in this layer, whiteouts too, in `name_order`."""
        out = []
        fd = self.open_dir(path)
        try:
            with os.scandir(fd) as found:
                names = [entry.name for entry in found]
            for name in sorted(names, key=name_order):
                st = os.stat(name, dir_fd=fd, follow_symlinks=False)
                target = os.readlink(name, dir_fd=fd) if stat_bits.S_ISLNK(st.st_mode) else ""
                stat = file_stat(st, target)
                if self.user and not st.st_size and stat.kind is Kind.FILE:
                    stat = self._marked(f"{path}/{name}" if path else name, stat)
                out.append((name, stat))
        finally:
            os.close(fd)
        return out

    def open_dir(self, path: str) -> int:
        """Return a descriptor of a directory; the caller closes it."""
        return self._open(path or ".", _OPEN | os.O_DIRECTORY)

    def open(self, path: str) -> int:
        """Return a descriptor for reading a regular file; the caller closes it."""
        return self._open(path, _OPEN)

    def _open(self, path: str, flags: int) -> int:
        try:
            return os.open(path, flags, dir_fd=self.fd)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
        walker = Root(os.dup(self.fd), native=False)
        try:
            return walker.open(path, flags)
        finally:
            walker.close()

    def xattrs(self, path: str) -> tuple[tuple[str, bytes], ...]:
        """Return the attributes a layer keeps, sorted by name."""
        return tuple((n, v) for n, v in _read_xattrs(self.fd, path or ".") if kept_xattr(n))

    def opaque(self, path: str) -> bool:
        """Say whether a directory of this layer hides what is below it."""
        for name in _OPAQUE:
            try:
                if os.getxattr(f"/proc/self/fd/{self.fd}/{path}", name) == b"y":
                    return True
            except OSError as error:
                if error.errno not in _NO_XATTRS:
                    raise
        return False

    def digest(self, path: str, stat: FileStat) -> Digest:
        """Return the sha256 of a regular file's bytes, by reading them."""
        fd = self.open(path)
        try:
            return _sha256(fd, stat.size)
        finally:
            os.close(fd)

    def hash_in(
        self, directory: str, files: Iterable[tuple[str, int]]
    ) -> Iterator[tuple[str, Digest, bool]]:
        """Yield (name, sha256, whether it is without attributes) of files of one directory.

        Files come as (name, size). An open file is asked for attributes in a tenth of the time.
        """
        parent = self.open_dir(directory)
        try:
            for name, size in files:
                fd = os.open(name, _OPEN, dir_fd=parent)
                try:
                    yield name, _sha256(fd, size), is_bare(fd, _NO_XATTRS)
                finally:
                    os.close(fd)
        finally:
            os.close(parent)


def _sha256(fd: int, size: int) -> Digest:
    hasher = hashlib.sha256()
    while size > 0 and (data := os.read(fd, min(size, _CHUNK))):
        hasher.update(data)
        size -= len(data)
    return Digest("sha256:" + hasher.hexdigest())


def parse_node(value: bytes) -> tuple[Kind, int] | None:
    """Return (kind, rdev) of a `user.buildgraph.node` attribute, None where it is not ours."""
    parts = value.split(b" ")
    if len(parts) != 3 or parts[0] not in (b"c", b"b"):
        return None
    if not all(part.isdigit() and len(part) < 10 for part in parts[1:]):
        return None
    kind = Kind.CHAR if parts[0] == b"c" else Kind.BLOCK
    return kind, os.makedev(int(parts[1]), int(parts[2]))


def node_value(kind: Kind, rdev: int) -> bytes:
    """Return the attribute that stands for a device node."""
    letter = "c" if kind is Kind.CHAR else "b"
    return f"{letter} {os.major(rdev)} {os.minor(rdev)}".encode()


def _as_node(stat: FileStat, kind: Kind, rdev: int) -> FileStat:
    return FileStat(kind, stat.mode, stat.uid, stat.gid, 0, stat.mtime_ns, rdev=rdev)


def _read_xattrs(fd: int, name: str) -> list[tuple[str, bytes]]:
    """Return every attribute of an entry, sorted by name, file capabilities in their plain form."""
    path = f"/proc/self/fd/{fd}/{name}"
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return []
        raise
    out = []
    for key in sorted(names):
        try:
            value = os.getxattr(path, key, follow_symlinks=False)
        except OSError as error:
            if error.errno in _NO_XATTRS:
                continue
            raise
        out.append((key, plain_xattr(key, value)))
    return out


class Scan:
    """Reads a whole layer directory; with `fix`, makes it normal on the way.

    Normal means: whole seconds, nothing later than the epoch, no attribute a layer does not keep
    but the opaque mark (and that only where it hides something), no sockets, no whiteouts of
    nothing. Idempotent. Nothing else may write to the directory meanwhile.
    """

    def __init__(self, tree: DirTree, epoch: int, *, fix: bool, below: Below | None) -> None:
        self.tree = tree
        self.epoch = epoch
        self.fix = fix
        self.below = below
        self.entries: list[Entry] = []
        self.opaque: set[str] = set()
        self._links: dict[tuple[int, int], list[int]] = {}
        self._limit = epoch * 1_000_000_000

    def run(self) -> list[Entry]:
        """Return the entries, in the order of the file system; hard links are told."""
        todo = [""]  # no recursion: a step may leave thousands of directories in each other
        while todo:
            self._directory(todo.pop(), todo)
        for group in self._links.values():
            self._join(group)
        return self.entries

    def _join(self, group: list[int]) -> None:
        """Make all but the first of a group of paths hard links to it."""
        if len(group) < 2:
            return  # its other names are outside this layer
        group.sort(key=lambda at: name_order(self.entries[at].path))
        first = self.entries[group[0]]
        for at in group[1:]:
            entry = self.entries[at]
            self.entries[at] = Entry(
                entry.path,
                Kind.HARDLINK,
                entry.mode,
                entry.uid,
                entry.gid,
                0,
                entry.mtime,
                first.path,
            )

    def _directory(self, path: str, todo: list[str]) -> None:
        """Take in what a directory holds; its directories are put on `todo`."""
        touched = False
        prefix = f"{path}/" if path else ""
        fd = self.tree.open_dir(path)
        try:
            with os.scandir(fd) as found:
                names = [child.name for child in found]
            for name in names:
                st = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if self.fix and self._drop(fd, name, prefix + name, st):
                    touched = True
                    continue
                self._entry(fd, name, prefix + name, st)
                if stat_bits.S_ISDIR(st.st_mode):
                    todo.append(prefix + name)
            if touched and path:
                _set_time(f"/proc/self/fd/{fd}", self.entries, path)
        finally:
            os.close(fd)

    def _drop(self, fd: int, name: str, path: str, st: os.stat_result) -> bool:
        """Remove what cannot be in a layer: sockets, and whiteouts that hide nothing."""
        socket = stat_bits.S_ISSOCK(st.st_mode)
        whiteout = stat_bits.S_ISCHR(st.st_mode) and st.st_rdev == 0
        if whiteout and self.below is not None and self.below.stat(path) is not None:
            return False
        if not socket and not whiteout:
            return False
        os.unlink(name, dir_fd=fd)
        return True

    def _entry(self, fd: int, name: str, path: str, st: os.stat_result) -> None:
        xattrs = _read_xattrs(fd, name)
        mtime = self._time(fd, name, st)
        kind = _KINDS[stat_bits.S_IFMT(st.st_mode)]
        if kind is Kind.SOCKET:
            return
        rdev = st.st_rdev if kind in (Kind.CHAR, Kind.BLOCK) else 0
        kept = xattrs and self._attributes(fd, name, path, kind, xattrs)
        if xattrs and kind is Kind.FILE and self.tree.user:
            node = next((parse_node(v) for n, v in xattrs if n == NODE_XATTR), None)
            kind, rdev = node or (kind, rdev)
        size = st.st_size if kind is Kind.FILE else 0
        if st.st_nlink > 1 and kind is not Kind.DIR and not (kind is Kind.CHAR and not rdev):
            # overlayfs makes every whiteout of one upper directory a link to the same device
            self._links.setdefault((st.st_dev, st.st_ino), []).append(len(self.entries))
        self.entries.append(
            Entry(
                path,
                kind,
                st.st_mode & 0o7777,
                st.st_uid,
                st.st_gid,
                size,
                mtime,
                os.readlink(name, dir_fd=fd) if kind is Kind.SYMLINK else "",
                tuple(kept) if kept else (),
                rdev,
                FromTree(self.tree, path, FileStat(kind, 0, size=size)) if size else None,
            )
        )

    def _time(self, fd: int, name: str, st: os.stat_result) -> int:
        at = min(st.st_mtime_ns, self._limit)
        seconds = at // 1_000_000_000
        if self.fix and st.st_mtime_ns != seconds * 1_000_000_000:
            at = seconds * 1_000_000_000
            os.utime(name, ns=(at, at), dir_fd=fd, follow_symlinks=False)
        return seconds

    def _attributes(
        self, fd: int, name: str, path: str, kind: Kind, xattrs: list[tuple[str, bytes]]
    ) -> list[tuple[str, bytes]]:
        """Return the attributes that stay; note and tidy the others."""
        kept = []
        for key, value in xattrs:
            if kept_xattr(key):
                kept.append((key, value))
                if key == "security.capability" and self.fix:
                    _settle_capability(fd, name, value)
            elif key in _OPAQUE and value == b"y" and kind is Kind.DIR and self._hides(path):
                self.opaque.add(path)
            elif key.startswith(_OVERLAY) and key.rpartition(".")[2] in _UNREADABLE:
                raise HostError(
                    f"overlayfs kept {path!r} as a reference ({key})",
                    hint="redirect_dir and metacopy must be off for build mounts",
                )
            elif key != NODE_XATTR and self.fix:
                _remove_xattr(fd, name, key)
        return kept

    def _hides(self, path: str) -> bool:
        if not self.fix:
            return True
        found = self.below.stat(path) if self.below is not None else None
        return found is not None and found.kind is Kind.DIR


def _set_time(where: str, entries: list[Entry], path: str) -> None:
    """Give a directory its time back after something in it was removed."""
    for entry in reversed(entries):
        if entry.path == path:
            at = (entry.mtime or 0) * 1_000_000_000
            os.utime(where, ns=(at, at))
            return


def _settle_capability(fd: int, name: str, value: bytes) -> None:
    path = f"/proc/self/fd/{fd}/{name}"
    if os.getxattr(path, "security.capability", follow_symlinks=False) != value:
        os.setxattr(path, "security.capability", value, follow_symlinks=False)


def _remove_xattr(fd: int, name: str, key: str) -> None:
    """Remove an attribute; one that the system guards (a security label) stays."""
    try:
        os.removexattr(f"/proc/self/fd/{fd}/{name}", key, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (*_NO_XATTRS, errno.EACCES):
            raise
