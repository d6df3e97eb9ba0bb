"""Knows how to ask cheaply whether a directory is still what it was; must not know what was done
with it.

An observation is small: the directories that were read, the names that were left out, and one
fingerprint over the metadata of everything else. Asking again costs one lstat(2) an entry and
opens no file. It says "surely the same as then"; the opposite is only "look again".
"""

from __future__ import annotations

import hashlib
import marshal
import os
from collections.abc import Iterable, Sequence
from typing import Any, Final

from msgspec import Struct

_DIR: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_GRAIN_NS: Final = 20_000_000  # coarsest clock tick that stamps files, with room (CONFIG_HZ=100)

# type and permission bits, size, mtime, ctime, inode, device
Row = tuple[str, int, int, int, int, int, int]


class Directory(Struct, frozen=True):
    """What one directory was: its path below the root, its own row, and its entries, packed.

    Packed, since a build sees hundreds of thousands of entries: they take 70 bytes each.
    """

    path: str
    own: Row
    packed: bytes

    @classmethod
    def of(cls, path: str, own: Row, rows: list[Row]) -> Directory:
        """Pack the rows of a directory, sorted."""
        # Version 2 of marshal has no references, so equal values are equal bytes.
        return cls(path, own, marshal.dumps((path, rows), 2))

    def rows(self) -> list[Row]:
        """Return the entries' rows."""
        rows: list[Row] = marshal.loads(self.packed)[1]
        return rows


Found = Sequence[Directory]  # what an observation is of; the root is the first


class Observation(Struct, frozen=True):
    """What was looked at below `root`. JSON-able by `as_json`."""

    root: str
    directories: tuple[tuple[str, tuple[str, ...]], ...]  # (path, names left out), sorted
    fingerprint: str
    settled: bool  # False: something was so young that it may have changed unseen

    def as_json(self) -> list[Any]:
        """Return the value to store."""
        return [self.root, self.directories, self.fingerprint, self.settled]

    @classmethod
    def from_json(cls, value: Sequence[Any]) -> Observation:
        """Return what `as_json` gave. Raises ValueError, TypeError for anything else."""
        root, directories, fingerprint, settled = value
        pairs = tuple((str(path), tuple(map(str, names))) for path, names in directories)
        return cls(str(root), pairs, str(fingerprint), bool(settled))

    def still_true(self) -> bool:
        """Say whether everything that was looked at is surely as it was."""
        return self.look() is not None

    def look(self) -> Found | None:
        """Return what is there now, if it is surely as it was."""
        if not self.settled:
            return None
        try:
            root = os.open(self.root, _DIR)
        except OSError:
            return None
        try:
            found = [_directory(root, path, hidden) for path, hidden in self.directories]
        except OSError:
            return None
        finally:
            os.close(root)
        return found if fingerprint(found) == self.fingerprint else None


def row_of(name: str, found: os.stat_result) -> Row:
    """Return what stat(2) said as a row."""
    return (
        name,
        found.st_mode,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_ino,
        found.st_dev,
    )


def _directory(root: int, path: str, hidden: Sequence[str]) -> Directory:
    # A directory swapped for a link is followed here, but shows other inodes; nothing is read.
    fd = os.open(path or ".", _DIR, dir_fd=root)
    try:
        own = os.fstat(fd)
        with os.scandir(fd) as entries:
            found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    finally:
        os.close(fd)
    if hidden:
        left_out = set(hidden)
        found = [pair for pair in found if pair[0] not in left_out]
    rows = sorted(row_of(name, stat) for name, stat in found)
    return Directory.of(path, row_of("", own), rows)


def fingerprint(found: Found) -> str:
    """Return the hash over the paths of directories and the rows of their entries."""
    hasher = hashlib.sha256()
    for directory in found:
        hasher.update(directory.packed)
    return hasher.hexdigest()


def settled(times_ns: Iterable[int], now_ns: int) -> bool:
    """Say whether all times are older than the clock's grain, so that a change must show."""
    return max(times_ns, default=0) < now_ns - _GRAIN_NS
