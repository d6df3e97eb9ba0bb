"""Knows how dpkg lays the files of packages into a directory; must not know how packages are
configured.

Nothing is run. The directory is fresh and only we write to it; still every entry is resolved
inside it by file descriptor (`rootpath`), because a package may bring a link that leads out
(A11-A16). The rules follow dpkg's `tarobject()` (src/main/archives.c): an existing directory, or
link to one, stays as it is; two packages may ship a file only where one Replaces the other.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from msgspec import Struct, field

from buildgraph.errors import HostError, InputError
from buildgraph.oci.tarread import Member, TarReader
from buildgraph.rootpath import Root
from buildgraph_rules.debian.deb import Deb, reading_ahead

CONFFILE_ENDING: Final = ".dpkg-new"
# Directories of / that are links into /usr on a merged system. The first three are always made, as
# debootstrap does; the others when a package has them.
_MERGED: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32")
_ALWAYS_MERGED: Final = 3
_LATEST: Final = 2**62  # nanoseconds, in the year 2116
_SMALL: Final = 1024 * 1024
_DIRECTORIES: Final = 64  # kept open


class Unpacked(Struct):
    """What a package brought: its files as dpkg's .list has them, in order."""

    deb: Deb
    paths: dict[str, None] = field(default_factory=dict)  # absolute; the root itself is "/."
    md5sums: dict[str, str] = field(default_factory=dict)  # only where the package has none itself


def unpack(debs: Sequence[Deb], directory: str, *, conffiles_aside: bool) -> tuple[Unpacked, ...]:
    """Unpack packages, in order, into an empty directory.

    `conffiles_aside` leaves configuration files as `<file>.dpkg-new`, where `dpkg --configure`
    expects them. Not atomic: a directory that an error came from is worth nothing. Raises
    HostError.
    """
    with Root.at(directory) as root:
        unpacker = _Unpacker(root, conffiles_aside)
        try:
            unpacker.prepare()
            with reading_ahead(debs) as readers:
                for deb, reader in readers:
                    unpacker.unpack(deb, reader)
        finally:
            unpacker.close()
        return tuple(unpacker.done.values())


