"""Knows how an image's files leave without the image: a tar, a directory; must not know layers.

Times, owners and modes are those of the view. A directory is written as ordinary files of the
user who asks: without owners, setuid bits and device nodes, which are reported as skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from msgspec.structs import replace

from buildgraph.errors import HostError, InputError
from buildgraph.filetree import Entry, FileStat, FromTree, Kind
from buildgraph.oci.publish import new_directory, new_file, output_error, remove_tree
from buildgraph.oci.rootview import RootView
from buildgraph.oci.tarstream import NO_EPOCH, HeaderWriter, canonical, read_content, tar_chunks
from buildgraph.oci.unpack import write_all

_OURS: Final = "user.buildgraph.export"


def flatten(view: RootView, top: str = "") -> Iterator[Entry]:
    """Yield every entry of the view below a directory, hard links of one layer told.

    Unpacks layers that are blobs only: their bytes are needed anyway.
    """
    view.unpack()
    first: dict[tuple[int, int], str] = {}
    todo = [top]
    while todo:
        parent = todo.pop()
        prefix = f"{parent}/" if parent else ""
        for name, stat in view.list(parent):
            path = prefix + name
            if stat.kind is Kind.DIR:
                todo.append(path)
            yield _entry(view, path, stat, first)


def _entry(view: RootView, path: str, stat: FileStat, first: dict[tuple[int, int], str]) -> Entry:
    mtime = stat.mtime_ns // 1_000_000_000
    if stat.nlink > 1 and stat.kind is not Kind.DIR and stat.ino:
        holder = first.setdefault((stat.dev, stat.ino), path)
        if holder != path:
            return Entry(path, Kind.HARDLINK, stat.mode, stat.uid, stat.gid, 0, mtime, holder)
    content = None
    if stat.kind is Kind.FILE and stat.size:
        content = FromTree(view, path, stat)
    return Entry(
        path,
        stat.kind,
        stat.mode,
        stat.uid,
        stat.gid,
        stat.size if stat.kind is Kind.FILE else 0,
        mtime,
        stat.target,
        view.xattrs(path) if stat.kind in (Kind.FILE, Kind.DIR) else (),
        stat.rdev,
        content,
    )


def export_tar(view: RootView, dest: Path | BinaryIO) -> None:
    """Write the root file system as one uncompressed tar; atomic where `dest` is a path.

    The same layers give the same bytes. Raises HostError.
    """
    _write_tar(flatten(view), dest)


def export_split_tar(
    parts: Sequence[tuple[str, RootView]], dest: Path | BinaryIO, epoch: int
) -> None:
    """Write several root file systems as one tar, each below a directory of its name.

    `epoch` is the time of those directories, in seconds.
    """
    _write_tar((entry for name, view in parts for entry in _below(name, view, epoch)), dest)


def _below(name: str, view: RootView, epoch: int) -> Iterator[Entry]:
    yield Entry(name, Kind.DIR, 0o755, 0, 0, 0, epoch)
    for entry in flatten(view):
        link = f"{name}/{entry.link}" if entry.kind is Kind.HARDLINK else entry.link
        yield replace(entry, path=f"{name}/{entry.path}", link=link)


def _write_tar(entries: Iterable[Entry], dest: Path | BinaryIO) -> None:
    chunks = tar_chunks(canonical(entries), HeaderWriter(NO_EPOCH))
    if isinstance(dest, Path):
        with new_file(dest) as file:
            for chunk in chunks:
                file.write(chunk)
    else:
        for chunk in chunks:
            dest.write(chunk)


def export_directory(view: RootView, dest: Path) -> list[str]:
    """Write the root file system as a directory; return what could not be kept.

    The directory appears whole, by a rename. One that an earlier export has made is replaced;
    any other that is not empty is refused with InputError. Symbolic links are written as they
    are, and nothing is ever written through one.
    """
    return _write_directory([("", view)], dest)


def export_split_directory(parts: Sequence[tuple[str, RootView]], dest: Path) -> list[str]:
    """Write several root file systems, each in a directory of its name below `dest`.

    As `export_directory`: they appear at once, and all of `dest` is replaced.
    """
    return _write_directory(parts, dest)


def _write_directory(parts: Sequence[tuple[str, RootView]], dest: Path) -> list[str]:
    dest = dest.parent.resolve() / dest.name
    old = _replaceable(dest)
    skipped: list[str] = []
    with new_directory(dest) as made:
        _mark(made)
        for name, view in parts:
            if name:
                (made / name).mkdir(0o755)
            _write_files(view, made / name, skipped)
        aside = made.with_name(made.name + ".old")
        if old:
            os.rename(dest, aside)
    if old:
        remove_tree(aside)
    return skipped


def _replaceable(dest: Path) -> bool:
    """Return whether there is something to replace. Raises InputError where it is not ours."""
    try:
        if dest.is_symlink() or not dest.is_dir():
            if dest.is_symlink() or dest.exists():
                raise InputError(f"{dest} is no directory", hint="choose another destination")
            return False
        with os.scandir(dest) as found:
            if next(found, None) is None:
                return False
        os.getxattr(dest, _OURS)
    except InputError:
        raise
    except OSError as error:
        if not dest.is_dir():
            raise output_error(dest, error) from error
        raise InputError(
            f"{dest} is not empty and was not made by an export",
            hint="choose another destination, or delete it",
        ) from error
    return True


def _mark(directory: Path) -> None:
    try:
        os.setxattr(directory, _OURS, b"1")
    except OSError:
        return  # this file system has no attributes: the next export asks for another place


def _write_files(view: RootView, made: Path, skipped: list[str]) -> None:
    root = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    modes: list[tuple[str, int, int]] = []
    try:
        for entry in canonical(flatten(view)):
            mtime = entry.mtime or 0
            if entry.kind is Kind.DIR:
                os.mkdir(entry.path, 0o700, dir_fd=root)
                modes.append((entry.path, entry.mode & 0o777, mtime))
            elif entry.kind is Kind.FILE:
                _write_file(root, entry, mtime)
            elif entry.kind is Kind.HARDLINK:
                os.link(
                    entry.link,
                    entry.path,
                    src_dir_fd=root,
                    dst_dir_fd=root,
                    follow_symlinks=False,
                )
            elif entry.kind is Kind.SYMLINK:
                os.symlink(entry.link, entry.path, dir_fd=root)
                os.utime(entry.path, (mtime, mtime), dir_fd=root, follow_symlinks=False)
            else:
                skipped.append(entry.path)
        for path, mode, mtime in reversed(modes):
            os.utime(path, (mtime, mtime), dir_fd=root, follow_symlinks=False)
            os.chmod(path, mode, dir_fd=root)  # a directory we have made: no link
    except OSError as error:
        raise HostError(f"cannot write {made.parent}: {error}") from error
    finally:
        os.close(root)


def _write_file(root: int, entry: Entry, mtime: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(entry.path, flags, 0o600, dir_fd=root)
    try:
        for data in read_content(entry):
            write_all(fd, data)
        os.fchmod(fd, entry.mode & 0o777)
        os.utime(fd, (mtime, mtime))
    finally:
        os.close(fd)
