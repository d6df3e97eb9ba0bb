"""Who may open a store, and of which version it may be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from buildgraph.errors import HostError, StoreCorrupt
from buildgraph_cache.disk import Disk
from buildgraph_cache.layout import prepare
from buildgraph_cache.store import Store


def contents(root: str) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in Path(root).rglob("*") if p.is_file()}


def test_a_new_store_is_private_and_marked_as_a_cache(root: str) -> None:
    with Store.open(root) as store:
        assert not store.read_only
        assert not store.index_was_rebuilt
    assert os.stat(root).st_mode & 0o777 == 0o700
    assert Path(root, "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06")
    assert Path(root, "VERSION").read_text() == "buildgraph store 1\n"


def test_parents_are_made(tmp_path: Path) -> None:
    Store.open(str(tmp_path / "a" / "b" / "c")).close()


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777, 0o1777])
def test_a_store_open_to_others_is_refused(root: str, mode: int) -> None:
    Store.open(root).close()
    os.chmod(root, mode)
    with pytest.raises(HostError, match="open to other users") as caught:
        Store.open(root)
    assert caught.value.hint == f"chmod 700 {root}"


def test_a_planted_directory_is_refused(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    planted.mkdir()
    planted.chmod(0o777)
    with pytest.raises(HostError, match="open to other users"):
        Store.open(str(planted))


def test_an_empty_directory_becomes_a_store(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o755)
    Store.open(str(empty)).close()
    assert empty.stat().st_mode & 0o777 == 0o700


def test_a_symbolic_link_is_refused(root: str, tmp_path: Path) -> None:
    Store.open(root).close()
    link = tmp_path / "link"
    link.symlink_to(root)
    with pytest.raises(HostError, match="symbolic link"):
        Store.open(str(link))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_store_of_somebody_else_is_refused(root: str) -> None:
    Store.open(root).close()
    os.chown(root, 1234, 1234)
    with pytest.raises(HostError, match="belongs to user 1234"):
        Store.open(root)


def test_somebody_s_documents_are_not_taken_for_a_store(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    before = tmp_path.stat().st_mode
    with pytest.raises(HostError, match="not empty and not a store"):
        Store.open(str(tmp_path))
    assert os.listdir(tmp_path) == ["letter.txt"]
    assert tmp_path.stat().st_mode == before


def test_a_file_is_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(HostError, match="not a directory"):
        Store.open(str(tmp_path / "f"))


def test_a_newer_store_is_not_touched(root: str) -> None:
    with Store.open(root) as store:
        store.put_record("node", "k", b"v")
    Path(root, "VERSION").write_text("buildgraph store 2\n")
    before = contents(root)
    with pytest.raises(HostError, match=r"has version 2; this program knows 1"):
        Store.open(root)
    assert contents(root) == before


def test_a_newer_index_is_not_touched(root: str) -> None:
    with Store.open(root) as store:
        store._session.index.put("UPDATE meta SET value=99 WHERE name='schema'", ())
    with pytest.raises(HostError, match="schema 99"):
        Store.open(root)


def test_an_older_index_is_replaced(root: str) -> None:
    with Store.open(root) as store:
        digest = store.put_blob(b"x")
        store._session.index.put("UPDATE meta SET value=1 WHERE name='schema'", ())
    with Store.open(root) as store:
        assert store.index_was_rebuilt
        assert store.has_blob(digest)


def test_a_strange_version_is_refused(root: str) -> None:
    Store.open(root).close()
    Path(root, "VERSION").write_text("hello")
    with pytest.raises(StoreCorrupt, match="which no buildgraph wrote"):
        Store.open(root)


@pytest.mark.parametrize("torn", [None, b"", b"\0\0\0\0"])
def test_a_version_lost_in_a_power_cut_is_written_again(root: str, torn: bytes | None) -> None:
    with Store.open(root) as store:
        store.put_record("node", "k", b"v")
    version = Path(root, "VERSION")
    version.unlink()
    if torn is not None:
        version.write_bytes(torn)
    with Store.open(root) as store:
        assert store.get_record("node", "k") == b"v"
    assert version.read_text() == "buildgraph store 1\n"


def test_migrations_run_one_by_one_and_may_be_cut(
    root: str, faulty_disk: type[Disk], in_child: Callable[..., int]
) -> None:
    Store.open(root).close()
    steps = Path(root, "steps")

    def first(path: str) -> None:
        steps.write_text("1")

    def second(path: str) -> None:
        assert steps.read_text()[0] == "1"
        steps.write_text("12")

    migrations = {1: first, 2: second}
    for at in range(1, 30):
        disk = faulty_disk(at)  # type: ignore[call-arg]
        status = in_child(lambda disk=disk: prepare(root, disk, False, 3, migrations))
        assert status in (0, 9)
        if status == 0:
            break
    assert Path(root, "VERSION").read_text() == "buildgraph store 3\n"
    assert steps.read_text() == "12"
    assert prepare(root, Disk(), False, 3, migrations).root == root


def test_an_old_store_without_a_way_up_is_refused(root: str) -> None:
    Store.open(root).close()
    with pytest.raises(StoreCorrupt, match="old version 1, which cannot be migrated"):
        prepare(root, Disk(), False, 3, {2: lambda path: None})


def test_a_store_opened_for_reading_gives_hits_and_takes_nothing(root: str) -> None:
    with pytest.raises(HostError, match="read only"):
        Store.open(root, read_only=True)
    with Store.open(root) as store:
        digest = store.put_blob(b"x")
        store.put_record("node", "k", b"v", [f"blob:{digest}"])
        store.sync()
    with Store.open(root, read_only=True) as store, store.lease():
        assert store.read_only
        assert store.get_record("node", "k") == b"v"
        assert store.get_records("node", ["k", "l"]) == {"k": b"v"}
        assert store.has_blob(digest)
        store.verify_blob(digest)
        store.sync()
        for write in (
            lambda: store.put_record("node", "l", b""),
            lambda: store.put_blob(b"y"),
            store.new_scratch,
            store.gc,
            lambda: store.delete_record("node", "k"),
        ):
            with pytest.raises(HostError, match="reading only"):
                write()


@pytest.mark.parametrize("name", ["with space", "a?b#c%20d", "ü", "\udcff-not-utf8"])
def test_the_path_may_be_any(tmp_path: Path, name: str) -> None:
    root = str(tmp_path / name)
    with Store.open(root) as store:
        store.put_record("node", "k", b"v")
    with Store.open(root) as store:
        assert store.get_record("node", "k") == b"v"
    with Store.open(root, read_only=True) as store:
        assert store.get_record("node", "k") == b"v"
    assert os.path.isfile(f"{root}/index.sqlite")


def test_the_specification_names_all_there_is(root: str) -> None:
    text = (Path(__file__).parents[3] / "cache" / "README.md").read_text()
    layout = text.split("## Layout")[1].split("```")[1]
    named = {line.split("/")[0].split()[0] for line in layout.splitlines() if line.strip()}
    with Store.open(root):
        there = {name for name in os.listdir(root) if not name.endswith(("-wal", "-shm"))}
        assert there == named
