"""Several processes on one store: locks, leases, collections in a loop."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from buildgraph_cache.locks import named_lock
from buildgraph_cache.objects import blob_ref, record_ref
from buildgraph_cache.store import Store


def start(work: Callable[[], None]) -> int:
    """Run `work` in a forked process and return its id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def build(store: Store, key: str, path: str) -> None:
    """Do a step once: look it up, else make it, under its lock."""
    with store.lease():
        if store.get_record("node", key) is not None:
            return
        with store.key_lock(key):
            if store.get_record("node", key) is not None:
                return
            with open(path, "a") as log:
                log.write(f"{key}\n")
            time.sleep(0.002)
            digest = store.put_blob(key.encode())
            store.put_record("node", key, b"v", [blob_ref(digest)])


def test_a_step_is_done_once_by_however_many_processes(root: str, tmp_path: Path) -> None:
    Store.open(root).close()
    log = str(tmp_path / "log")

    def work() -> None:
        with Store.open(root) as store:
            for number in range(30):
                build(store, f"step-{number}", log)

    pids = [start(work) for _ in range(4)]
    assert [status(pid) for pid in pids] == [0] * 4
    lines = Path(log).read_text().split()
    assert sorted(lines) == sorted(f"step-{number}" for number in range(30))
    assert os.listdir(f"{root}/locks/keys") == os.listdir(f"{root}/locks/leases") == []


def test_whoever_waits_is_told_for_whom(store: Store, tmp_path: Path) -> None:
    ready, done = os.pipe()
    path = f"{store.root}/locks/keys/x"

    def hold() -> None:
        with named_lock(path):
            os.write(done, b"x")
            signal.pause()

    pid = start(hold)
    os.read(ready, 1)
    told: list[str] = []

    def heard(text: str) -> None:
        told.append(text)
        os.kill(pid, signal.SIGKILL)  # and so it frees its lock at once

    began = time.monotonic()
    with named_lock(path, heard, patience=0.1):
        assert time.monotonic() - began < 30
    assert told == [f"waiting for process {pid}"]
    assert status(pid) == -signal.SIGKILL
    os.close(ready)
    os.close(done)


def test_a_forked_child_does_not_keep_what_was_given_back(store: Store) -> None:
    """The sandbox's server is forked and lives on, sharing the files that were open then."""
    with store.key_lock("k"), store.cache_mount("m", sharing="private") as first, store.lease():
        pid = start(signal.pause)
    try:
        with store.key_lock("k"), store.cache_mount("m", sharing="private") as again:
            assert again == first
        with store.lease():
            pass
        assert store.gc(max_bytes=0).pinned == ()
    finally:
        os.kill(pid, signal.SIGKILL)
        status(pid)


def test_lock_files_of_the_dead_are_swept(store: Store) -> None:
    def die() -> None:
        with store.key_lock("k"):
            os.kill(os.getpid(), signal.SIGKILL)

    status(start(die))
    assert len(os.listdir(f"{store.root}/locks/keys")) == 1
    with store.key_lock("held"):
        store.gc()
        assert len(os.listdir(f"{store.root}/locks/keys")) == 1
        with pytest.raises(InterruptedError), store.key_lock("held", cancelled=lambda: True):
            pass
    assert os.listdir(f"{store.root}/locks/keys") == []


def test_waiting_can_be_cancelled(store: Store) -> None:
    with store.key_lock("k"):
        with pytest.raises(InterruptedError):
            with store.key_lock("k", cancelled=lambda: True):
                raise AssertionError("not reached")
    with store.key_lock("k"), store.key_lock("../../x"):
        pass
    assert os.listdir(f"{store.root}/locks/keys") == []


def _builder(root: str, seed: int, until: float) -> None:
    rng = random.Random(seed)
    with Store.open(root) as store:
        while time.monotonic() < until:
            with store.lease():
                for _ in range(10):
                    _step(store, rng.randrange(25))
            if rng.random() < 0.3:
                store.sync()


def _step(store: Store, number: int) -> None:
    """Look a chain of records up or make it, and then rely on all of it."""
    key, name = f"{number}", f"{number:02x}" * 32
    if store.get_record("node", key) is None or store.get_record("layer", key) is None:
        with store.new_scratch() as scratch:
            Path(scratch.upper, "f").write_bytes(b"%d" % number)
            store.publish_snapshot(name, scratch.upper)
        digest = store.put_blob(b"%d" % number * 3000)
        refs = [f"snapshot:{name}", blob_ref(digest)]
        store.put_record("layer", key, digest.encode(), refs)
        store.put_record("node", key, b"", [record_ref("layer", key)])
    value = store.get_record("layer", key)
    assert value is not None
    assert Path(store.snapshot_path(name), "f").read_bytes() == b"%d" % number
    with open(store.layout.object(f"blob:{value.decode()}"), "rb") as file:
        assert file.read() == b"%d" % number * 3000
    assert store.get_record("node", key) is not None


def test_builds_never_miss_what_a_collection_beside_them_takes(root: str) -> None:
    Store.open(root).close()
    until = time.monotonic() + 3.0

    def collect() -> None:
        taken = 0
        with Store.open(root) as store:
            while time.monotonic() < until:
                taken += store.gc(max_bytes=0).objects
        assert taken > 10

    pids = [start(lambda seed=seed: _builder(root, seed, until)) for seed in range(3)]
    pids.append(start(collect))
    assert [status(pid) for pid in pids] == [0] * 4
    with Store.open(root) as store:
        assert store.verify(deep=True) == []


def test_collections_and_builds_that_are_killed_beside_each_other(root: str) -> None:
    Store.open(root).close()

    def collect() -> None:
        with Store.open(root) as store:
            while True:
                store.gc(max_bytes=0)

    def everything() -> None:
        _builder(root, os.getpid(), time.monotonic() + 60)

    for turn in range(8):
        pids = [start(everything), start(collect), start(everything)]
        time.sleep(0.05 + 0.01 * turn)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            assert status(pid) == -signal.SIGKILL
        with Store.open(root) as store:
            assert store.verify(deep=True) == []
            assert os.listdir(f"{root}/tmp") == []
            with store.lease():
                for number in range(25):
                    _step(store, number)


def test_a_lost_index_beside_running_builds(root: str) -> None:
    Store.open(root).close()
    until = time.monotonic() + 1.5

    def lose() -> None:
        while time.monotonic() < until:
            time.sleep(0.2)
            with open(f"{root}/index.sqlite", "r+b") as file:
                file.write(os.urandom(4096))

    pids = [start(lambda seed=seed: _builder(root, seed, until)) for seed in range(2)]
    pids.append(start(lose))
    codes = [status(pid) for pid in pids]
    with Store.open(root) as store:
        store.verify(deep=True)
        assert store.verify(deep=True) == []
        with store.lease():
            for number in range(25):
                _step(store, number)
    assert codes[2] == 0
