"""Records: what is believed, and when."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from buildgraph.errors import HostError
from buildgraph_cache.objects import blob_ref, record_ref, snapshot_ref
from buildgraph_cache.store import Store


def reboot(store: Store) -> None:
    """Make the store believe that the machine was started anew."""
    store._session.boot = os.urandom(4).hex()


def test_a_record_gives_back_its_value(store: Store) -> None:
    store.put_record("node", "k", b"\0value", seconds=1.5)
    assert store.get_record("node", "k") == b"\0value"
    assert store.get_record("node", "other") is None
    assert store.get_record("other", "k") is None
    record = store.record("node", "k")
    assert record is not None
    assert (record.seconds, record.durable, record.refs) == (1.5, False, ())
    store.put_record("node", "k", b"new")
    assert store.get_record("node", "k") == b"new"
    assert store.delete_record("node", "k")
    assert not store.delete_record("node", "k")
    assert store.get_record("node", "k") is None


def test_records_last_between_openings(root: str) -> None:
    with Store.open(root) as store:
        store.put_record("node", "k", b"v")
    with Store.open(root) as store:
        assert store.get_record("node", "k") == b"v"


def test_many_records_at_once(store: Store) -> None:
    store.put_records("node", [(f"{n}", b"%d" % n, ()) for n in range(2500)])
    wanted = [f"{n}" for n in range(0, 3000, 2)]
    with store.lease():
        found = store.get_records("node", wanted)
    assert found == {f"{n}": b"%d" % n for n in range(0, 2500, 2)}
    assert store.get_records("node", wanted) == found
    assert sum(1 for _ in store.records("node")) == 2500
    assert list(store.records("nothing")) == []


def test_a_record_that_leads_nowhere_is_a_miss(store: Store) -> None:
    digest = store.put_blob(b"x")
    refs = [blob_ref(digest)]
    store.put_record("node", "k", b"v", refs)
    store.put_record("up", "k", b"v", [record_ref("node", "k")])
    assert store.get_record("node", "k") == b"v"
    os.unlink(store.blob_path(digest))
    assert store.get_record("node", "k") is None
    assert store.record("node", "k") is None
    assert store.get_record("up", "k") is None


def test_references_are_checked_at_the_door(store: Store) -> None:
    for bad in ("blob:x", "snapshot:../x", "file:/etc/passwd", ""):
        with pytest.raises(ValueError, match="not a reference"):
            store.put_record("node", "k", b"v", [bad])
    with pytest.raises(ValueError, match="no slash"):
        store.put_record("a/b", "k", b"v")


def test_soft_records_of_another_boot_are_misses(store: Store) -> None:
    store.put_record("node", "soft", b"v")
    store.put_record("node", "kept", b"v")
    digest = store.put_blob(b"x")
    store.sync()
    store.put_record("node", "soft", b"v")
    reboot(store)
    assert store.get_record("node", "soft") is None
    assert store.record("node", "soft") is None
    assert store.get_record("node", "kept") == b"v"
    assert store.has_blob(digest)


def test_soft_blobs_of_another_boot_are_hashed_before_use(store: Store) -> None:
    good, torn = store.put_blob(b"good"), store.put_blob(b"torn")
    os.truncate(store.blob_path(torn), 0)  # what a power cut does to unsynced data
    reboot(store)
    assert store.has_blob(good)
    assert not store.has_blob(torn)
    assert not os.path.exists(store._shelf.path(blob_ref(torn)))
    assert store.put_blob(b"torn") == torn
    assert store.has_blob(torn)


def test_soft_snapshots_of_another_boot_are_absent(
    store: Store, make_snapshot: Callable[..., str]
) -> None:
    name = "cd" * 32
    path = make_snapshot(store, name)
    reboot(store)
    assert not store.has_snapshot(name)
    assert make_snapshot(store, name, files=5) == path
    assert len(os.listdir(path)) == 5
    assert store.has_snapshot(name)


def test_sync_covers_what_was_only_relied_upon(root: str) -> None:
    with Store.open(root) as store:
        digest = store.put_blob(b"x")
        store.put_record("node", "k", b"v", [blob_ref(digest)])
        # dies here: nothing synced
    with Store.open(root) as store:
        assert store.get_record("node", "k") == b"v"
        store.sync()
        reboot(store)
        assert store.get_record("node", "k") == b"v"
        assert store._session.index.row(
            "SELECT durable FROM objects WHERE name=?", (blob_ref(digest),)
        ) == (1,)


def test_sync_spares_what_another_process_wrote_meanwhile(root: str) -> None:
    with Store.open(root) as one, Store.open(root) as two:
        one.put_record("node", "k", b"one")
        two.put_record("node", "k", b"two")
        one.sync()
        record = two.record("node", "k")
        assert record is not None
        assert (record.value, record.durable) == (b"two", False)
        two.sync()
        record = one.record("node", "k")
        assert record is not None
        assert record.durable


def test_an_error_of_the_disk_forgets_what_it_may_have_lost(
    root: str, faulty_disk: Callable[..., object]
) -> None:
    disk = faulty_disk(1, OSError(5, "Input/output error"), only="syncfs")
    with Store.open(root, disk=disk) as store:  # type: ignore[arg-type]
        digest = store.put_blob(b"x")
        store.put_record("node", "k", b"v", [blob_ref(digest)])
        with pytest.raises(HostError, match="Input/output error"):
            store.sync()
        assert store.get_record("node", "k") is None
        assert store.has_blob(digest)  # hashed again, found good


def test_threads_share_a_store(store: Store) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(60):
                key = f"{number}-{turn}"
                digest = store.put_blob(key.encode())
                store.put_record("node", key, key.encode(), [blob_ref(digest)])
                assert store.get_record("node", key) == key.encode()
                assert store.has_blob(digest)
        except BaseException as error:
            failures.append(error)

    with store.lease():
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    assert store.verify(deep=True) == []


def test_references_have_one_spelling() -> None:
    assert snapshot_ref("sha256:" + "0" * 64) == snapshot_ref("0" * 64) == "snapshot:" + "0" * 64
    assert record_ref("layer", "sha256:x") == "record:layer/sha256:x"
