"""Small parts of the sandbox that need no kernel feature."""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path

import pytest

from buildgraph.sandbox import cgroup, userns
from buildgraph.sandbox.host import ExitStatus
from buildgraph.sandbox.network import resolv_conf
from buildgraph.sandbox.plan import Ids, Machine, make_plan
from buildgraph.sandbox.spec import Bind, FileMount, Limits, OverlayMount, SandboxSpec, Tmpfs
from buildgraph.sandbox.wire import receive, send

MIB = 1 << 20


def test_resolvers_on_the_loopback_are_replaced(tmp_path: Path) -> None:
    own, upstream = tmp_path / "own", tmp_path / "upstream"
    own.write_text("# stub\nnameserver 127.0.0.53\nnameserver ::1\noptions edns0\nsearch lan\n")
    upstream.write_text("nameserver 192.0.2.53\nnameserver 127.0.0.1\nsearch other\n")
    text = resolv_conf(str(own), str(upstream))
    assert text == "options edns0\nsearch lan\nnameserver 192.0.2.53\n"
    assert resolv_conf(str(own), str(tmp_path / "none")) == "options edns0\nsearch lan\n"
    assert resolv_conf(str(tmp_path / "none"), str(upstream)) == "nameserver 192.0.2.53\n"
    own.write_text("nameserver 192.0.2.1\n")
    assert resolv_conf(str(own), str(upstream)) == "nameserver 192.0.2.1\n"


def test_subordinate_ranges(tmp_path: Path) -> None:
    uids, gids = tmp_path / "subuid", tmp_path / "subgid"
    uids.write_text("other:1:2\n4242:100000:65536\n\nbroken\n4242:x:1\n4242:300000:10\n")
    gids.write_text("4242:200000:65536\n")
    found = userns.subordinate_ranges(4242, str(uids), str(gids))
    assert found.uids == ((100000, 65536), (300000, 10))
    assert found.gids == ((200000, 65536),)
    assert userns.subordinate_ranges(4242, str(tmp_path / "no"), str(gids)).uids == ()


