"""What a collection takes, what it leaves, and what leases are worth."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from buildgraph_cache.digest import Digest
from buildgraph_cache.objects import blob_ref, record_ref
from buildgraph_cache.store import Store

MIB = 1 << 20


def du(root: str) -> int:
    """Ask du(1), which knows nothing of us."""
    text = subprocess.run(["du", "-s", "-B1", root], capture_output=True, text=True, check=True)
    return int(text.stdout.split()[0])


def fill(store: Store, count: int, size: int = MIB) -> list[Digest]:
    """Store blobs with a record each, every one used by a later lease than the one before."""
    digests = []
    for number in range(count):
        with store.lease():
            digests.append(store.put_blob(os.urandom(size)))
            store.put_record("node", f"{number}", b"v", [blob_ref(digests[-1])])
    return digests


def test_du_agrees_with_du(store: Store, make_snapshot: Callable[..., str]) -> None:
    fill(store, 3)
    make_snapshot(store, "ab" * 32, files=20, size=5000)
    os.link(store.snapshot_path("ab" * 32) + "/file-0", store.snapshot_path("ab" * 32) + "/hard")
    with store.cache_mount("m") as path, store.new_scratch() as scratch:
        Path(path, "x").write_bytes(bytes(10_000))
        Path(scratch.upper, "y").write_bytes(bytes(10_000))
        Path(store.root, "logs", "z").write_bytes(bytes(10_000))
        report = store.du()
        assert report.total == du(store.root)
    parts = {part.kind: part for part in report.parts}
    assert parts["blobs"].count == 3
    assert parts["blobs"].size >= 3 * MIB
    assert parts["snapshots"].count == 1
    assert parts["mounts"].count == parts["tmp"].count == parts["logs"].count == 1
    assert [(part.kind, part.count) for part in report.records] == [("node", 3)]


def test_a_collection_takes_what_nothing_refers_to(store: Store) -> None:
    with store.lease():
        loose = store.put_blob(b"loose" * 1000)
        held = store.put_blob(b"held" * 1000)
        store.put_record("node", "k", b"v", [blob_ref(held)])
        report = store.gc()
        assert report.objects == 0
        assert set(report.pinned) == {blob_ref(loose), blob_ref(held)}
        assert report.pinned_size > 0
    report = store.gc()
    assert (report.objects, report.records, report.pinned) == (1, 0, ())
    assert not store.has_blob(loose)
    assert store.has_blob(held)
    assert store.get_record("node", "k") == b"v"


def test_the_cap_is_real_and_the_least_recently_used_go(store: Store) -> None:
    digests = fill(store, 10)
    with store.lease():
        assert store.get_record("node", "0") == b"v"  # the oldest, used again
    cap = 4 * MIB + du(store.root) - 10 * MIB
    report = store.gc(max_bytes=cap)
    assert du(store.root) <= cap
    assert report.after == du(store.root)
    assert not report.over_limit
    assert report.limit == cap
    left = [number for number in range(10) if store.has_blob(digests[number])]
    assert left == [0, 7, 8, 9]
    assert [store.get_record("node", f"{n}") is not None for n in range(10)] == [
        n in left for n in range(10)
    ]
    assert store.verify(deep=True) == []


def test_a_record_keeps_all_it_leads_to(store: Store, make_snapshot: Callable[..., str]) -> None:
    with store.lease():
        make_snapshot(store, "ab" * 32)
        blob = store.put_blob(bytes(MIB))
        store.put_record("layer", "l", b"", ["snapshot:" + "ab" * 32, blob_ref(blob)])
        store.put_record("node", "n", b"", [record_ref("layer", "l")])
    fill(store, 3)
    with store.lease():
        store.get_record("node", "n")
        report = store.gc(max_bytes=0)
        assert report.over_limit
        assert store.has_snapshot("ab" * 32)
        assert store.get_record("layer", "l") is not None
    assert report.records == 3
    report = store.gc(max_bytes=0)
    assert list(store.records()) == []
    assert os.listdir(f"{store.root}/snapshots") == os.listdir(f"{store.root}/blobs/sha256") == []


def test_age_counts_from_the_last_use(store: Store) -> None:
    digests = fill(store, 3)
    session = store._session
    seqs = [row[0] for row in session.index.rows("SELECT seq FROM generations ORDER BY seq")][1:]
    for age, seq in zip((3000, 2000, 1000), seqs, strict=True):
        session.index.put(
            "UPDATE generations SET started=? WHERE seq=?", (int(time.time()) - age, seq)
        )
    session.index.put("UPDATE generations SET started=1 WHERE seq<?", (seqs[0],))
    store.gc(max_age=2500)
    assert [store.has_blob(digest) for digest in digests] == [False, True, True]
    with store.lease():
        store.get_record("node", "1")
    store.gc(max_age=500)
    assert [store.has_blob(digest) for digest in digests] == [False, True, False]
    assert [record.key for record in store.records()] == ["1"]


def test_what_is_to_be_kept_is_kept(store: Store) -> None:
    digests = fill(store, 3)
    store.gc(max_bytes=0, keep=lambda record: record.key == "1")
    assert [store.has_blob(digest) for digest in digests] == [False, True, False]


def test_a_lease_holds_what_is_looked_up_under_it(root: str) -> None:
    with Store.open(root) as store:
        digests = fill(store, 4, 1000)
        for way in range(4):
            with Store.open(root) as other, store.lease():
                if way == 0:
                    assert store.get_record("node", "0")
                elif way == 1:
                    assert store.has_blob(digests[1])
                elif way == 2:
                    assert store.blob_path(digests[2])
                else:
                    assert store.get_records("node", ["3"])
                other.gc(max_bytes=0)
                assert store.has_blob(digests[way])
                fill(other, 4, 1000)
                digests = [Digest(r.refs[0][5:]) for r in other.records("node")]


def test_leases_of_the_dead_do_not_count(
    root: str, store: Store, in_child: Callable[..., int]
) -> None:
    fill(store, 2)

    def die() -> None:
        with Store.open(root) as mine:
            mine.lease()
            assert mine.get_record("node", "0")
            os._exit(9)

    assert in_child(die) == 9
    assert len(os.listdir(f"{root}/locks/leases")) == 1
    report = store.gc(max_bytes=0)
    assert report.objects == 2
    assert os.listdir(f"{root}/locks/leases") == []


def test_leases_may_overlap_in_one_process(store: Store) -> None:
    outer = store.lease()
    first = store.put_blob(b"1" * 5000)
    with store.lease() as inner:
        assert inner.generation > outer.generation
        second = store.put_blob(b"2" * 5000)
    store.gc()
    assert store.has_blob(first)
    assert store.has_blob(second)
    outer.close()
    outer.close()
    store.gc()
    assert not store.has_blob(first)
    assert not store.has_blob(second)


def test_a_reader_holds_everything(root: str) -> None:
    with Store.open(root) as store:
        digests = fill(store, 2)
        with Store.open(root, read_only=True) as reader, reader.lease():
            report = store.gc(max_bytes=0)
            assert report.readers
            assert report.over_limit
            assert all(reader.has_blob(digest) for digest in digests)
        assert not store.gc(max_bytes=0).readers
        assert not any(store.has_blob(digest) for digest in digests)


def test_orphans_and_leftovers_go(store: Store, root: str, in_child: Callable[..., int]) -> None:
    Path(root, "snapshots", "ab" * 32, "deep").mkdir(parents=True)
    Path(root, "blobs", "sha256", "00").mkdir()
    Path(root, "blobs", "sha256", "00", "00" * 32).write_bytes(b"torn")

    def die() -> None:
        with Store.open(root) as mine:
            Path(mine.new_scratch().upper, "x").touch()
            os._exit(9)

    assert in_child(die) == 9
    old = Path(root, "partial", "old")
    old.touch()
    os.utime(old, (1, 1))
    with store.partial("new") as partial:
        partial.write(b"x")
    with store.new_scratch() as scratch:
        report = store.gc()
        assert os.path.isdir(scratch.path)
    assert (report.objects, report.loose) == (2, 2)
    assert len(os.listdir(f"{root}/partial")) == 1
    assert os.listdir(f"{root}/blobs/sha256") == os.listdir(f"{root}/snapshots") == []


def test_a_download_that_goes_on_is_not_taken(store: Store) -> None:
    with store.partial("now") as partial:
        partial.write(bytes(MIB))
        store.gc(max_bytes=0)
        assert partial.size == MIB
        assert os.path.exists(partial.path)
    store.gc(max_bytes=0)
    assert not os.path.exists(partial.path)


def test_cache_mounts_go_by_use_unless_somebody_has_them(store: Store) -> None:
    for name in ("a", "b"):
        with store.cache_mount(name) as path:
            Path(path, "x").write_bytes(bytes(MIB))
    with store.cache_mount("a") as path:
        report = store.gc(max_bytes=0)
        assert report.over_limit
        assert os.listdir(path) == ["x"]
    assert len(os.listdir(f"{store.root}/mounts")) == 1
    store.gc()
    assert len(os.listdir(f"{store.root}/mounts")) == 1
    store.gc(max_age=-5)
    assert os.listdir(f"{store.root}/mounts") == []


def test_the_index_shrinks_too(store: Store) -> None:
    store.put_records("node", [(f"{n}", os.urandom(3000), ()) for n in range(1500)])
    store._session.index.checkpoint()
    before = os.stat(f"{store.root}/index.sqlite").st_size
    assert before > 4 * MIB
    report = store.gc(max_bytes=2 * MIB + 4 * MIB)  # the reserve takes 4 MiB
    assert report.records > 0
    assert not report.over_limit
    assert os.stat(f"{store.root}/index.sqlite").st_size < before / 2


@pytest.mark.parametrize("skew", [-40 * 365 * 86400, 14 * 365 * 86400])
def test_a_wrong_clock_costs_order_only(
    store: Store, monkeypatch: pytest.MonkeyPatch, skew: int
) -> None:
    real_ns, real = time.time_ns, time.time
    digests = fill(store, 2)
    monkeypatch.setattr(time, "time_ns", lambda: max(real_ns() + skew * 10**9, 1))
    monkeypatch.setattr(time, "time", lambda: max(real() + skew, 1))
    with store.lease():
        assert store.get_record("node", "1") == b"v"
        new = store.put_blob(b"new")
        store.gc(max_bytes=0, max_age=60)
        assert store.has_blob(digests[1])
        assert store.has_blob(new)
    store.sync()
    monkeypatch.undo()
    assert store.verify(deep=True) == []
