"""Digests of files that have not changed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from buildgraph.filetree import FileStat, Kind
from buildgraph_cache.digest import Digest, sha256_digest
from buildgraph_cache.statcache import GRAIN_NS, KIND, StatCache
from buildgraph_cache.store import Store

ROOT = "/work/tree"
OLD = 1_600_000_000_000_000_000
STAT = FileStat(Kind.FILE, 0o644, size=5, mtime_ns=OLD, ctime_ns=OLD, ino=7)
DIGEST = sha256_digest(b"hello")


def saved(store: Store, *entries: tuple[str, FileStat, Digest]) -> StatCache:
    cache = StatCache.load(store, ROOT)
    for path, stat, digest in entries:
        cache.put(path, stat, digest)
    cache.save()
    return StatCache.load(store, ROOT)


def test_a_file_that_has_not_changed_has_its_digest(store: Store) -> None:
    cache = saved(store, ("a", STAT, DIGEST), ("b/\udcff\n", STAT, sha256_digest(b"b")))
    assert len(cache) == 2
    assert cache.get("a", STAT) == DIGEST
    assert cache.get("b/\udcff\n", STAT) == sha256_digest(b"b")
    assert cache.get("c", STAT) is None
    assert StatCache.load(store, "/other").get("a", STAT) is None


@pytest.mark.parametrize("field", ["size", "mtime_ns", "ctime_ns", "ino", "mode"])
def test_any_change_of_the_status_counts(store: Store, field: str) -> None:
    cache = saved(store, ("a", STAT, DIGEST))
    assert cache.get("a", replace(STAT, **{field: getattr(STAT, field) + 1})) is None


def test_a_file_that_changed_just_now_is_not_remembered(store: Store) -> None:
    now = time.time_ns()
    cache = StatCache.load(store, ROOT, now)
    cache.put("old", replace(STAT, ctime_ns=now - GRAIN_NS - 1), DIGEST)
    cache.put("young", replace(STAT, ctime_ns=now - GRAIN_NS), DIGEST)
    cache.put("future", replace(STAT, ctime_ns=now + 10**18), DIGEST)
    cache.put("future-mtime", replace(STAT, mtime_ns=now + 10**18), DIGEST)
    cache.save()
    cache = StatCache.load(store, ROOT)
    assert len(cache) == 2
    assert cache.get("old", replace(STAT, ctime_ns=now - GRAIN_NS - 1)) == DIGEST


def test_what_is_no_longer_known_is_forgotten(store: Store) -> None:
    now = time.time_ns()
    cache = saved(store, ("a", STAT, DIGEST), ("b", STAT, DIGEST))
    cache.put("a", replace(STAT, ctime_ns=now), sha256_digest(b"new"))
    cache.save()
    assert len(StatCache.load(store, ROOT)) == 1
    cache = saved(store, ("b", replace(STAT, size=9), sha256_digest(b"9")))
    assert cache.get("b", STAT) is None
    assert cache.get("b", replace(STAT, size=9)) == sha256_digest(b"9")


def test_entries_nobody_asks_for_are_dropped_in_time(store: Store) -> None:
    saved(store, ("used", STAT, DIGEST), ("idle", STAT, DIGEST))
    for turn in range(40):
        cache = StatCache.load(store, ROOT)
        assert cache.get("used", STAT) == DIGEST
        cache.put("changing", replace(STAT, size=turn), DIGEST)
        cache.save()
    cache = StatCache.load(store, ROOT)
    assert cache.get("idle", STAT) is None
    assert cache.get("used", STAT) == DIGEST
    assert len(cache) == 2


def test_nothing_learnt_is_nothing_written(store: Store) -> None:
    cache = saved(store, ("a", STAT, DIGEST))
    before = store.record(KIND, ROOT)
    cache.get("a", STAT)
    cache.save()
    assert store.record(KIND, ROOT) == before
    cache.put("b", STAT, DIGEST)
    cache.save()
    cache.put("c", STAT, DIGEST)
    cache.save()
    assert len(StatCache.load(store, ROOT)) == 3


@pytest.mark.parametrize(
    "table", [b"", b"x", b"bgstat2\0", b"bgstat2\0" + b"\xff" * 100, bytes(500)]
)
def test_a_table_that_is_damaged_is_an_empty_one(store: Store, table: bytes) -> None:
    store.put_record(KIND, ROOT, table)
    cache = StatCache.load(store, ROOT)
    assert len(cache) == 0
    cache.put("a", STAT, DIGEST)
    cache.save()
    assert StatCache.load(store, ROOT).get("a", STAT) == DIGEST


def test_real_files(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"hello")
    time.sleep(0.05)

    def stat() -> FileStat:
        info = os.lstat(path)
        return FileStat(
            Kind.FILE,
            info.st_mode & 0o7777,
            size=info.st_size,
            mtime_ns=info.st_mtime_ns,
            ctime_ns=info.st_ctime_ns,
            ino=info.st_ino,
        )

    cache = saved(store, ("f", stat(), DIGEST))
    assert cache.get("f", stat()) == DIGEST
    before = os.lstat(path)
    path.write_bytes(b"HELLO")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.get("f", stat()) is None