@pytest.mark.parametrize("size", [0, 10, 70_000, 3_000_000])
def test_messages_of_any_size(size: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, open(os.devnull) as file:
        send(ours, {"data": b"x" * size, "n": None}, (file.fileno(),))
        message, fds = receive(theirs)
        assert message == {"data": b"x" * size, "n": None}
        assert len(fds) == 1
        assert os.fstat(fds[0]).st_rdev == os.fstat(file.fileno()).st_rdev
        os.close(fds[0])
        ours.close()
        assert receive(theirs) == (None, [])


def ids(*, root: bool = True) -> Ids:
    rows = ((0, 1000 if root else 0, 65536),)
    return Ids(root, 1000 if root else 0, rows, rows, True)


def plan(spec: SandboxSpec, of: Ids, machine: Machine) -> dict[str, object]:
    return make_plan(
        spec, of, machine, dns="nameserver x\n", stdin=False, netns="none", count_processes=True
    )


def test_a_layer_that_was_made_twice_is_stacked_once() -> None:
    """Overlayfs refuses a directory twice; the upper one says all that the lower one does."""
    mounts = (OverlayMount(("/a", "/b", "/a"), "/m"),)
    spec = SandboxSpec(("/c", "/a", "/c", "/b", "/a"), ("x",), mounts=mounts)
    made = plan(spec, ids(), Machine(True, 0, False))
    assert made["lowers"] == ["/c", "/a", "/b"]
    assert made["mounts"] == [("overlay", "/m", ["/a", "/b"], False)]


def test_outer_mounts_come_first() -> None:
    mounts = (Bind("/c", "/a/b/c"), Tmpfs("/a"), FileMount("/a/b", b""))
    made = plan(SandboxSpec((), ("x",), mounts=mounts), ids(), Machine(True, 1000, False))
    assert [mount[1] for mount in made["mounts"]] == ["/a", "/a/b", "/a/b/c"]  # type: ignore[attr-defined]


def test_a_mount_of_the_spec_wins_over_our_own_files() -> None:
    spec = SandboxSpec((), ("x",), mounts=(FileMount("/etc/hosts", b"mine"),))
    made = plan(spec, ids(), Machine(True, 1000, False))
    assert [row[0] for row in made["files"]] == ["/etc/resolv.conf", "/etc/hostname"]  # type: ignore[attr-defined]


def test_no_devices_without_a_user_namespace() -> None:
    spec = SandboxSpec((), ("x",))
    mknod = 1 << 27
    for userns_, kept in ((True, mknod), (False, 0)):
        made = plan(spec, ids(), Machine(userns_, 0, False))
        assert int(made["capabilities"]) & mknod == kept  # type: ignore[call-overload]


def test_processes_are_counted_one_way_or_the_other() -> None:
    spec = SandboxSpec((), ("x",), limits=Limits(pids=77))
    made = plan(spec, ids(root=False), Machine(True, 0, False))
    assert (resource.RLIMIT_NPROC, 77, 77) in made["rlimits"]  # type: ignore[operator]


def test_exit_status_in_words() -> None:
    limits = Limits(memory=256 * MIB, pids=10, timeout=2.5)
    assert ExitStatus(0).describe(limits) == ""
    assert ExitStatus(0).ok
    assert ExitStatus(3).describe(limits) == "ended with exit code 3"
    oom = ExitStatus(137, 9, oom=True)
    assert oom.describe(limits) == "was ended by SIGKILL: out of memory (limit 256 MiB)"
    assert "limit 100 MiB" in oom.describe(Limits(), 100 * MIB)
    assert ExitStatus(1, pids_limit=True).describe(limits).endswith("(limit 10 processes)")
    assert ExitStatus(143, 15, timed_out=True).describe(limits) == "did not end within 2.5 s"
    assert ExitStatus(137, 9, cancelled=True).describe(limits) == "was cancelled"
    assert not ExitStatus(0, timed_out=True).ok


def group(path: Path, version: int) -> cgroup.SlotGroup:
    names = ("memory", "pids", "cpu")
    for name in (
        "memory.limit_in_bytes memory.memsw.limit_in_bytes memory.max memory.swap.max pids.max "
        "cpu.max cpu.cfs_quota_us memory.oom.group"
    ).split():
        (path / name).write_text("")
    directories, versions = dict.fromkeys(names, str(path)), dict.fromkeys(names, version)
    return cgroup.SlotGroup(directories, versions, (), "", 1)


def test_limits_of_version_2(tmp_path: Path) -> None:
    slot = group(tmp_path, 2)
    slot.apply(Limits(memory=64 * MIB, memory_swap=96 * MIB, cpus=1.5, pids=10), 64 * MIB)
    got = {path.name: path.read_text() for path in tmp_path.iterdir() if path.read_text()}
    assert got == {
        "memory.max": str(64 * MIB),
        "memory.swap.max": str(32 * MIB),
        "memory.oom.group": "1",
        "pids.max": "11",
        "cpu.max": "150000 100000",
    }
    slot.apply(Limits(pids=None), None)
    assert (tmp_path / "memory.max").read_text() == "max"
    assert (tmp_path / "memory.swap.max").read_text() == "max"
    assert (tmp_path / "pids.max").read_text() == "max"
    assert (tmp_path / "cpu.max").read_text() == "max 100000"


def test_limits_of_version_1(tmp_path: Path) -> None:
    slot = group(tmp_path, 1)
    slot.apply(Limits(), 80 * MIB)
    assert (tmp_path / "memory.limit_in_bytes").read_text() == str(80 * MIB)
    assert (tmp_path / "memory.memsw.limit_in_bytes").read_text() == ""
    slot.apply(Limits(memory=64 * MIB), 64 * MIB)
    assert (tmp_path / "memory.memsw.limit_in_bytes").read_text() == str(128 * MIB)
    slot.apply(Limits(), 80 * MIB)
    assert (tmp_path / "memory.memsw.limit_in_bytes").read_text() == "-1"
    assert (tmp_path / "memory.limit_in_bytes").read_text() == str(80 * MIB)


def test_unchanged_limits_are_not_written_again(tmp_path: Path) -> None:
    slot = group(tmp_path, 2)
    slot.apply(Limits(), MIB)
    for path in tmp_path.iterdir():
        path.unlink()
    slot.apply(Limits(), MIB)
    assert list(tmp_path.iterdir()) == []


def test_events_are_counted_since_the_last_step(tmp_path: Path) -> None:
    slot = group(tmp_path, 1)
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    (tmp_path / "pids.events").write_text("max 0\n")
    assert slot.events() == (True, False)
    assert slot.events() == (False, False)
    (tmp_path / "pids.events").write_text("max 3\n")
    assert slot.events() == (False, True)
