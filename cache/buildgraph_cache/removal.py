"""Knows how to measure and delete a tree that hostile commands may have written.

Must not know why it is deleted. Everything is done relative to directory descriptors that were
opened without following links, so a link in the tree, or one put there meanwhile, is itself
deleted and never followed. A tree under which anything is mounted is refused: a forgotten bind
mount must not lead the deletion into somebody's files.
"""

from __future__ import annotations

import errno
import os
import stat

from buildgraph.errors import HostError
from buildgraph_cache.disk import Disk

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DEPTH = 48  # directories held open at once; deeper ones are first moved up


def delete_tree(disk: Disk, path: str) -> None:
    """Delete the file or tree at `path`; nothing there is fine.

    Copes with directories without permission bits and with any depth. Raises HostError where
    something is mounted below, OSError for what the kernel refuses.
    """
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(info.st_mode):
        disk.unlink(path)
        return
    _refuse_mounts(path)
    parent = os.open(os.path.dirname(path) or ".", _OPEN)
    try:
        _delete_directory(disk, os.path.basename(path), parent, info.st_dev)
    finally:
        os.close(parent)


def _refuse_mounts(path: str) -> None:
    real = os.fsencode(os.path.realpath(path))
    try:
        with open("/proc/self/mountinfo", "rb") as lines:
            points = [line.split(b" ", 5)[4] for line in lines]
    except OSError:
        return
    for point in points:
        if b"\\" in point:  # \040 and the like, proc_pid_mountinfo(5)
            point = point.decode("unicode_escape").encode("latin-1")
        if point == real or point.startswith(real + b"/"):
            raise HostError(
                f"not deleting {path}: {os.fsdecode(point)} is mounted there",
                hint=f"unmount it first: umount {os.fsdecode(point)}",
            )


def _open_directory(name: str, parent: int) -> int:
    """Open a directory for reading, giving its owner permission where there is none."""
    try:
        return os.open(name, _OPEN, dir_fd=parent)
    except PermissionError:
        _permit(name, parent)
        return os.open(name, _OPEN, dir_fd=parent)


def _permit(name: str, parent: int) -> None:
    handle = os.open(name, _PATH, dir_fd=parent)
    try:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            # fchmod(2) refuses O_PATH descriptors; their name in /proc cannot be swapped.
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
    finally:
        os.close(handle)


def _delete_directory(disk: Disk, name: str, parent: int, device: int) -> None:
    top = _open_directory(name, parent)
    try:
        os.fchmod(top, 0o700)
        counter = [0]
        again = True
        while again:  # directories that were too deep have been moved up into `top`
            again = _empty(disk, top, top, device, 1, counter)
    finally:
        os.close(top)
    disk.rmdir(name, dir_fd=parent)


def _empty(disk: Disk, fd: int, top: int, device: int, depth: int, counter: list[int]) -> bool:
    """Delete all entries of the directory `fd`; return whether some were moved up to `top`."""
    if os.fstat(fd).st_dev != device:
        raise HostError("not deleting across a mount point", hint="look for mounts in the store")
    moved = False
    with os.scandir(fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, directory in found:
        if not directory:
            _retry(disk.unlink, name, fd)
        elif depth >= _DEPTH:
            counter[0] += 1
            _permit(name, fd)  # a directory that moves has its `..` rewritten
            os.rename(name, f".deep-{counter[0]}-{os.getpid()}", src_dir_fd=fd, dst_dir_fd=top)
            moved = True
        else:
            child = _open_directory(name, fd)
            try:
                _make_writable(child)
                moved |= _empty(disk, child, top, device, depth + 1, counter)
            finally:
                os.close(child)
            _retry(disk.rmdir, name, fd)
    return moved


def _make_writable(fd: int) -> None:
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if mode & 0o700 != 0o700:
        os.fchmod(fd, 0o700)


def _retry(call: object, name: str, fd: int) -> None:
    assert callable(call)
    try:
        call(name, dir_fd=fd)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise
        os.fchmod(fd, 0o700)
        call(name, dir_fd=fd)


def disk_usage(path: str) -> int:
    """Return the bytes the file or tree at `path` takes on disk; each hard link is counted once.

    What vanishes meanwhile counts as nothing.
    """
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return 0
    total = info.st_blocks * 512
    if not stat.S_ISDIR(info.st_mode):
        return total
    seen: set[tuple[int, int]] = set()
    pending = [path]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    total += _entry_usage(entry, seen, pending)
        except (FileNotFoundError, PermissionError):
            continue
    return total


def _entry_usage(entry: os.DirEntry[str], seen: set[tuple[int, int]], pending: list[str]) -> int:
    try:
        info = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return 0
    if stat.S_ISDIR(info.st_mode):
        pending.append(entry.path)
    elif info.st_nlink > 1:
        if (info.st_dev, info.st_ino) in seen:
            return 0
        seen.add((info.st_dev, info.st_ino))
    return info.st_blocks * 512
