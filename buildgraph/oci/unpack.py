"""Knows how a layer's tar becomes a directory in overlayfs's form, safely; must not know the store.

The archive is a stranger's. Every entry's parent is resolved inside the directory, on file
descriptors (A11 to A15); hard links lead only to regular files this layer has made (A14); later
entries of a name win, whatever way the name is spelled (A20); nothing is ever executed.

Whiteouts become character devices 0:0, opaque marks the opaque attribute. A directory that the
archive only implies gets mode 0755, owner 0:0 and the epoch: over a lower layer that has the
directory with other metadata, overlayfs then shows ours. Complete archives, as every builder of
today makes them, do not meet this.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat as stat_bits
from collections.abc import Iterable
from typing import Final

from msgspec import Struct, field

from buildgraph.closing import Closing
from buildgraph.errors import HostError, InputError
from buildgraph.filetree import Kind, kept_xattr
from buildgraph.oci.dirtree import NODE_XATTR, node_value
from buildgraph.oci.tarread import Member, TarReader
from buildgraph.oci.tarstream import OPAQUE_NAME, WHITEOUT_PREFIX
from buildgraph.rootpath import Root

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_AUFS: Final = ".wh..wh."  # aufs's own bookkeeping; docker skips it too
_CACHED: Final = 64


def member_path(raw: bytes) -> str:
    """Return a member's path in canonical form, "" for the root itself.

    Raises InputError for a path that leaves the root by `..` (A11); a leading slash is dropped.
    """
    out: list[bytes] = []
    for name in raw.split(b"/"):
        if name in (b"", b"."):
            continue
        if name != b"..":
            if len(name) > 255 + len(WHITEOUT_PREFIX) * name.startswith(b".wh."):
                raise InputError(f"the archive has a name of {len(name)} bytes; 255 are possible")
            out.append(name)
        elif out:
            out.pop()
        else:
            raise InputError(f"the archive has a path that leaves its root: {_show(raw)}")
    return os.fsdecode(b"/".join(out))


def _show(raw: bytes) -> str:
    return repr(os.fsdecode(raw[:200]))


class _Made(Struct):
    """What this layer has made so far, by canonical path."""

    whiteouts: set[str] = field(default_factory=set)
    times: dict[str, int] = field(default_factory=dict)  # directories' mtimes, set at the end


class Unpacker(Closing):
    """Writes the members of one archive below an empty directory. Close it when done."""

    def __init__(self, directory: str, epoch: int, overlay: str, *, whiteouts: bool = True) -> None:
        """`overlay` is `trusted` or `user`: whose attributes and whether device nodes are real.

        Without `whiteouts` a name that a layer would delete by is a name like any other.
        """
        self._whiteouts = whiteouts
        self._root = Root.at(directory)
        self._epoch_ns = epoch * 1_000_000_000
        self._overlay = overlay
        self._made = _Made()
        self._parents: dict[str, int] = {}

    def close(self) -> None:
        """Close every descriptor; a second call does nothing."""
        self._forget()
        self._root.close()

    def unpack(self, reader: Iterable[Member], tar: TarReader) -> None:
        """Write every member, then the directories' times.

        Raises InputError for what an archive must not say, HostError for what the machine cannot
        do; the directory is then of no use.
        """
        try:
            for member in reader:
                self._member(member, tar)
            self._finish()
        except OSError as error:
            raise _host_error(error) from error

    # --- one member ---------------------------------------------------------------------------

    def _member(self, member: Member, tar: TarReader) -> None:
        path = member_path(member.path)
        if not path:
            if member.flag != b"5":
                raise InputError("the archive replaces its own root directory")  # A15
            return
        name = path.rpartition("/")[2]
        if self._whiteouts and name.startswith(WHITEOUT_PREFIX):
            self._mark(path, name)
            return
        parent = self._parent(path)
        self._write(member, path, parent, name, tar)

    def _write(self, member: Member, path: str, parent: int, name: str, tar: TarReader) -> None:
        flag = member.flag
        if flag == b"5":
            self._directory(member, path, parent, name)
            return
        if flag == b"1":
            self._hardlink(member, path, parent, name)
            return
        self._clear(path, parent, name)
        if flag == b"2":
            if not member.link:
                raise InputError(f"the archive has a symbolic link to nothing: {path!r}")
            os.symlink(os.fsdecode(member.link), name, dir_fd=parent)
            self._own(member, parent, name)
            self._time(member, parent, name)
        elif flag in (b"3", b"4", b"6"):
            self._node(member, parent, name)
        else:  # POSIX: an unknown type is a regular file
            self._file(member, parent, name, tar)

    def _file(self, member: Member, parent: int, name: str, tar: TarReader) -> None:
        fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            if 0 < member.size <= 1 << 20:
                write_all(fd, tar.read())
            else:
                for data in tar.chunks():
                    write_all(fd, data)
            os.fchown(fd, member.uid, member.gid)  # also to ourselves: a setgid parent gave its own
            os.fchmod(fd, member.mode)  # after the owner: chown(2) drops setuid
            if member.xattrs:
                self._attributes(member, fd)
            os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))
        finally:
            os.close(fd)

    def _node(self, member: Member, parent: int, name: str) -> None:
        if not 0 <= member.major < 1 << 12 or not 0 <= member.minor < 1 << 20:
            raise InputError(f"the archive has a device {member.major}:{member.minor}")
        rdev = os.makedev(member.major, member.minor)
        if member.flag == b"6":
            os.mkfifo(name, 0o600, dir_fd=parent)
        elif member.flag == b"3" and rdev == 0:
            # as overlayfs reads it, this device is a whiteout; let the archive say so by name
            raise InputError("the archive has a character device 0:0")
        elif self._overlay == "trusted":
            kind = stat_bits.S_IFCHR if member.flag == b"3" else stat_bits.S_IFBLK
            os.mknod(name, kind | 0o600, rdev, dir_fd=parent)
        else:
            os.close(os.open(name, _CREATE, 0o600, dir_fd=parent))
            value = node_value(Kind(member.flag.decode()), rdev)
            os.setxattr(f"/proc/self/fd/{parent}/{name}", NODE_XATTR, value)
        self._own(member, parent, name)
        os.chmod(name, member.mode, dir_fd=parent)  # made by us a moment ago: never a link
        self._time(member, parent, name)

    def _directory(self, member: Member, path: str, parent: int, name: str) -> None:
        made = self._make_directory(path, parent, name)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            os.fchown(fd, member.uid, member.gid)
            os.fchmod(fd, member.mode)
            self._attributes(member, fd)
            if made and path in self._made.whiteouts:
                os.setxattr(fd, f"{self._overlay}.overlay.opaque", b"y")
        finally:
            os.close(fd)
        self._made.times[path] = member.mtime_ns

    def _make_directory(self, path: str, parent: int, name: str) -> bool:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
            return True
        except FileExistsError:
            if stat_bits.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                return False
        self._clear(path, parent, name)
        os.mkdir(name, 0o700, dir_fd=parent)
        return True

    def _hardlink(self, member: Member, path: str, parent: int, name: str) -> None:
        target = member_path(member.link)
        if target == path:
            return
        try:
            holder, last = self._root.parent(target)
        except (OSError, ValueError):
            raise _no_target(path, target) from None
        try:
            st = os.stat(last, dir_fd=holder, follow_symlinks=False)
            whiteout = stat_bits.S_ISCHR(st.st_mode) and st.st_rdev == 0
            if stat_bits.S_ISDIR(st.st_mode) or whiteout:
                raise _no_target(path, target)
            self._clear(path, parent, name, keep=(st.st_dev, st.st_ino))
            os.link(last, name, src_dir_fd=holder, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            return  # already a link to the same file
        except FileNotFoundError:
            raise _no_target(path, target) from None
        finally:
            os.close(holder)

    def _mark(self, path: str, name: str) -> None:
        """Act on a whiteout or an opaque mark, in the directory it stands in (A16)."""
        parent = self._parent(path)
        if name == OPAQUE_NAME:
            where = f"/proc/self/fd/{parent}"
            if path == name:  # nothing that overlayfs can say
                raise InputError(
                    "the archive hides the whole root below it, which is not supported"
                )
            os.setxattr(where, f"{self._overlay}.overlay.opaque", b"y")
            return
        if name in (".wh.", ".wh..", ".wh..."):
            raise InputError(f"the archive has a whiteout of no name: {path!r}")
        if name.startswith(_AUFS):
            return
        hidden = name[len(WHITEOUT_PREFIX) :]
        where = path[: len(path) - len(name)] + hidden
        self._made.whiteouts.add(where)
        try:
            st = os.stat(hidden, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            os.mknod(hidden, stat_bits.S_IFCHR, 0, dir_fd=parent)
            return
        # A whiteout speaks of the layers below only, so what this layer made stays; a directory
        # must then hide its lower namesake.
        if stat_bits.S_ISDIR(st.st_mode):
            os.setxattr(f"/proc/self/fd/{parent}/{hidden}", f"{self._overlay}.overlay.opaque", b"y")

    # --- what members share -------------------------------------------------------------------

    def _own(self, member: Member, parent: int, name: str) -> None:
        os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)

    def _time(self, member: Member, parent: int, name: str) -> None:
        at = (member.mtime_ns, member.mtime_ns)
        os.utime(name, ns=at, dir_fd=parent, follow_symlinks=False)

    def _attributes(self, member: Member, fd: int) -> None:
        """Set the attributes a layer keeps; xattr(7): only files and directories have them."""
        for key, value in member.xattrs:
            if kept_xattr(key):
                os.setxattr(fd, key, value)

    def _parent(self, path: str) -> int:
        """Return the descriptor of the directory an entry goes into; it stays ours.

        Links this layer has made are followed inside the root, as docker and tar(1) do.
        """
        parent = path.rpartition("/")[0]
        fd = self._parents.get(parent)
        if fd is not None:
            return fd
        if len(self._parents) >= _CACHED:
            self._forget()
        fd = self._open_parent(parent)
        self._parents[parent] = fd
        return fd

    def _open_parent(self, parent: str) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY
        try:
            return self._root.open(parent or ".", flags)
        except FileNotFoundError:
            pass
        except (NotADirectoryError, OSError) as error:
            raise self._bad_parent(parent, error) from error
        try:
            real = self._root.resolve(parent, missing_ok=True)
            os.close(self._root.make_dirs(real))
            names = real.split("/")
            for count in range(1, len(names) + 1):
                self._made.times.setdefault("/".join(names[:count]), self._epoch_ns)
            return self._root.open(real, flags)
        except OSError as error:
            raise self._bad_parent(parent, error) from error

    def _bad_parent(self, parent: str, error: OSError) -> Exception:
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EEXIST, errno.ENAMETOOLONG):
            return InputError(f"the archive writes below {parent!r}, which is no directory")
        return error

    def _clear(
        self, path: str, parent: int, name: str, keep: tuple[int, int] | None = None
    ) -> None:
        """Remove what an earlier member put at this name; the last one wins (A20)."""
        try:
            os.unlink(name, dir_fd=parent) if keep is None else self._unlink(parent, name, keep)
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):
            self._remove_tree(path, parent, name)

    def _unlink(self, parent: int, name: str, keep: tuple[int, int]) -> None:
        st = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if (st.st_dev, st.st_ino) != keep:
            os.unlink(name, dir_fd=parent)

    def _remove_tree(self, path: str, parent: int, name: str) -> None:
        self._forget(keep=parent)  # descriptors below it would lead to nowhere
        shutil.rmtree(name, dir_fd=parent)  # on descriptors, never through a link
        for known in [p for p in self._made.times if p == path or p.startswith(path + "/")]:
            del self._made.times[known]

    def _forget(self, keep: int = -1) -> None:
        kept = {path: fd for path, fd in self._parents.items() if fd == keep}
        for fd in self._parents.values():
            if fd != keep:
                os.close(fd)
        self._parents = kept

    def _finish(self) -> None:
        self._forget()
        for path, mtime in self._made.times.items():
            try:
                fd = self._root.open(path, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue  # its name was replaced by something else later
                raise
            try:
                os.utime(fd, ns=(mtime, mtime))
            finally:
                os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write every byte; write(2) may take fewer."""
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, memoryview(data)[done:])


def _no_target(path: str, target: str) -> InputError:
    return InputError(
        f"the archive has a hard link {path!r} to {target!r}, which this layer has not made"
    )


def _host_error(error: OSError) -> HostError:
    hint = None
    if error.errno in (errno.EPERM, errno.EINVAL, errno.ENOTSUP):
        hint = (
            "owners, attributes or device nodes of the image cannot be kept here; run as root or "
            "give this user a range in /etc/subuid and /etc/subgid"
        )
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space, or let `buildgraph cache gc` do it"
    return HostError(f"cannot unpack a layer: {error.strerror or error}", hint=hint)
