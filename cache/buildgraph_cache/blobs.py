"""Knows how bytes become a blob that is whole or absent; must not know what they mean."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from buildgraph.closing import Closing
from buildgraph.errors import StoreCorrupt
from buildgraph_cache.digest import Digest, parse_digest
from buildgraph_cache.disk import Disk, full_error, host_error, size_text, start_writing
from buildgraph_cache.layout import Layout
from buildgraph_cache.locks import release, same_file, try_flock
from buildgraph_cache.objects import digest_of, fingerprint_of

_BUFFER = 1 << 20
_AHEAD = 8 << 20  # bytes that are written before the disk is set to work on them
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW

# temporary path, its descriptor, digest, fingerprint
Publish = Callable[[str, int, Digest, bytes], None]


class _Hasher(Protocol):
    """What the objects of hashlib and xxhash have in common."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...

    def digest(self) -> bytes: ...


class BlobWriter(Closing):
    """A blob being written. Leaving the context without `commit` drops it.

    Bytes are hashed as they pass through `write`, but for the sha256 when `hashed` promises that
    the caller makes it and will hand it to `commit`. Bytes written through `fileno` are hashed at
    `commit`, by reading them once more.
    """

    def __init__(
        self,
        layout: Layout,
        disk: Disk,
        publish: Publish,
        expected_size: int | None = None,
        hashed: bool = False,
    ) -> None:
        import xxhash

        self.size = 0
        self._layout = layout
        self._disk = disk
        self._publish = publish
        self._expected_size = expected_size
        self._buffer = bytearray()
        self._direct = False
        self._written = 0
        self._started = 0  # up to here the disk is at work
        self._quick: _Hasher = xxhash.xxh3_128()
        self._strong: _Hasher | None = None
        if not hashed:
            import hashlib

            self._strong = hashlib.sha256()
        _refuse_too_large(layout, expected_size or 0)
        try:
            self._path, self._fd = _make(layout)
        except OSError as error:
            raise host_error(error, layout.root, "storing a blob") from error

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append bytes; return how many (all). Raises HostError when the disk refuses."""
        self._quick.update(data)
        if self._strong is not None:
            self._strong.update(data)
        count = len(data)
        self.size += count
        if count >= _BUFFER // 4:
            self._flush()
            self._write_out(data)
        else:
            self._buffer += data
            if len(self._buffer) >= _BUFFER:
                self._flush()
        return count

    def fileno(self) -> int:
        """Return the descriptor to write through directly, at its present offset."""
        self._flush()
        self._direct = True
        return self._fd

    def commit(self, expected: Digest | None = None, digest: Digest | None = None) -> Digest:
        """Publish the bytes and return their digest; idempotent for the store.

        `expected` is what somebody promised the bytes to be; `digest` is what the caller itself
        hashed while writing. Afterwards "the blob is in the store" holds, which may be thanks to
        another writer. Raises StoreCorrupt, and keeps nothing, where the two differ or the size
        is not the one expected; HostError when the disk refuses.
        """
        self._flush()
        found, fingerprint = self._hashes(digest)
        if expected is not None and found != parse_digest(expected):
            self.close()
            raise StoreCorrupt(
                f"the bytes of {expected} have the digest {found} ({size_text(self.size)})",
                hint="they were damaged on the way, or their source is not to be trusted",
            )
        if self._expected_size is not None and self.size != self._expected_size:
            self.close()
            raise StoreCorrupt(f"{found} has {self.size} bytes instead of {self._expected_size}")
        try:
            self._publish(self._path, self._fd, found, fingerprint)
        except OSError as error:
            raise host_error(error, self._layout.root, f"storing {found}") from error
        finally:
            self.close()
        return found

    def close(self) -> None:
        """Drop what was not committed; idempotent."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            self._disk.unlink(self._path)
        except OSError:
            pass  # published meanwhile, or the next sweep takes it
        finally:
            release(fd)

    def _hashes(self, digest: Digest | None) -> tuple[Digest, bytes]:
        if self._direct:
            self.size = os.fstat(self._fd).st_size
            if digest is None:
                return digest_of(self._fd)
            return parse_digest(digest), fingerprint_of(self._fd)
        if digest is not None:
            return parse_digest(digest), self._quick.digest()
        if self._strong is None:
            return digest_of(self._fd)
        return Digest(f"sha256:{self._strong.digest().hex()}"), self._quick.digest()

    def _flush(self) -> None:
        if self._buffer:
            self._write_out(self._buffer)
            self._buffer = bytearray()

    def _write_out(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data).cast("B")
        count = len(view)
        try:
            self._disk.before("write")
            while view:
                view = view[os.write(self._fd, view) :]
            self._written += count
            if self._written - self._started >= _AHEAD:
                start_writing(self._fd, self._started, _AHEAD)
                self._started += _AHEAD
        except OSError as error:
            needed = (self._expected_size or self.size) - os.fstat(self._fd).st_size
            self.close()
            raise host_error(
                error, self._layout.root, f"storing a blob ({size_text(needed)} to go)"
            ) from error


def _refuse_too_large(layout: Layout, size: int) -> None:
    """Say that a file system is too full before, not after, a gigabyte was fetched."""
    if size < _BUFFER:
        return
    info = os.statvfs(layout.root)
    if info.f_bavail * info.f_frsize < size:
        raise full_error(layout.root, "storing a blob", needed=size)


def _make(layout: Layout) -> tuple[str, int]:
    while True:
        path = f"{layout.directory('tmp')}/{os.urandom(8).hex()}"
        fd = os.open(path, _CREATE, 0o600)
        if try_flock(fd) and same_file(fd, path):
            return path, fd
        os.close(fd)  # a sweep took it for an orphan between the two calls
