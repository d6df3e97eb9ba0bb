"""Knows what this rule needs of a store and how a blob gets there from an archive; must not know
how the store keeps it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from buildgraph.errors import HostError, StoreCorrupt
from buildgraph.transport.failures import NotFound
from buildgraph_cache.digest import Digest
from buildgraph_rules.debian.mirrors import Mirrors
from buildgraph_rules.debian.sources import without_login

Progress = Callable[[str, int, int], None]  # (what, done, total) in bytes; total 0 = unknown


class PartialBlob(Protocol):
    """A download that can go on where it was cut; `buildgraph_cache.partials.Partial`."""

    @property
    def size(self) -> int:
        """How many bytes are there already."""

    def write(self, data: bytes, /) -> int:
        """Append bytes."""

    def restart(self) -> None:
        """Drop all bytes."""

    def commit(self, expected: Digest | None = None) -> Digest:
        """Publish; raises StoreCorrupt, and drops the bytes, where they are not `expected`."""


class BlobStore(Protocol):
    """The part of a store that this rule uses; `buildgraph_cache.store.Store`."""

    def has_blob(self, digest: Digest) -> bool:
        """Say whether the blob is there."""

    def blob_path(self, digest: Digest) -> str:
        """Return where its bytes are, for reading."""

    def partial(self, key: str) -> AbstractContextManager[PartialBlob]:
        """Return the resumable download of a key, held by one at a time."""

    def get_record(self, kind: str, key: str) -> bytes | None:
        """Return a record, or None."""

    def put_record(self, kind: str, key: str, value: bytes, refs: Iterable[str] = ()) -> None:
        """Keep a record; `refs` name what it needs (`objects.blob_ref`)."""


def fetch_blob(
    store: BlobStore,
    mirrors: Mirrors,
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
    source = without_login(uris[0])
    for last in (False, True):  # a wrong start, from an older try, deserves one clean attempt
        if store.has_blob(digest):
            break
        try:
            with store.partial(str(digest)) as partial:
                if not store.has_blob(digest):
                    source = _download(mirrors, partial, uris, size, grew)
                    partial.commit(digest)
        except StoreCorrupt as error:
            if last:
                raise HostError(
                    f"{source}: {error.message}",
                    hint="the mirror or a proxy serves damaged or changed files",
                ) from error
    grew(size)
    return store.blob_path(digest)


def _download(
    mirrors: Mirrors,
    partial: PartialBlob,
    uris: Sequence[str],
    size: int,
    grew: Callable[[int], None],
) -> str:
    """Bring the whole file into `partial` and return where it came from, to be shown."""
    for uri in uris[:-1]:
        try:
            return _transfer(mirrors, partial, uri, size, grew)
        except NotFound:
            continue
    return _transfer(mirrors, partial, uris[-1], size, grew)


def _transfer(
    mirrors: Mirrors, partial: PartialBlob, uri: str, size: int, grew: Callable[[int], None]
) -> str:
    if partial.size > size:
        partial.restart()
    if partial.size < size:
        mirrors.download(uri, partial, size, grew)
    return without_login(uri)
