"""Who shares a cache mount, who waits, and that nobody ever sees half of one."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from buildgraph.errors import HostError
from buildgraph_cache.mounts import mount_name
from buildgraph_cache.store import Store

InChild = Callable[[Callable[[], None]], int]


def names(store: Store) -> list[str]:
    return sorted(os.listdir(f"{store.root}/mounts"))


def test_locked_waits_and_can_be_called_off(store: Store) -> None:
    order = []

    def second() -> None:
        with store.cache_mount("m", "locked") as path:
            order.append(Path(path, "f").read_text())

    with store.cache_mount("m", "locked") as path:
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.05)
        with (
            pytest.raises(InterruptedError),
            store.cache_mount("m", "locked", cancelled=lambda: True),
        ):
            pass
        Path(path, "f").write_text("whole")
    thread.join()
    assert order == ["whole"]
    assert len(names(store)) == 1


def test_a_shared_user_does_not_join_one_who_locked(store: Store) -> None:
    with store.cache_mount("m", "locked") as one, store.cache_mount("m") as other:
        assert one != other
    with store.cache_mount("m") as one, store.cache_mount("m") as other:
        assert one == other


def test_a_new_one_is_prepared_once_and_out_of_sight(store: Store, in_child: InChild) -> None:
    def die(directory: str) -> None:
        Path(directory, "half").touch()
        os._exit(9)

    def take() -> None:
        with store.cache_mount("m", prepare=die):
            pass

    assert in_child(take) == 9
    made = []

    def prepare(directory: str) -> None:
        assert os.listdir(directory) == []
        Path(directory, "seed").touch()
        made.append(directory)

    for _ in range(2):
        with store.cache_mount("m", prepare=prepare) as path:
            assert os.listdir(path) == ["seed"]
            os.unlink(f"{path}/seed")
            Path(path, "seed").touch()
    assert len(made) == 1
    with store.cache_mount("m", prepare=prepare) as path:
        os.unlink(f"{path}/seed")
    with store.cache_mount("m", prepare=prepare) as path:
        assert os.listdir(path) == [], "an emptied cache is not begun anew"


def test_what_people_are_told(store: Store) -> None:
    before = time.time()
    with store.cache_mount("one", about={"id": "npm", "target": "//a"}) as path:
        Path(path, "x").write_bytes(bytes(100_000))
    with store.cache_mount("two", about={"id": "pip"}):
        pass
    with store.cache_mount("one", about={"id": "npm", "target": "//b"}):
        pass
    first, last = store.cache_mounts()
    assert (first.about["id"], last.about["id"], last.about["target"]) == ("pip", "npm", "//b")
    assert last.name == f"{mount_name('one')}-0"
    assert last.size >= 100_000
    assert before - 1 <= first.used <= last.used <= time.time() + 1
    for text in ("", "{", "[]", '{"id": 1}', "x" * 70_000):
        Path(store.root, "mounts", last.name, "about").write_text(text)
        assert store.cache_mounts()[-1].about == {}


def test_pruning(store: Store) -> None:
    for number in range(4):
        with store.cache_mount(f"m{number}", about={"id": f"m{number}"}) as path:
            Path(path, "x").write_bytes(bytes(100_000))
        old = time.time() - 1000 + number
        os.utime(os.path.dirname(path), (old, old))

    def left() -> list[str]:
        return [m.about["id"] for m in store.cache_mounts()]

    with store.cache_mount("m0", about={"id": "m0"}):
        done = store.prune_cache_mounts(lambda m: m.about["id"] == "m0")
        assert (done.removed, [m.about["id"] for m in done.busy]) == ((), ["m0"])
    done = store.prune_cache_mounts(lambda m: m.about["id"] != "m0", max_bytes=250_000)
    assert [m.about["id"] for m in done.removed] == ["m1"]
    assert store.prune_cache_mounts(lambda m: True, max_age=2000).removed == ()
    done = store.prune_cache_mounts(lambda m: True, max_age=500)
    assert [m.about["id"] for m in done.removed] == ["m2", "m3"]
    assert left() == ["m0"]
    store.prune_cache_mounts(lambda m: True)
    assert left() == []
    assert names(store) == []


def adopt(store: Store, name: str, text: str) -> list[str]:
    with store.new_scratch() as scratch:
        new = Path(scratch.path, name)
        (new / "data").mkdir(parents=True)
        (new / "data/f").write_text(text)
        (new / "about").write_text(json.dumps({"identity": "m"}))
        return store.adopt_cache_mounts(scratch.path, [name])


def test_one_from_elsewhere_takes_the_place_of_the_old(store: Store) -> None:
    name = f"{mount_name('m')}-0"
    assert adopt(store, name, "first") == []
    with store.cache_mount("m") as path:
        assert Path(path, "f").read_text() == "first"
        assert adopt(store, name, "second") == [name], "somebody has it"
        assert Path(path, "f").read_text() == "first"
    assert adopt(store, name, "second") == []
    with store.cache_mount("m", prepare=lambda _: pytest.fail("not new")) as path:
        assert Path(path, "f").read_text() == "second"
    assert names(store) == [name]
    assert os.listdir(f"{store.root}/tmp") == []


def test_a_store_that_cannot_be_written_says_so(store: Store) -> None:
    os.rmdir(f"{store.root}/mounts")
    Path(store.root, "mounts").touch()
    with pytest.raises(HostError), store.cache_mount("m"):
        pass
