"""Knows how objects, records and leases make one store; must not know what is built with it.

README.md is the specification of everything on disk; its section "Leases and collection" tells the
protocol between builds and collections in prose.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from buildgraph.closing import Closing
from buildgraph.errors import StoreCorrupt
from buildgraph_cache.blobs import BlobWriter
from buildgraph_cache.digest import Digest, sha256_digest
from buildgraph_cache.disk import Disk, host_error
from buildgraph_cache.index import Index
from buildgraph_cache.layout import Layout, is_full, prepare, release_reserve
from buildgraph_cache.leases import Lease, new_lease
from buildgraph_cache.locks import named_lock
from buildgraph_cache.objects import blob_ref, key_bytes, snapshot_ref
from buildgraph_cache.records import Record, Records
from buildgraph_cache.scratch import Scratch, sweep
from buildgraph_cache.session import Session, boot_id
from buildgraph_cache.shelf import Shelf
from buildgraph_cache.writeback import WriteBack

if TYPE_CHECKING:
    from buildgraph_cache.check import Damage, Progress, SnapshotDigest
    from buildgraph_cache.collect import GcReport
    from buildgraph_cache.mount_care import CacheMount, Pruned
    from buildgraph_cache.mounts import Sharing
    from buildgraph_cache.partials import Partial
    from buildgraph_cache.plan import RecordRow
    from buildgraph_cache.usage import DuReport

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


class Store(Closing):
    """An open store. Methods may be called from any thread, but not across fork(2).

    What is used outside a lease may be collected at any time, also by another process.
    """

    def __init__(self, session: Session, root_fd: int) -> None:
        self._session = session
        self._root_fd = root_fd
        self._records = Records(session)
        self._shelf = Shelf(session)
        self._write_back = WriteBack(session.layout.root)

    @staticmethod
    def open(
        root: str,
        read_only: bool = False,
        fall_back: bool = True,
        reclaiming: bool = False,
        disk: Disk | None = None,
    ) -> Store:
        """Open the store in the directory `root`, making it where there is none.

        On a read-only file system the store is opened for reading only, unless `fall_back` is
        off; `read_only` then says so. `reclaiming`, for a collection, gives the reserve back
        first where the disk is full, since not even the index can be opened without any space.
        Raises HostError for a directory that cannot or must not
        be used, StoreCorrupt for one that is beyond repair. The caller closes it.
        """
        disk = disk or Disk()
        root = os.path.abspath(root)
        if not read_only and fall_back and _is_read_only(root):
            read_only = True
        layout = prepare(root, disk, read_only)
        if reclaiming and is_full(root):
            release_reserve(layout)
        try:
            # Opened before the first write, so that syncfs(2) reports errors of all of them.
            root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise host_error(error, root, "opening the store") from error
        try:
            index = Index(layout, disk, read_only)
        except BaseException:
            os.close(root_fd)
            raise
        return Store(Session(layout, disk, index, boot_id()), root_fd)

    def close(self) -> None:
        """Close the store; idempotent. Does not make anything durable: see `sync`."""
        if self._root_fd >= 0:
            fd, self._root_fd = self._root_fd, -1
            os.close(fd)
            self._session.index.close()

    @property
    def root(self) -> str:
        """The absolute path of the store."""
        return self._session.layout.root

    @property
    def layout(self) -> Layout:
        """The paths inside the store."""
        return self._session.layout

    @property
    def read_only(self) -> bool:
        """Whether the store can only be read: hits work, everything that writes raises."""
        return self._session.read_only

    @property
    def index_was_rebuilt(self) -> bool:
        """Whether a lost or damaged index was replaced since the store was opened."""
        return self._session.index.rebuilt

    # Leases and locks

    def lease(self) -> Lease:
        """Take a lease: whatever is looked up or published under it stays until it ends.

        A context manager. Take it before the first lookup.
        """
        return new_lease(self._session)

    def key_lock(
        self,
        key: str,
        on_wait: Callable[[str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> AbstractContextManager[None]:
        """Hold the lock of a key against other threads and processes, waiting for it.

        After five seconds `on_wait` is told who holds it. `cancelled` is asked while waiting;
        InterruptedError is raised when it says yes. A dead holder frees the lock at once.
        """
        import hashlib

        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        return named_lock(f"{self.layout.directory('locks')}/keys/{name}", on_wait, cancelled)

    # Records

    def get_record(self, kind: str, key: str) -> bytes | None:
        """Return a record's value, or None: absent, not to be believed, or leading nowhere.

        Under a lease the record, and all it refers to, stays until the lease ends.
        """
        return self._records.get(kind, key)

    def get_records(self, kind: str, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the values of those keys for which `get_record` would return one."""
        return self._records.get_many(kind, keys)

    def put_record(
        self,
        kind: str,
        key: str,
        value: bytes,
        refs: Iterable[str] = (),
        seconds: float = 0.0,
    ) -> None:
        """Write a record, replacing the old one. Atomic; durable only after `sync`.

        `refs` are what has to exist for the value to be worth anything (`objects.blob_ref`,
        `snapshot_ref`, `record_ref`): they stay as long as the record, and the record goes when
        one of them goes. `seconds` is what the work took, for planning.
        """
        self._records.put(kind, key, value, refs, seconds)

    def put_records(self, kind: str, items: Iterable[tuple[str, bytes, Iterable[str]]]) -> None:
        """Write many records (key, value, refs) of one kind in one transaction."""
        self._records.put_many(kind, items)

    def delete_record(self, kind: str, key: str) -> bool:
        """Delete a record; return whether it was there."""
        return self._records.delete(kind, key)

    def record(self, kind: str, key: str) -> Record | None:
        """Return a record with its times, for looking at: neither pinned nor checked."""
        return self._records.one(kind, key)

    def records(self, kind: str | None = None) -> Iterator[Record]:
        """Yield the records of a kind, or all, for looking at: neither pinned nor checked."""
        return self._records.all(kind)

    # Blobs

    def has_blob(self, digest: Digest) -> bool:
        """Return whether a blob is there and trusted; pinned under a lease."""
        return self._shelf.use(blob_ref(digest))

    def blob_path(self, digest: Digest) -> str:
        """Return the path of a blob, pinned under a lease; FileNotFoundError where it is absent."""
        name = blob_ref(digest)
        if not self._shelf.use(name):
            raise FileNotFoundError(f"the store has no {name}")
        return self._shelf.path(name)

    def blob_size(self, digest: Digest) -> int:
        """Return the length of a blob in bytes; FileNotFoundError where it is absent."""
        return os.stat(self.blob_path(digest)).st_size

    def open_blob(self, digest: Digest) -> int:
        """Return a descriptor for reading a blob; the caller closes it."""
        return os.open(self.blob_path(digest), _READ)

    def open_verified(self, digest: Digest) -> int:
        """Return a descriptor for reading a blob whose bytes were just checked.

        For bytes that leave the store. A damaged blob is quarantined with the records that lead
        to it, and StoreCorrupt is raised. The caller closes the descriptor.
        """
        fd = self.open_blob(digest)
        if self._shelf.intact(blob_ref(digest), fd):
            return fd
        os.close(fd)
        if not self.read_only:
            self._shelf.quarantine([blob_ref(digest)])
        raise StoreCorrupt(
            f"the blob {digest} in {self.root} is damaged; it has been set aside",
            hint="run the command again: what depended on it will be made anew",
        )

    def verify_blob(self, digest: Digest) -> None:
        """Check a blob as `open_verified` does."""
        os.close(self.open_verified(digest))

    def blob_writer(self, expected_size: int | None = None, hashed: bool = False) -> BlobWriter:
        """Return a writer, a context manager, whose `commit` publishes what was written.

        `hashed` promises that the caller hashes the bytes itself and hands the digest to
        `commit`, which saves the work here.
        """
        self._session.writable("storing a blob")
        session = self._session
        return BlobWriter(
            session.layout, session.disk, self._shelf.publish_blob, expected_size, hashed
        )

    def put_blob(self, data: bytes) -> Digest:
        """Store bytes and return their digest; idempotent."""
        self._session.writable("storing a blob")
        digest = sha256_digest(data)
        if self._shelf.has(blob_ref(digest), len(data)):
            return digest  # many a build makes the same small documents again
        with self.blob_writer() as writer:
            writer.write(data)
            return writer.commit()

    def remove_blob(self, digest: Digest) -> None:
        """Delete a blob and every record that leads to it; idempotent."""
        self._shelf.remove(blob_ref(digest))

    def partial(
        self,
        key: str,
        on_wait: Callable[[str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Partial:
        """Return the resumable download of a key, a context manager held by one at a time.

        The key must name bytes that cannot change: a digest, or an address with its ETag.
        """
        from buildgraph_cache.partials import open_partial

        self._session.writable("storing a download")
        session = self._session
        return open_partial(
            session.layout,
            session.disk,
            self._shelf.publish_blob,
            key,
            lambda name: self.key_lock(name, on_wait, cancelled),
        )

    def cache_mount(
        self,
        identity: str,
        sharing: Sharing = "shared",
        about: Mapping[str, str] | None = None,
        prepare: Callable[[str], None] | None = None,
        on_wait: Callable[[str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> AbstractContextManager[str]:
        """Yield a directory that is kept between builds and belongs to no layer.

        With `private` nobody else uses it meanwhile: who comes second gets another one. With
        `locked` who comes second waits, as for `key_lock`. A new one is handed to `prepare`, empty.
        `about` is what people are told of it.
        """
        from buildgraph_cache.mounts import hold_mount

        self._session.writable("preparing a cache mount")
        more = (about or {}, prepare, on_wait, cancelled)
        return hold_mount(self._session, identity, sharing, *more)

    def cache_mounts(self) -> list[CacheMount]:
        """Return every cache mount with its size, the least recently used first."""
        from buildgraph_cache.mount_care import list_mounts

        return list_mounts(self._session)

    def cache_mount_alone(self, name: str) -> AbstractContextManager[str | None]:
        """Yield the directory that holds a mount's `data`, ours alone; None where it is in use."""
        from buildgraph_cache.mount_care import alone

        return alone(self._session, name)

    def adopt_cache_mounts(self, directory: str, names: Iterable[str]) -> list[str]:
        """Put whole mounts out of a scratch in the place of the old; see `adopt_mounts`."""
        from buildgraph_cache.mount_care import adopt_mounts

        return adopt_mounts(self._session, directory, names)

    def prune_cache_mounts(
        self,
        wanted: Callable[[CacheMount], bool],
        max_bytes: int | None = None,
        max_age: float | None = None,
    ) -> Pruned:
        """Remove cache mounts; see `prune_mounts`."""
        from buildgraph_cache.mount_care import prune_mounts

        return prune_mounts(self._session, wanted, max_bytes, max_age)

    # Snapshots

    def new_scratch(self) -> Scratch:
        """Return a private directory on the store's file system; a context manager."""
        self._session.writable("making a scratch directory")
        return Scratch(self._session.layout, self._session.disk)

    def publish_snapshot(
        self, name: str, directory: str, size: int | None = None, unwritten: int = 0
    ) -> str:
        """Move a directory of a scratch into the store as snapshot `name`; return its path.

        Atomic and idempotent: a snapshot that is there already stays, and `directory` is deleted.
        `size` is what it takes on disk where that is known, else it is measured when needed;
        `unwritten` is about how much of it the disk may still have to write.
        """
        self._session.writable("publishing a snapshot")
        path = self._shelf.publish_snapshot(snapshot_ref(name), directory, size)
        self._write_back.left(unwritten)
        return path

    def has_snapshot(self, name: str) -> bool:
        """Return whether a snapshot is there and trusted; pinned under a lease."""
        return self._shelf.use(snapshot_ref(name))

    def snapshot_path(self, name: str) -> str:
        """Return the path of a snapshot, pinned; FileNotFoundError where it is absent."""
        ref = snapshot_ref(name)
        if not self._shelf.use(ref):
            raise FileNotFoundError(f"the store has no {ref}")
        return self._shelf.path(ref)

    def remove_snapshot(self, name: str) -> None:
        """Delete a snapshot and every record that leads to it; idempotent."""
        self._shelf.remove(snapshot_ref(name))

    # Durability

    def sync(self) -> None:
        """Make all that this process wrote or relied upon survive a power cut.

        One syncfs(2), then the records are marked durable and the index is flushed. When the disk
        reports an error, those records are deleted, since nobody knows what was lost (R10), and
        HostError is raised. A published output calls this before its command returns 0.
        """
        session = self._session
        with session.lock:
            records = dict(session.soft.records)
            objects = set(session.soft.objects)
        if not records and not objects:
            return
        for _, refs in records.values():
            objects.update(ref for ref in refs if not ref.startswith("record:"))
        rows = [(kind, key, records[kind, key][0]) for kind, key in records]
        try:
            session.disk.syncfs(self._root_fd)
        except OSError as error:
            self._settle(rows, objects, kept=False)
            raise host_error(error, self.root, "writing the store to disk") from error
        self._settle(rows, objects, kept=True)
        with session.lock:
            for kind, key, created in rows:
                if session.soft.records.get((kind, key), (0,))[0] == created:
                    del session.soft.records[kind, key]
            session.soft.objects -= objects

    def _settle(self, rows: list[tuple[str, str, int]], objects: set[str], kept: bool) -> None:
        boot = self._session.boot
        verb = "UPDATE records SET durable=1" if kept else "DELETE FROM records"
        other = "UPDATE objects SET durable=1" if kept else "UPDATE objects SET boot=''"

        def change(connection: sqlite3.Connection) -> None:
            # `created` tells our record from one that another process wrote meanwhile.
            connection.executemany(
                f"{verb} WHERE kind=? AND key=? AND created=?",
                [(kind, key_bytes(key), created) for kind, key, created in rows],
            )
            connection.executemany(
                f"{other} WHERE name=? AND durable=0 AND boot=?",
                [(name, boot) for name in objects],
            )

        self._session.index.write(change, flush=True)

    # Care

    def du(self) -> DuReport:
        """Return what the store takes on disk, part by part."""
        from buildgraph_cache.usage import usage

        return usage(self._session)

    def gc(
        self,
        max_bytes: int | None = None,
        max_age: float | None = None,
        keep: Callable[[RecordRow], bool] | None = None,
    ) -> GcReport:
        """Collect beside running builds; works on a full disk.

        Always removes objects without records and what dead processes left. With `max_age`
        (seconds) also what was last used longer ago; with `max_bytes` also the least recently used
        until the store takes no more than that on disk. What a live lease holds, and records for
        which `keep` is true with all they lead to, stays; the report says what was held.
        """
        from buildgraph_cache.collect import Collector

        return Collector(self._session, max_bytes, max_age, keep).run()

    def verify(
        self,
        deep: bool = False,
        on: Progress | None = None,
        snapshot_digest: SnapshotDigest | None = None,
    ) -> list[Damage]:
        """Check that every record resolves and every object is what its name says.

        Blobs are compared with their fingerprint, when `deep` with their sha256; snapshots only
        when deep, by `snapshot_digest`. What is damaged is set aside, with all records that lead
        to it, so that the next build makes it anew; what is sound but unknown to the index, as
        after its loss, is taken in again. Safe beside running builds.
        """
        from buildgraph_cache.check import Check

        with self.lease():
            return Check(self._session, deep, on, snapshot_digest).run()

    def sweep(self) -> int:
        """Delete scratch directories of dead processes; return how many."""
        self._session.writable("sweeping")
        return sweep(self.layout, self._session.disk)[0]


def _is_read_only(root: str) -> bool:
    try:
        return bool(os.statvfs(root).f_flag & os.ST_RDONLY)
    except OSError:
        return False
