"""Knows the calls that change a disk for good and what their refusals mean to the user.

Must not know what is stored. Every such call of the store goes through one `Disk`, so that a test
can fail, or end the process, at the N-th of them.
"""

from __future__ import annotations

import contextlib
import errno
import os

from buildgraph.errors import HostError

_FULL = (errno.ENOSPC, errno.EDQUOT)


class Disk:
    """The real disk. A subclass may override `before` to inject a fault."""

    def before(self, call: str) -> None:
        """Do nothing; called with the name of the durable call that comes next."""

    def rename(self, old: str, new: str) -> None:
        """rename(2): atomic, replaces a file or an empty directory."""
        self.before("rename")
        os.rename(old, new)

    def unlink(self, name: str, dir_fd: int | None = None) -> None:
        """unlink(2)."""
        self.before("unlink")
        os.unlink(name, dir_fd=dir_fd)

    def rmdir(self, name: str, dir_fd: int | None = None) -> None:
        """rmdir(2)."""
        self.before("rmdir")
        os.rmdir(name, dir_fd=dir_fd)

    def fsync(self, fd: int) -> None:
        """fsync(2); an error means the data may be gone and must not be retried (R10)."""
        self.before("fsync")
        os.fsync(fd)

    def syncfs(self, fd: int) -> None:
        """Write out the whole file system of `fd`, as syncfs(2).

        Since Linux 5.8 it reports write-back errors that came up after `fd` was opened, so the
        descriptor has to be older than the writes it vouches for.
        """
        self.before("syncfs")
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


def start_writing(fd: int, offset: int, count: int) -> None:
    """Have the kernel begin to write a part of a file out, without waiting for it.

    Only for speed, so nothing is said where it cannot be done: what is on its way already need not
    be waited for when the file is made durable. Source: sync_file_range(2).
    """
    import ctypes

    write = 2  # SYNC_FILE_RANGE_WRITE
    with contextlib.suppress(AttributeError):  # a C library without it
        ctypes.CDLL(None).sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(count), write)


def write_file(disk: Disk, path: str, data: bytes, mode: int = 0o600) -> None:
    """Write a small file so that it is there whole or not at all, also after a power cut."""
    temp = f"{path}.{os.getpid()}.new"
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        os.write(fd, data)
        disk.fsync(fd)
    finally:
        os.close(fd)
    disk.rename(temp, path)
    fsync_directory(disk, os.path.dirname(path))


def fsync_directory(disk: Disk, path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        disk.fsync(fd)
    finally:
        os.close(fd)


def host_error(error: OSError, path: str, doing: str) -> HostError:
    """Return what an OSError met while `doing` something below `path` means to the user."""
    code = error.errno or 0
    if code in _FULL:
        return full_error(path, doing, code)
    reason = error.strerror or str(error)
    hint = {
        errno.EROFS: "the store is on a read-only file system: choose another with --store DIR",
        errno.EMFILE: "raise the limit of open files (`ulimit -n 4096`) or lower -j",
        errno.ENFILE: "the machine is out of open files: end other programs or raise fs.file-max",
        errno.EIO: f"the disk under {mount_of(path)} reports errors; the kernel log says more",
        errno.EACCES: "the store must belong to the user who builds: choose another with --store",
        errno.ENOMEM: "the machine is out of memory: lower -j",
    }.get(code)
    return HostError(f"{doing}: {reason} ({mount_of(path)})", hint=hint)


def full_error(path: str, doing: str, code: int = errno.ENOSPC, needed: int = 0) -> HostError:
    """Return the error for a full file system; it names the file system and what is needed."""
    try:
        info = os.statvfs(_existing(path))
        free = f", {size_text(info.f_bavail * info.f_frsize)} and {info.f_favail} inodes free"
    except OSError:
        free = ""
    want = f", {size_text(needed)} needed" if needed else ""
    what = "quota exceeded" if code == errno.EDQUOT else "no space left"
    return HostError(
        f"{doing}: {what} on {mount_of(path)}{want}{free}",
        hint="`buildgraph cache gc` frees space in the store, also on a full disk",
    )


def mount_of(path: str) -> str:
    """Return words for the file system that holds `path`: `ext4 at / (/dev/sda1)`."""
    path = _existing(path)
    try:
        device = os.stat(path).st_dev
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            rows = [line.split() for line in lines]
    except OSError:
        return f"the file system of {path}"
    wanted = f"{os.major(device)}:{os.minor(device)}"
    best: list[str] | None = None
    for row in rows:  # proc_pid_mountinfo(5)
        if row[2] == wanted and (best is None or len(row[4]) < len(best[4])):
            best = row
    if best is None:
        return f"the file system of {path}"
    dash = best.index("-")
    return f"{best[dash + 1]} at {best[4]} ({best[dash + 2]})"


def size_text(count: int) -> str:
    """Return a number of bytes for people: `3.2 MiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _existing(path: str) -> str:
    while path and not os.path.exists(path):
        path = os.path.dirname(path)
    return path or "/"
