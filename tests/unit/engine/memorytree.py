"""A file tree in memory, for tests that need no disk."""

from __future__ import annotations

import os
import tempfile

from msgspec.structs import replace

from buildgraph.filetree import FileStat, Kind, name_order
from buildgraph_cache.digest import Digest, sha256_digest


class MemoryTree:
    """Entries are added by `file`, `dir`, `link`, `node`; parents come by themselves."""

    def __init__(self, *, shuffled: bool = False) -> None:
        self.stats: dict[str, FileStat] = {"": FileStat(Kind.DIR, 0o755)}
        self.bytes: dict[str, bytes] = {}
        self.attributes: dict[str, tuple[tuple[str, bytes], ...]] = {}
        self.listed: list[str] = []
        self._shuffled = shuffled

    def _add(self, path: str, stat: FileStat) -> MemoryTree:
        parent = path.rpartition("/")[0]
        if parent not in self.stats:
            self.dir(parent)
        self.stats[path] = stat
        return self

    def dir(self, path: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> MemoryTree:
        return self._add(path, FileStat(Kind.DIR, mode, uid, gid))

    def file(
        self,
        path: str,
        data: bytes = b"",
        mode: int = 0o644,
        uid: int = 0,
        gid: int = 0,
        mtime: int = 0,
    ) -> MemoryTree:
        self.bytes[path] = data
        stat = FileStat(Kind.FILE, mode, uid, gid, len(data), mtime * 1_000_000_000)
        return self._add(path, replace(stat, ino=len(self.stats) + 1, dev=1))

    def hardlink(self, path: str, to: str) -> MemoryTree:
        self.stats[to] = stat = replace(self.stats[to], nlink=2)
        self.bytes[path] = self.bytes[to]
        return self._add(path, stat)

    def link(self, path: str, target: str) -> MemoryTree:
        return self._add(path, FileStat(Kind.SYMLINK, 0o777, target=target))

    def node(self, path: str, kind: Kind, rdev: int = 0) -> MemoryTree:
        return self._add(path, FileStat(kind, 0o644, rdev=rdev))

    def stat(self, path: str) -> FileStat | None:
        return self.stats.get(path)

    def list(self, path: str) -> list[tuple[str, FileStat]]:
        if self.stats[path].kind is not Kind.DIR:
            raise NotADirectoryError(path)
        self.listed.append(path)
        prefix = path + "/" if path else ""
        names = [
            name[len(prefix) :]
            for name in self.stats
            if name and name.startswith(prefix) and "/" not in name[len(prefix) :]
        ]
        names.sort(key=name_order, reverse=self._shuffled)
        return [(name, self.stats[prefix + name]) for name in names]

    def open(self, path: str) -> int:
        with tempfile.TemporaryFile() as file:
            file.write(self.bytes[path])
            file.flush()
            file.seek(0)
            return os.dup(file.fileno())

    def xattrs(self, path: str) -> tuple[tuple[str, bytes], ...]:
        return self.attributes.get(path, ())

    def digest(self, path: str, stat: FileStat) -> Digest:
        return sha256_digest(self.bytes[path])
