"""Knows what may be remembered of files that were read: their digests between builds, the bytes of
small ones for a while; must not know how files are read.
"""

from __future__ import annotations

import threading
from typing import Final, Protocol

from buildgraph.filetree import FileStat
from buildgraph_cache.digest import Digest

_ROOM: Final = 16 << 20  # bytes: a project's own sources mostly fit, and memory stays small


class StatCache(Protocol):
    """Remembers the digests of one root's files that have not changed, also between builds.

    Only of files without attributes, so that what it knows need not be asked for them again.
    """

    def get(self, path: str, stat: FileStat) -> Digest | None:
        """Return the digest of the file at a path below the root that had this stat, or None."""

    def put(self, path: str, stat: FileStat, digest: Digest) -> None:
        """Remember a digest; the cache decides whether the stat can be trusted."""


class NoStatCache:
    """A stat cache that forgets."""

    def get(self, path: str, stat: FileStat) -> Digest | None:
        """Return None."""
        return None

    def put(self, path: str, stat: FileStat, digest: Digest) -> None:
        """Do nothing."""


class Room:
    """How many bytes the trees of a build may keep, together."""

    def __init__(self, size: int = _ROOM) -> None:
        self._left = size
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Say whether so many bytes more may be kept, and count them."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give_back(self, size: int) -> None:
        """Count bytes that are no longer kept."""
        with self._lock:
            self._left += size


class Contents:
    """The bytes of small files of one tree, from when they were hashed until they are copied.

    What is copied is then what was hashed, whatever happens to the file, and it is read once.
    """

    def __init__(self, room: Room) -> None:
        self._room = room
        self._bytes: dict[str, bytes] = {}

    def get(self, path: str) -> bytes | None:
        """Return the bytes of a file that were kept."""
        return self._bytes.get(path)

    def put(self, path: str, data: bytes) -> None:
        """Keep the bytes of a file, where there is room."""
        if path not in self._bytes and self._room.take(len(data)):
            self._bytes[path] = data

    def clear(self) -> None:
        """Let go of all of them."""
        self._room.give_back(sum(map(len, self._bytes.values())))
        self._bytes.clear()
