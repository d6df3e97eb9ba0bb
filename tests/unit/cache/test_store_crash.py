"""A process that dies, or a disk that fails, at each of its durable calls in turn."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from buildgraph.errors import BuildgraphError, HostError
from buildgraph_cache.digest import sha256_digest
from buildgraph_cache.disk import Disk
from buildgraph_cache.objects import blob_ref, record_ref
from buildgraph_cache.store import Store

NAMES = [f"{n:02x}" * 32 for n in range(2)]


def work(root: str, disk: Disk) -> None:
    """Do everything a store can do."""
    with Store.open(root, disk=disk) as store:
        with store.lease():
            for number, name in enumerate(NAMES):
                with store.new_scratch() as scratch:
                    Path(scratch.upper, "f").write_bytes(b"%d" % number)
                    Path(scratch.work, "w").touch()
                    store.publish_snapshot(name, scratch.upper)
                blob = store.put_blob(b"blob %d" % number)
                refs = [f"snapshot:{name}", blob_ref(blob)]
                store.put_record("layer", name, b"%d" % number, refs)
                store.put_record("node", name, b"%d" % number, [record_ref("layer", name)])
            store.sync()
            with store.partial("p") as partial:
                partial.write(b"partial")
                partial.commit()
        store.remove_snapshot(NAMES[0])
        with store.lease():
            store.get_record("node", NAMES[1])
            store.gc(max_bytes=0)
        store.gc(max_bytes=0)


def check(root: str, disk: Disk) -> None:
    """Hold that no record lies and that the store goes on working."""
    with Store.open(root) as store:
        with store.lease():
            for number, name in enumerate(NAMES):
                if store.get_record("node", name) is None:
                    continue
                assert store.get_record("layer", name) == b"%d" % number
                path = store.snapshot_path(name)
                assert Path(path, "f").read_bytes() == b"%d" % number
                store.verify_blob(sha256_digest(b"blob %d" % number))
        assert store.verify(deep=True) == []
        assert os.listdir(f"{root}/tmp") == []
        store.gc(max_bytes=0)
        assert store.du().parts[0].count == store.du().parts[1].count == 0
    work(root, disk)


def test_dying_at_any_durable_call_leaves_a_whole_store(
    memory_path: Path, faulty_disk: Callable[..., Disk], in_child: Callable[..., int]
) -> None:
    for at in range(1, 500):
        root = str(memory_path / f"{at}")
        status = in_child(lambda root=root, at=at: work(root, faulty_disk(at)))
        assert status in (0, 9), f"died wrongly at call {at}"
        check(root, faulty_disk(0))
        if status == 0:
            assert at > 50
            return
    raise AssertionError("the work never ended")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_any_durable_call_that_fails_is_told_and_harms_nothing(
    memory_path: Path, faulty_disk: Callable[..., Disk], code: int
) -> None:
    for at in range(1, 500):
        root = str(memory_path / f"{at}")
        disk = faulty_disk(at, OSError(code, os.strerror(code)))
        try:
            work(root, disk)
        except HostError as error:
            told = (os.strerror(code), "no space left on", "disk I/O error")
            assert any(text in str(error) for text in told)
            assert error.hint
        except OSError as error:
            raise AssertionError(f"call {at} escaped: {disk.calls[-1]}") from error  # type: ignore[attr-defined]
        check(root, faulty_disk(0))
        if len(disk.calls) < at:  # type: ignore[attr-defined]
            return
    raise AssertionError("the work never ended")


def test_writers_that_are_killed_leave_a_whole_store(
    root: str, in_child: Callable[..., int]
) -> None:
    for turn in range(12):
        pid = os.fork()
        if pid == 0:
            try:
                while True:
                    work(root, Disk())
            finally:
                os._exit(1)
        time.sleep(0.02 + 0.013 * turn)
        os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        with Store.open(root) as store:
            assert store.verify(deep=True) == []
    check(root, Disk())


def test_out_of_descriptors_is_told_and_harms_nothing(root: str, store: Store) -> None:
    import resource

    store.put_record("node", "k", b"v")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                held.append(os.dup(0))
        for call in (store.new_scratch, lambda: store.put_blob(b"x"), store.lease):
            with pytest.raises(BuildgraphError, match="Too many open files|cannot be"):
                call()
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert store.get_record("node", "k") == b"v"
    assert store.verify() == []
    assert os.listdir(f"{root}/locks/leases") == []
