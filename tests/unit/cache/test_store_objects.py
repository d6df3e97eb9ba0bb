"""Blobs, snapshots, scratch directories, downloads and cache mounts of a store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from buildgraph.errors import HostError, StoreCorrupt
from buildgraph_cache.digest import Digest, parse_digest, sha256_digest
from buildgraph_cache.store import Store

NAME = "ab" * 32


def test_a_blob_is_found_by_what_it_contains(store: Store) -> None:
    digest = store.put_blob(b"hello")
    assert digest == sha256_digest(b"hello")
    assert store.has_blob(digest)
    assert store.blob_size(digest) == 5
    assert Path(store.blob_path(digest)).read_bytes() == b"hello"
    with open(store.open_blob(digest), "rb") as file:
        assert file.read() == b"hello"
    store.verify_blob(digest)


def test_putting_a_blob_again_changes_nothing(store: Store) -> None:
    digest = store.put_blob(b"hello")
    before = os.stat(store.blob_path(digest)).st_ino
    assert store.put_blob(b"hello") == digest
    assert os.stat(store.blob_path(digest)).st_ino == before
    assert os.listdir(f"{store.root}/tmp") == []


def test_putting_a_truncated_blob_again_mends_it(store: Store) -> None:
    digest = store.put_blob(b"hello")
    os.truncate(store.blob_path(digest), 2)
    store.put_blob(b"hello")
    assert Path(store.blob_path(digest)).read_bytes() == b"hello"


def test_an_absent_blob_is_absent(store: Store) -> None:
    digest = sha256_digest(b"nothing")
    assert not store.has_blob(digest)
    with pytest.raises(FileNotFoundError):
        store.open_blob(digest)
    store.remove_blob(digest)


@pytest.mark.parametrize("text", ["sha256:../x", "sha512:" + "a" * 64, "", "sha256:" + "A" * 64])
def test_only_digests_name_blobs(store: Store, text: str) -> None:
    with pytest.raises(ValueError, match="not a sha256 digest"):
        store.has_blob(Digest(text))


@pytest.mark.parametrize("text", ["../x", "", "a/b", "sha256:", "AB" * 32, ".."])
def test_only_hex_names_snapshots(store: Store, text: str) -> None:
    with pytest.raises(ValueError, match="not the name of a snapshot"):
        store.has_snapshot(text)


@pytest.mark.parametrize(
    "pieces",
    [[b""], [b"a"] * 5000, [b"x" * 3_000_000], [b"s", b"y" * 999_999], [b"z" * 700_001] * 30],
)
def test_a_writer_takes_pieces_of_any_size(store: Store, pieces: list[bytes]) -> None:
    with store.blob_writer() as writer:
        for piece in pieces:
            assert writer.write(piece) == len(piece)
        digest = writer.commit()
    assert digest == sha256_digest(b"".join(pieces))
    assert Path(store.blob_path(digest)).read_bytes() == b"".join(pieces)
    store.verify_blob(digest)


def test_a_writer_without_commit_leaves_nothing(store: Store) -> None:
    with store.blob_writer() as writer:
        writer.write(b"x" * 2_000_000)
    assert os.listdir(f"{store.root}/tmp") == []
    assert store.du().parts[0].count == 0


def test_bytes_written_through_the_descriptor_are_hashed(store: Store) -> None:
    with store.blob_writer() as writer:
        writer.write(b"head ")
        os.write(writer.fileno(), b"body")
        digest = writer.commit()
    assert digest == sha256_digest(b"head body")
    store.verify_blob(digest)


def test_a_caller_may_hash_the_bytes_itself(store: Store) -> None:
    with store.blob_writer(hashed=True) as writer:
        writer.write(b"hello")
        digest = writer.commit(digest=sha256_digest(b"hello"))
    assert store.has_blob(digest)
    store.verify_blob(digest)
    with store.blob_writer(hashed=True) as writer:
        writer.write(b"again")
        assert writer.commit() == sha256_digest(b"again")


def test_bytes_that_are_not_what_was_promised_are_dropped(store: Store) -> None:
    promised = sha256_digest(b"good")
    with store.blob_writer() as writer:
        writer.write(b"evil")
        with pytest.raises(StoreCorrupt, match="have the digest") as caught:
            writer.commit(expected=promised)
    assert promised in str(caught.value)
    assert sha256_digest(b"evil") in str(caught.value)
    assert not store.has_blob(promised)
    assert os.listdir(f"{store.root}/tmp") == []


def test_a_size_that_was_promised_is_held(store: Store) -> None:
    with store.blob_writer(expected_size=10) as writer:
        writer.write(b"short")
        with pytest.raises(StoreCorrupt, match="5 bytes instead of 10"):
            writer.commit()


def test_what_cannot_fit_is_refused_before_it_is_written(store: Store) -> None:
    with pytest.raises(HostError, match=r"no space left on .* 1024\.0 TiB needed"):
        store.blob_writer(expected_size=1 << 50)


def test_a_snapshot_moves_into_place(store: Store, make_snapshot: Callable[..., str]) -> None:
    path = make_snapshot(store, NAME)
    assert store.has_snapshot(NAME)
    assert store.has_snapshot(f"sha256:{NAME}")
    assert store.snapshot_path(NAME) == path == f"{store.root}/snapshots/{NAME}"
    assert sorted(os.listdir(path)) == ["file-0", "file-1", "file-2"]
    assert os.listdir(f"{store.root}/tmp") == []


def test_a_snapshot_that_is_there_stays(store: Store, make_snapshot: Callable[..., str]) -> None:
    path = make_snapshot(store, NAME)
    before = os.stat(path).st_ino
    with store.new_scratch() as scratch:
        upper = scratch.upper
        assert store.publish_snapshot(NAME, upper) == path
        assert not os.path.exists(upper)
    assert os.stat(path).st_ino == before


def test_a_removed_snapshot_takes_its_records_along(
    store: Store, make_snapshot: Callable[..., str]
) -> None:
    make_snapshot(store, NAME)
    store.put_record("layer", "l", b"1", [f"snapshot:{NAME}"])
    store.put_record("node", "n", b"2", ["record:layer/l"])
    store.put_record("other", "o", b"3")
    store.remove_snapshot(NAME)
    assert not store.has_snapshot(NAME)
    assert [record.kind for record in store.records()] == ["other"]
    assert os.listdir(f"{store.root}/snapshots") == os.listdir(f"{store.root}/tmp") == []


def test_a_scratch_is_private_and_goes_away(store: Store) -> None:
    with store.new_scratch() as scratch:
        assert scratch.upper == scratch.upper
        assert os.stat(scratch.path).st_mode & 0o777 == 0o700
        assert os.stat(scratch.upper).st_mode & 0o777 == 0o755
        os.makedirs(f"{scratch.work}/work", mode=0)
        assert store.sweep() == 0
        assert os.path.isdir(scratch.upper)
        with store.new_scratch() as other:
            assert other.path != scratch.path
    assert os.listdir(f"{store.root}/tmp") == []
    scratch.close()


def test_a_dead_process_s_scratch_is_swept(
    store: Store, root: str, in_child: Callable[..., int]
) -> None:
    def die() -> None:
        with Store.open(root) as mine:
            scratch = mine.new_scratch()
            Path(scratch.upper, "x").touch()
            writer = mine.blob_writer()
            writer.write(b"x" * 2_000_000)
            os._exit(9)

    assert in_child(die) == 9
    assert len(os.listdir(f"{root}/tmp")) == 2
    assert store.sweep() == 2
    assert os.listdir(f"{root}/tmp") == []


def test_a_download_goes_on_where_it_was_cut(store: Store) -> None:
    whole = os.urandom(100_000)
    digest = Digest("sha256:" + hashlib.sha256(whole).hexdigest())
    with store.partial("../../etc/passwd") as partial:
        assert partial.size == 0
        partial.write(whole[:40_000])
    assert len(os.listdir(f"{store.root}/partial")) == 1
    with store.partial("../../etc/passwd") as partial:
        assert partial.size == 40_000
        partial.write(whole[40_000:])
        assert partial.commit(digest) == digest
    assert store.has_blob(digest)
    store.verify_blob(digest)
    assert os.listdir(f"{store.root}/partial") == []


def test_a_download_of_wrong_bytes_is_dropped(store: Store) -> None:
    with store.partial("a") as partial:
        partial.write(b"evil")
        with pytest.raises(StoreCorrupt):
            partial.commit(sha256_digest(b"good"))
    with store.partial("a") as partial:
        assert partial.size == 0
        partial.write(b"bad start")
        partial.restart()
        partial.write(b"good")
        assert partial.commit() == sha256_digest(b"good")


def test_a_download_of_something_already_there_is_dropped(store: Store) -> None:
    store.put_blob(b"good")
    with store.partial("a") as partial:
        partial.write(b"good")
        partial.commit()
    assert os.listdir(f"{store.root}/partial") == []


def test_cache_mounts_are_kept_and_can_be_private(store: Store) -> None:
    with store.cache_mount("../../x") as first:
        Path(first, "kept").touch()
        assert first.startswith(f"{store.root}/mounts/")
        with store.cache_mount("../../x") as second:
            assert second == first
        with store.cache_mount("../../x", sharing="private") as alone:
            assert alone != first
            with store.cache_mount("../../x", sharing="private") as other:
                assert other not in (alone, first)
    with store.cache_mount("../../x", sharing="private") as again:
        assert again == first
        assert os.listdir(again) == ["kept"]


def test_digests_are_parsed_at_the_door() -> None:
    good = "sha256:" + "0a" * 32
    assert parse_digest(good) == good
    for bad in (good[:-1], good + "0", good.upper(), good[:-1] + "g", good[:-1] + "\n", "md5:00"):
        with pytest.raises(ValueError, match="not a sha256 digest"):
            parse_digest(bad)
