"""Knows how an output appears at its destination whole or not at all; must not know what it is.

Everything is written under a temporary name beside the destination, flushed, and renamed over it.
Bytes are copied by the kernel where it can: as a reflink, else by copy_file_range(2). A file of
the store is never hard-linked to a place where the user could change it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from buildgraph.errors import HostError, InputError
from buildgraph_cache.disk import start_writing

_FICLONE: Final = 0x40049409  # linux/fs.h
_COPY: Final = 1 << 20
_STRIDE: Final = 16 << 20  # bytes that are copied before the disk is set to work on them


def temporary_name(dest: Path) -> Path:
    """Return a new hidden name in the directory of `dest`."""
    return dest.with_name(f".{dest.name[:200]}.buildgraph-{os.urandom(6).hex()}")


@contextmanager
def new_file(dest: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Give a file to write that becomes `dest` when the block ends well, else vanishes.

    Parent directories are made. A destination that exists and is no regular file (a pipe, a
    terminal) is written to directly. Raises InputError for a directory, HostError.
    """
    try:
        if dest.is_dir():
            raise InputError(f"{dest} is a directory; the output is one file")
        if dest.exists() and not dest.is_file():
            with open(dest, "wb") as stream:
                yield stream
            return
        dest = dest.parent.resolve() / dest.name
        dest.parent.mkdir(parents=True, exist_ok=True)
        temp = temporary_name(dest)
        fd = os.open(temp, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with open(fd, "wb") as file:
                yield file
                file.flush()
                os.fsync(fd)
            os.replace(temp, dest)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        sync_directory(dest.parent)
    except OSError as error:
        raise output_error(dest, error) from error


@contextmanager
def new_directory(dest: Path) -> Iterator[Path]:
    """Give a directory that becomes `dest`, which must be absent or empty, when all went well."""
    dest = dest.parent.resolve() / dest.name
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        temp = temporary_name(dest)
        temp.mkdir(mode=0o777)
        try:
            yield temp
            os.rename(temp, dest)
        except BaseException:
            remove_tree(temp)
            raise
        sync_directory(dest.parent)
    except OSError as error:
        raise output_error(dest, error) from error


def remove_tree(path: Path) -> None:
    """Delete a directory of ours, also where its modes say no."""

    def retry(function: object, name: str, _: object) -> None:
        os.chmod(os.path.dirname(name), 0o700)
        if os.path.isdir(name) and not os.path.islink(name):
            os.chmod(name, 0o700)
            shutil.rmtree(name)
        else:
            os.unlink(name)

    shutil.rmtree(path, onerror=retry)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def output_error(dest: Path, error: OSError) -> HostError:
    """Return what a refusal of the disk means for this output."""
    hint = None
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "choose a destination you may write to"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "the disk is full"
    return HostError(f"cannot write {dest}: {error.strerror or error}", hint=hint)


def copy_bytes(source: int, target: int, size: int) -> None:
    """Append `size` bytes of the file `source`, from its start, to `target`.

    Raises HostError where the source has fewer.
    """
    offset = 0
    if size and _clone(source, target, size):
        return
    while offset < size:
        try:
            done = os.copy_file_range(source, target, min(size - offset, _STRIDE), offset)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            break
        if not done:
            break
        offset += done
        start_writing(target, os.lseek(target, 0, os.SEEK_CUR) - done, done)
    while offset < size:
        data = os.pread(source, min(size - offset, _COPY), offset)
        if not data:
            raise HostError(f"a stored blob has {offset} bytes instead of {size}")
        offset += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]


def _clone(source: int, target: int, size: int) -> bool:
    """Share the blocks of a whole file with an empty one; False where that cannot be."""
    try:
        if os.fstat(source).st_size != size or os.fstat(target).st_size:
            return False
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    os.lseek(target, size, os.SEEK_SET)
    return True
