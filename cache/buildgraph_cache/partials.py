"""Knows downloads that may be cut and go on later; must not know where the bytes come from."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from buildgraph.errors import StoreCorrupt
from buildgraph_cache.blobs import Publish
from buildgraph_cache.digest import Digest, parse_digest
from buildgraph_cache.disk import Disk, host_error
from buildgraph_cache.layout import Layout
from buildgraph_cache.locks import release, try_flock
from buildgraph_cache.objects import digest_of

_OPEN = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


class Partial:
    """A file below `partial/` that outlives its process, held by one downloader at a time.

    A context manager; leaving it keeps the bytes for the next attempt. Nothing of an earlier
    attempt is believed: `commit` hashes all of it again, where this object did not write it all.
    """

    def __init__(
        self,
        layout: Layout,
        disk: Disk,
        publish: Publish,
        name: str,
        lock: AbstractContextManager[None],
    ) -> None:
        self.path = f"{layout.directory('partial')}/{name}"
        self._layout = layout
        self._disk = disk
        self._publish = publish
        self._lock = lock
        self._fd = -1
        self._hashed = -1  # bytes from the beginning that went through the hashers; -1: not all did

    @property
    def size(self) -> int:
        """How many bytes are there already."""
        return os.fstat(self._fd).st_size

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append bytes; return how many (all). Raises HostError when the disk refuses."""
        view = memoryview(data).cast("B")
        if self._hashed >= 0:
            self._strong.update(view)
            self._quick.update(view)
            self._hashed += len(view)
        try:
            self._disk.before("write")
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise host_error(error, self._layout.root, "storing a download") from error
        return len(data)

    def restart(self) -> None:
        """Drop all bytes: the source cannot go on where it was cut."""
        os.ftruncate(self._fd, 0)
        self._begin_hashing()

    def _begin_hashing(self) -> None:
        import hashlib

        import xxhash

        self._strong = hashlib.sha256()
        self._quick = xxhash.xxh3_128()
        self._hashed = 0

    def _hashes(self) -> tuple[Digest, bytes]:
        if self._hashed == self.size:
            return Digest(f"sha256:{self._strong.hexdigest()}"), self._quick.digest()
        return digest_of(self._fd)

    def commit(self, expected: Digest | None = None) -> Digest:
        """Publish the bytes as a blob and return its digest.

        Raises StoreCorrupt, and drops the bytes, where they are not what was `expected`.
        """
        found, fingerprint = self._hashes()
        if expected is not None and found != parse_digest(expected):
            self._disk.unlink(self.path)
            raise StoreCorrupt(
                f"the bytes of {expected} have the digest {found}",
                hint="they were damaged on the way, or their source is not to be trusted",
            )
        try:
            self._publish(self.path, self._fd, found, fingerprint)
            if os.path.lexists(self.path):  # the blob was there already
                self._disk.unlink(self.path)
        except OSError as error:
            raise host_error(error, self._layout.root, f"storing {found}") from error
        return found

    def __enter__(self) -> Partial:
        self._lock.__enter__()
        try:
            self._fd = os.open(self.path, _OPEN, 0o600)
            try_flock(self._fd)  # tells a collection that the download goes on
            if not self.size:
                self._begin_hashing()
        except OSError as error:
            self._lock.__exit__(None, None, None)
            raise host_error(error, self.path, "storing a download") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        fd, self._fd = self._fd, -1
        release(fd)
        self._lock.__exit__(None, None, None)


def open_partial(
    layout: Layout,
    disk: Disk,
    publish: Publish,
    key: str,
    lock: Callable[[str], AbstractContextManager[None]],
) -> Partial:
    """Return the partial file of a key, which may be any text (A35)."""
    import hashlib

    name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    return Partial(layout, disk, publish, name, lock(f"partial {key}"))