class _Unpacker:
    def __init__(self, root: Root, conffiles_aside: bool):
        self._root = root
        self._aside = conffiles_aside
        self._open: OrderedDict[str, tuple[int, int]] = OrderedDict()  # path -> (fd, inode)
        # (inode of the directory, name) -> (package, path as it wrote it); two ways to the same
        # file, /bin/x and /usr/bin/x, are one key
        self._owners: dict[tuple[int, str], tuple[str, str]] = {}
        self._stale = False
        self.done: dict[str, Unpacked] = {}

    def prepare(self) -> None:
        """Make the root usable and lay the links of a merged /usr."""
        os.fchown(self._root.fd, 0, 0)
        os.fchmod(self._root.fd, 0o755)
        for name in _MERGED[:_ALWAYS_MERGED]:
            self._merge(name)

    def close(self) -> None:
        """Close every directory that is kept open; idempotent."""
        while self._open:
            _, (fd, _inode) = self._open.popitem()
            os.close(fd)

    def unpack(self, deb: Deb, reader: TarReader) -> None:
        """Write the files of one package."""
        unpacked = Unpacked(deb, {"/.": None})
        self.done[deb.name] = unpacked
        conffiles = frozenset(deb.conffiles) if self._aside else frozenset()
        path = ""
        try:
            for member in reader:
                if self._stale:
                    self.close()
                    self._stale = False
                path = _clean(member.path)
                self._entry(unpacked, member, path, reader, conffiles)
        except InputError as error:
            raise HostError(f"package {deb.name}: {error.message}") from error
        except OSError as error:
            raise _explained(deb, path, error) from error
        except OverflowError as error:
            raise HostError(f"package {deb.name}: /{path} has an owner out of range") from error

    def _entry(
        self,
        unpacked: Unpacked,
        member: Member,
        path: str,
        reader: TarReader,
        conffiles: frozenset[str],
    ) -> None:
        if member.flag == b"5":
            self._directory(path, member)
            unpacked.paths["/" + (path or ".")] = None
            return
        if not path:
            raise InputError("the root directory is not a directory")  # A15
        fd, inode, name = self._parent(path)
        if not self._claim(unpacked.deb, inode, name, "/" + path):
            return
        unpacked.paths["/" + path] = None
        target = name + CONFFILE_ENDING if "/" + path in conffiles else name
        if not self._make_room(fd, target, member):
            return
        match member.flag:
            case b"0":
                self._file(unpacked, member, path, reader, fd, target)
            case b"1":
                self._hard_link(unpacked, member, fd, target, conffiles)
            case b"2":
                os.symlink(member.link, os.fsencode(target), dir_fd=fd)
                os.chown(target, member.uid, member.gid, dir_fd=fd, follow_symlinks=False)
            case b"6":
                os.mkfifo(target, 0o600, dir_fd=fd)
                self._own(fd, target, member)
            case _:
                # Debian policy 10.6: packages must not ship device nodes
                raise InputError(f"/{path} is a device or of unknown type {member.flag!r}: refused")

    def _directory(self, path: str, member: Member) -> None:
        if not path:
            return
        if path in _MERGED:
            self._merge(path)
        fd, _inode, name = self._parent(path)
        try:
            os.mkdir(name, 0o700, dir_fd=fd)
        except FileExistsError:
            if _is_directory(fd, name) or self._leads_to_directory(path):
                return
            raise
        self._own(fd, name, member)

    def _file(
        self,
        unpacked: Unpacked,
        member: Member,
        path: str,
        reader: TarReader,
        parent: int,
        name: str,
    ) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        summed = "md5sums" not in unpacked.deb.files
        md5 = hashlib.md5(usedforsecurity=False)
        fd = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            pieces = (reader.read(),) if member.size <= _SMALL else reader.chunks()
            for piece in pieces:
                _write(fd, piece)
                if summed:
                    md5.update(piece)
            os.fchown(fd, member.uid, member.gid)
            os.fchmod(fd, member.mode)  # after chown(2), which takes setuid away
            moment = min(max(member.mtime_ns, 0), _LATEST)
            os.utime(fd, ns=(moment, moment))
        finally:
            os.close(fd)
        if summed:
            unpacked.md5sums[path] = md5.hexdigest()

    def _hard_link(
        self,
        unpacked: Unpacked,
        member: Member,
        fd: int,
        name: str,
        conffiles: frozenset[str],
    ) -> None:
        """Link to a file that this package brought itself; anything else is refused (A14)."""
        source = _clean(member.link)
        if "/" + source not in unpacked.paths:
            raise InputError(f"a hard link leads to /{source}, which is not in the package")
        source_fd, _inode, source_name = self._parent(source)
        if "/" + source in conffiles:
            source_name += CONFFILE_ENDING
        if not stat.S_ISREG(os.lstat(source_name, dir_fd=source_fd).st_mode):
            raise InputError(f"a hard link leads to /{source}, which is not a regular file")
        os.link(source_name, name, src_dir_fd=source_fd, dst_dir_fd=fd, follow_symlinks=False)

    def _claim(self, deb: Deb, directory: int, name: str, path: str) -> bool:
        """Make `deb` the owner of a file; False where another package keeps it."""
        key = (directory, name)
        owner = self._owners.get(key)
        if owner is not None and owner[0] != deb.name:
            other = self.done[owner[0]]
            if owner[1] != path:
                pass  # /bin/x and /usr/bin/x: dpkg does not see that, and the later one stays
            elif _replaces(deb, other.deb):
                del other.paths[path]
            elif _replaces(other.deb, deb):
                return False
            else:
                raise InputError(f"{path} is in package {other.deb.name} as well")
        self._owners[key] = (deb.name, path)
        return True

    def _make_room(self, fd: int, name: str, member: Member) -> bool:
        """Remove what is at `name`; False where a directory is, which a link leaves alone."""
        try:
            found = os.lstat(name, dir_fd=fd)
        except FileNotFoundError:
            return True
        if stat.S_ISDIR(found.st_mode):
            if member.flag == b"2":
                return False
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        os.unlink(name, dir_fd=fd)
        self._stale = True  # what goes may be a link that led to an open directory
        return True

    def _own(self, fd: int, name: str, member: Member) -> None:
        os.chown(name, member.uid, member.gid, dir_fd=fd, follow_symlinks=False)
        os.chmod(name, member.mode, dir_fd=fd)  # we made it just now: it is no link

    def _merge(self, name: str) -> None:
        fd = self._root.fd
        try:
            os.lstat(name, dir_fd=fd)
        except FileNotFoundError:
            os.close(self._root.make_dirs(f"usr/{name}"))
            os.symlink(f"usr/{name}", name, dir_fd=fd)

    def _leads_to_directory(self, path: str) -> bool:
        try:
            os.close(self._root.open(path, os.O_PATH | os.O_DIRECTORY))
        except OSError:
            return False
        return True

    def _parent(self, path: str) -> tuple[int, int, str]:
        """Return (descriptor, inode, last name); the descriptor stays ours."""
        above, _, name = path.rpartition("/")
        known = self._open.get(above)
        if known is None:
            if len(self._open) >= _DIRECTORIES:
                os.close(self._open.popitem(last=False)[1][0])
            fd = self._root.make_dirs(above)
            known = self._open[above] = (fd, os.fstat(fd).st_ino)
        else:
            self._open.move_to_end(above)
        return *known, name


def _clean(raw: bytes) -> str:
    """Return the canonical relative path of an entry; refuse `..` (A11, A20)."""
    names = [name for name in os.fsdecode(raw).split("/") if name not in ("", ".")]
    if ".." in names:
        raise InputError(f"the entry {os.fsdecode(raw)!r} has '..' in its name")
    return "/".join(names)


def _replaces(one: Deb, other: Deb) -> bool:
    return any(r.name == other.name and r.admits(other.package.version) for r in one.replaces)


def _is_directory(fd: int, name: str) -> bool:
    return stat.S_ISDIR(os.lstat(name, dir_fd=fd).st_mode)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _explained(deb: Deb, path: str, error: OSError) -> HostError:
    message = f"package {deb.name}: cannot write /{path}: {error.strerror}"
    if error.errno in (errno.EINVAL, errno.EPERM):
        return HostError(
            message,
            hint="its owner is not mapped: give this user subordinate ids in /etc/subuid "
            "and /etc/subgid, or run as root",
        )
    return HostError(message)
