"""Bytes that change under the store: in objects, in the index, and the loss of either."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from buildgraph.errors import StoreCorrupt
from buildgraph_cache.digest import Digest, sha256_digest
from buildgraph_cache.objects import blob_ref, record_ref
from buildgraph_cache.store import Store


def flip(path: str, at: int) -> None:
    """Change one bit, leaving every time as it was."""
    info = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(at // 8)
        byte = file.read(1)[0]
        file.seek(at // 8)
        file.write(bytes([byte ^ (1 << at % 8)]))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def tree_digest(path: str) -> Digest:
    """Stand in for the packer: a digest of the names and bytes of a snapshot."""
    text = b"".join(
        os.fsencode(entry.name) + b"\0" + Path(entry.path).read_bytes()
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name)
    )
    return sha256_digest(text)


def publish(store: Store, text: bytes) -> str:
    """Publish a snapshot that is named by what `tree_digest` says of it."""
    with store.new_scratch() as scratch:
        Path(scratch.upper, "f").write_bytes(text)
        name = tree_digest(scratch.upper)
        return store.publish_snapshot(name, scratch.upper)


def test_every_flipped_bit_is_found_before_the_bytes_leave(store: Store) -> None:
    rng = random.Random(7)
    for number in range(100):
        data = rng.randbytes(rng.randrange(1, 3000))
        digest = store.put_blob(data)
        store.put_record("layer", f"{number}", b"", [blob_ref(digest)])
        store.put_record("node", f"{number}", b"", [record_ref("layer", f"{number}")])
        flip(store.blob_path(digest), rng.randrange(len(data) * 8))
        with pytest.raises(StoreCorrupt, match="is damaged"):
            store.open_verified(digest)
        assert not store.has_blob(digest)
        assert store.get_record("node", f"{number}") is None
        assert store.put_blob(data) == digest
        os.close(store.open_verified(digest))
    assert len(os.listdir(f"{store.root}/quarantine")) == 100
    store.gc(max_bytes=0)
    assert os.listdir(f"{store.root}/quarantine") == []


@pytest.mark.parametrize("deep", [False, True])
def test_verify_sets_aside_what_is_damaged_and_nothing_else(store: Store, deep: bool) -> None:
    digests = [store.put_blob(b"blob %d" % n) for n in range(6)]
    for number, digest in enumerate(digests):
        store.put_record("node", f"{number}", b"", [blob_ref(digest)])
    flip(store.blob_path(digests[1]), 3)
    os.truncate(store.blob_path(digests[2]), 0)
    os.unlink(store.blob_path(digests[3]))
    seen: list[str] = []
    found = store.verify(deep, on=lambda what, done, total: seen.append(what))
    assert [(damage.kind, damage.name) for damage in found] == [
        *sorted(("blob", blob_ref(digest)) for digest in digests[1:3]),
        ("record", "record:node/3"),
    ]
    assert set(seen) == {"blobs", "snapshots", "records"}
    assert [record.key for record in store.records("node")] == ["0", "4", "5"]
    assert store.verify(deep) == []
    assert "not what its name says" in str(found[0])


def test_only_a_deep_look_finds_damage_that_has_the_right_fingerprint(store: Store) -> None:
    digest = store.put_blob(b"x")
    Path(store.blob_path(digest)).write_bytes(b"y")
    import xxhash

    store._session.index.put(
        "UPDATE objects SET fingerprint=? WHERE name=?",
        (xxhash.xxh3_128_digest(b"y"), blob_ref(digest)),
    )
    assert store.verify() == []
    assert [damage.kind for damage in store.verify(deep=True)] == ["blob"]


def test_a_snapshot_edited_by_hand_is_found_by_a_deep_look(store: Store) -> None:
    good, bad = publish(store, b"good"), publish(store, b"bad")
    name = os.path.basename(bad)
    store.put_record("node", "k", b"", [f"snapshot:{name}"])
    Path(bad, "f").write_bytes(b"edited")
    assert store.verify(deep=True) == []
    found = store.verify(deep=True, snapshot_digest=tree_digest)
    assert [(damage.kind, damage.name) for damage in found] == [("snapshot", f"snapshot:{name}")]
    assert not store.has_snapshot(name)
    assert store.get_record("node", "k") is None
    assert store.has_snapshot(os.path.basename(good))
    assert publish(store, b"bad") == bad


@pytest.mark.parametrize("how", ["lost", "empty", "garbage", "truncated"])
def test_a_lost_index_is_made_anew_from_the_objects(root: str, how: str) -> None:
    with Store.open(root) as store:
        digest, torn = store.put_blob(b"x"), store.put_blob(b"torn")
        name = os.path.basename(publish(store, b"snap"))
        store.put_record("node", "k", b"v", [blob_ref(digest)])
        Path(store.blob_path(torn)).write_bytes(b"t")
    index = Path(root, "index.sqlite")
    if how == "lost":
        index.unlink()
    elif how == "empty":
        index.write_bytes(b"")
    elif how == "garbage":
        index.write_bytes(os.urandom(50_000))
    else:
        os.truncate(index, 5000)
    with Store.open(root) as store:
        assert store.get_record("node", "k") is None
        assert store.index_was_rebuilt
        assert store.has_blob(digest)
        assert not store.has_blob(torn)
        assert not store.has_snapshot(name)
        assert store.verify(deep=True, snapshot_digest=tree_digest) == []
        assert store.has_snapshot(name)
        store.put_record("node", "k", b"v", [blob_ref(digest)])
    with Store.open(root) as store:
        assert store.get_record("node", "k") == b"v"
        assert not store.index_was_rebuilt


def test_noise_anywhere_in_the_index_costs_time_only(root: str, tmp_path: Path) -> None:
    with Store.open(root) as store:
        digest = store.put_blob(b"x")
        rows = [(f"{n}", b"%d" % n * 20, [blob_ref(digest)]) for n in range(800)]
        store.put_records("node", rows)
    pristine = Path(root, "index.sqlite").read_bytes()
    rng = random.Random(3)
    offsets = [0, 16, 90, 100, 4096, len(pristine) - 100]
    offsets += [rng.randrange(len(pristine)) for _ in range(14)]
    for offset in offsets:
        noisy = bytearray(pristine)
        noise = rng.randbytes(200)
        noisy[offset : offset + len(noise)] = noise
        copy = str(tmp_path / f"copy-{offset}")
        shutil.copytree(root, copy)
        Path(copy, "index.sqlite").write_bytes(noisy[: len(pristine)])
        with Store.open(copy) as store, store.lease():
            for key, value, _ in rows:
                # A flipped byte inside a value is beyond SQLite; keys and structure are not.
                assert store.get_record("node", key) in (value, None) or offset > 4096
            store.put_record("node", "new", b"v", [blob_ref(store.put_blob(b"x"))])
            store.verify()
            assert store.verify() == []
            store.gc()
            assert store.get_record("node", "new") in (b"v", None)
            store.put_record("node", "new", b"v")
            assert store.get_record("node", "new") == b"v"


def test_an_index_lost_under_a_running_build(root: str) -> None:
    with Store.open(root) as old, old.lease():
        digest = old.put_blob(b"x")
        for suffix in ("", "-wal", "-shm"):
            os.unlink(f"{root}/index.sqlite{suffix}")
        with Store.open(root) as new:
            assert new.index_was_rebuilt
            new.gc(max_bytes=0)  # knows nothing of the old lease's objects, but sees the lease
            assert Path(old.blob_path(digest)).read_bytes() == b"x"
            other = new.put_blob(b"y")
            assert new.has_blob(other)
    with Store.open(root) as store:
        assert store.has_blob(other)
        store.gc(max_bytes=0)
        assert store.du().parts[0].count == 0


def test_damage_met_in_the_middle_of_a_build(root: str) -> None:
    with Store.open(root) as store:
        store.put_records("node", [(f"{n}", bytes(500), ()) for n in range(500)])
    size = os.stat(f"{root}/index.sqlite").st_size
    with Store.open(root) as store:
        store.get_record("node", "0")
        with open(f"{root}/index.sqlite", "r+b") as file:
            file.seek(8192)
            file.write(os.urandom(size - 8192))
        with store.lease():
            for number in range(500):
                store.get_record("node", f"{number}")
            store.put_record("node", "new", b"v")
            assert store.get_record("node", "new") == b"v"
        assert store.index_was_rebuilt
    with Store.open(root) as store:
        assert store.get_record("node", "new") == b"v"
        assert store.verify() == []


def test_a_directory_of_the_store_that_was_deleted(
    root: str, make_snapshot: Callable[..., str]
) -> None:
    with Store.open(root) as store:
        digest = store.put_blob(b"x")
        store.put_record("node", "k", b"v", [blob_ref(digest)])
    shutil.rmtree(f"{root}/blobs")
    shutil.rmtree(f"{root}/snapshots")
    shutil.rmtree(f"{root}/tmp")
    with Store.open(root) as store:
        assert store.get_record("node", "k") is None
        assert store.put_blob(b"x") == digest
        make_snapshot(store, "ab" * 32)
        assert store.verify() == []
        store.gc()
