"""Knows what this rule needs of a store and how a blob gets there from an archive; must not know
how the store keeps it."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol

from buildgraph.errors import HostError
from buildgraph_cache.digest import Digest, hex_of
from buildgraph_rules.debian.sources import without_login
from buildgraph_rules.debian.transport import NotFound, Response, Transport, append_to

Progress = Callable[[str, int, int], None]  # (what, done, total) in bytes; total 0 = unknown
_CHUNK = 1024 * 1024


class BlobWriter(Protocol):
    """A blob on its way into the store."""

    def write(self, data: bytes, /) -> object:
        """Take bytes."""

    def commit(self, expected: Digest | None = None) -> Digest:
        """Publish; raises where the bytes are not `expected`."""


class BlobStore(Protocol):
    """The part of a store that this rule uses."""

    def has_blob(self, digest: Digest) -> bool:
        """Say whether the blob is there."""

    def blob_path(self, digest: Digest) -> str:
        """Return where its bytes are, for reading."""

    def blob_writer(self) -> AbstractContextManager[BlobWriter]:
        """Begin a blob; leaving the context without commit drops it."""

    def get_record(self, kind: str, key: str) -> bytes | None:
        """Return a record, or None."""

    def put_record(self, kind: str, key: str, value: bytes, refs: Iterable[str] = ()) -> object:
        """Keep a record; `refs` name what it needs (`objects.blob_ref`)."""

    def partial_path(self, name: str) -> Path:
        """Return a path for an unfinished download that outlives this process."""


def fetch_blob(
    store: BlobStore,
    transport: Transport,
    uris: Sequence[str],
    digest: Digest,
    size: int,
    grew: Callable[[int], None] = lambda _: None,
) -> str:
    """Return the path of a blob, fetched from the first of `uris` that has it.

    Idempotent; resumes what another call left half done, and waits for one that is at it now.
    `grew` is told how many bytes have come. Bytes are in the store only once their digest is
    right. Raises NotFound where no URI has it, HostError otherwise.
    """
    if store.has_blob(digest):
        grew(size)
        return store.blob_path(digest)
    partial = store.partial_path(f"debian-{hex_of(digest)}")
    with open(partial, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not store.has_blob(digest):
            _download(transport, file, uris, digest, size, grew)
            _publish(store, file, digest)
        partial.unlink(missing_ok=True)
    grew(size)
    return store.blob_path(digest)


def _download(
    transport: Transport,
    file: IO[bytes],
    uris: Sequence[str],
    digest: Digest,
    size: int,
    grew: Callable[[int], None],
) -> None:
    missing: NotFound | None = None
    problem = "nothing to fetch from"
    for uri in uris:
        for _ in range(2):  # a wrong start, from an older try, deserves one clean attempt
            try:
                _transfer(transport, file, uri, size, grew)
            except NotFound as error:
                missing = error
                break
            found = _digest(file)
            if found == digest:
                return
            file.truncate(0)
            problem = f"{without_login(uri)} has digest {found}, expected {digest}"
        else:
            raise HostError(problem, hint="the mirror or a proxy serves damaged or changed files")
    raise missing or HostError(problem)


def _transfer(
    transport: Transport, file: IO[bytes], uri: str, size: int, grew: Callable[[int], None]
) -> None:
    def have() -> int:
        length = os.fstat(file.fileno()).st_size
        return length if length < size else 0

    def consume(response: Response) -> None:
        append_to(file, Response(_counted(response, grew), response.offset), size, uri)

    if os.fstat(file.fileno()).st_size != size:
        transport.transfer(uri, have, consume)


def _counted(response: Response, grew: Callable[[int], None]) -> Iterator[bytes]:
    length = response.offset
    for chunk in response.chunks:
        length += len(chunk)
        grew(length)
        yield chunk


def _digest(file: IO[bytes]) -> Digest:
    file.seek(0)
    return Digest("sha256:" + hashlib.file_digest(file, "sha256").hexdigest())  # type: ignore[arg-type]


def _publish(store: BlobStore, file: IO[bytes], digest: Digest) -> None:
    file.seek(0)
    with store.blob_writer() as writer:
        while chunk := file.read(_CHUNK):
            writer.write(chunk)
        writer.commit(digest)
