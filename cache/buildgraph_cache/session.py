"""Knows what the parts of one open store share: paths, disk, index, boot, the newest lease.

Must not know what a record or an object is.
"""

from __future__ import annotations

import os
import threading

from msgspec import Struct, field

from buildgraph.errors import HostError
from buildgraph_cache.disk import Disk
from buildgraph_cache.index import Index
from buildgraph_cache.layout import Layout


class Soft(Struct):
    """What this process wrote or relied upon and no syncfs(2) has covered yet."""

    records: dict[tuple[str, str], tuple[int, tuple[str, ...]]] = field(default_factory=dict)
    objects: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.records or self.objects)


class Session:
    """The shared state of one open store."""

    def __init__(self, layout: Layout, disk: Disk, index: Index, boot: str) -> None:
        self.layout = layout
        self.disk = disk
        self.index = index
        self.boot = boot
        self.lock = threading.Lock()
        self.soft = Soft()
        self.pinned: set[str] = set()  # objects known to carry the newest lease's generation
        self._leases: list[int] = []
        self._idle = 0  # what used_seq is outside any lease

    @property
    def read_only(self) -> bool:
        """Whether nothing of the store may be changed."""
        return self.index.read_only

    def writable(self, doing: str) -> None:
        """Raise HostError in a store that was opened for reading only."""
        if self.read_only:
            raise HostError(
                f"{doing}: the store {self.layout.root} is open for reading only",
                hint="choose a writable one with --store DIR",
            )

    @property
    def generation(self) -> int:
        """The generation of the newest lease held here; 0 when none is."""
        return self._leases[-1] if self._leases else 0

    @property
    def stamp(self) -> int:
        """What to write as `used_seq` of something new."""
        if self._leases:
            return self._leases[-1]
        if not self._idle:
            row = self.index.row("SELECT value FROM meta WHERE name='seq'")
            self._idle = int(row[0]) if row else 1
        return self._idle

    def entered(self, generation: int) -> None:
        """Take note of a new lease."""
        with self.lock:
            self._leases = sorted([*self._leases, generation])
            self._idle = 0
            self.pinned = set()

    def left(self, generation: int) -> None:
        """Take note of the end of a lease."""
        with self.lock:
            self._leases = [other for other in self._leases if other != generation]
            self.pinned = set()


def boot_id() -> str:
    """Return what changes with every start of the kernel (random(4)).

    Where it cannot be read, an answer that never comes again: soft records are then misses, which
    is always safe.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return os.urandom(16).hex()
