"""Knows the digests of files that have not changed since they were hashed.

Must not know what a file means, and decides nothing alone: its answer is a sha256 that was computed
once, given out for as long as everything stat(2) says about the file is the same.

A file that is written again within one tick of the kernel's clock keeps its times. So a file whose
status changed later than shortly before this cache was loaded is not remembered: a later change
might be invisible (git calls such entries racily clean). The change time decides, since no program
can set it back.

Only files without extended attributes that count are remembered, so a digest from here says as well
that there are none: setting one changes the change time.
"""

from __future__ import annotations

import os
import struct
import time
from typing import TYPE_CHECKING, Protocol

from buildgraph_cache.digest import Digest

if TYPE_CHECKING:
    from buildgraph.filetree import FileStat

KIND = "statcache"
GRAIN_NS = 20_000_000  # two ticks at the coarsest clock Linux has (CONFIG_HZ=100)
_MAGIC = b"bgstat2\0"
_HEAD = struct.Struct("<8sII")  # magic, number of entries, bytes of names
_STAT = struct.Struct("<QqqQI")  # size, mtime_ns, ctime_ns, inode, mode
_WIDTH = _STAT.size
_IDLE_LIMIT = 32  # saves after which an entry nobody asked for is dropped
_OLDER = bytes(min(age + 1, 255) for age in range(256))


class Records(Protocol):
    """The part of a store that keeps the table."""

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written."""

    def get_record(self, kind: str, key: str, /) -> bytes | None:
        """Return a record's value."""

    def put_record(self, kind: str, key: str, value: bytes, /) -> None:
        """Write a record."""


class StatCache:
    """The table of one root. `get` and `put` may be called from any thread.

    On disk it is one record: a head, all names, then a column each of status, digests and ages.
    """

    def __init__(self, records: Records, root: str, now_ns: int, table: bytes | None) -> None:
        self._records = records
        self._root = root
        self._trusted_before = now_ns - GRAIN_NS
        self._take(table)

    def _take(self, table: bytes | None) -> None:
        self._names: list[str] = []
        self._stats = b""
        self._digests = b""
        self._ages = b""
        if table is not None:
            self._unpack(table)
        self._rows = dict(zip(self._names, range(len(self._names)), strict=True))
        self._seen = bytearray(len(self._names))
        self._fresh: dict[str, tuple[bytes, str] | None] = {}  # None: not to be remembered

    @staticmethod
    def load(records: Records, root: str, now_ns: int | None = None) -> StatCache:
        """Read the table of a root, empty where there is none.

        Load it before looking at any file: what changes after that, or less than 20 ms before, is
        not remembered. `now_ns` is the wall clock, for tests.
        """
        now = time.time_ns() if now_ns is None else now_ns
        return StatCache(records, root, now, records.get_record(KIND, root))

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, path: str, stat: FileStat) -> Digest | None:
        """Return the digest a file with this very status had, or None."""
        row = self._rows.get(path)
        if row is None:
            return None
        if self._stats[row * _WIDTH : (row + 1) * _WIDTH] != _pack(stat):
            return None
        self._seen[row] = 1
        return Digest("sha256:" + self._digests[row * 32 : row * 32 + 32].hex())

    def put(self, path: str, stat: FileStat, digest: Digest) -> None:
        """Remember a digest, unless the file changed too recently for its times to say so.

        `stat` is what was seen before the bytes were read. Not for files with attributes.
        """
        if stat.ctime_ns < self._trusted_before:
            self._fresh[path] = (_pack(stat), digest)
        elif path in self._rows:
            self._fresh[path] = None

    def save(self) -> None:
        """Write the table, if anything was learnt. Entries nobody asks for are dropped in time."""
        if not self._fresh or self._records.read_only:
            return
        fresh = {path: new for path, new in self._fresh.items() if new is not None}
        ages = bytearray(self._ages.translate(_OLDER))
        for row in range(len(ages)):
            if self._seen[row]:
                ages[row] = 0
        replaced = [self._rows[path] for path in self._fresh if path in self._rows]
        for row in replaced:
            ages[row] = 255
        kept = [row for row in range(len(ages)) if ages[row] < _IDLE_LIMIT]
        names, stats, digests = self._kept(kept)
        names += fresh
        stats += b"".join(row for row, _ in fresh.values())
        digests += bytes.fromhex("".join(digest[7:] for _, digest in fresh.values()))
        column = bytes(ages[row] for row in kept) + bytes(len(fresh))
        text = os.fsencode("\0".join(names))
        head = _HEAD.pack(_MAGIC, len(names), len(text))
        table = b"".join((head, text, stats, digests, column))
        self._records.put_record(KIND, self._root, table)
        self._take(table)

    def _kept(self, rows: list[int]) -> tuple[list[str], bytes, bytes]:
        if len(rows) == len(self._names):
            return list(self._names), self._stats, self._digests
        names = [self._names[row] for row in rows]
        stats = b"".join([self._stats[row * _WIDTH : (row + 1) * _WIDTH] for row in rows])
        digests = b"".join([self._digests[row * 32 : row * 32 + 32] for row in rows])
        return names, stats, digests

    def _unpack(self, table: bytes) -> None:
        """Take the columns from a table; one that does not add up counts as empty."""
        if len(table) < _HEAD.size:
            return
        magic, count, length = _HEAD.unpack_from(table)
        start = _HEAD.size + length
        if magic != _MAGIC or len(table) != start + count * (_WIDTH + 32 + 1):
            return
        names = os.fsdecode(table[_HEAD.size : start]).split("\0") if count else []
        if len(names) != count:
            return
        self._names = names
        self._stats = table[start : start + count * _WIDTH]
        start += count * _WIDTH
        self._digests = table[start : start + count * 32]
        self._ages = table[start + count * 32 :]


def _pack(stat: FileStat) -> bytes:
    return _STAT.pack(stat.size, stat.mtime_ns, stat.ctime_ns, stat.ino, stat.mode)
