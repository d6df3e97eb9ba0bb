"""Older kernels and file systems: the same container by other means, and said where weaker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from buildgraph import kernel


def other(box: Any, directory: Path, option: str) -> Any:
    return type(box)(directory, box.user).start(option)


@pytest.mark.parametrize("count", [1, 130, 499, 600])
def test_overlays_by_mount(box: Any, open_tmp: Path, count: int) -> None:
    one = other(box, open_tmp, "old-overlay")
    layers = [one.lower({f"f{n}": "", "top": f"{n}\n"}) for n in range(count)]
    result = one.run(
        "cat /top; ls / | grep -c ^f; rm /top; touch /new", lowers=(*layers, one.image)
    )
    one.stop()
    assert result.out.split() == ["0", str(count)], result.answer
    assert sorted(path.name for path in result.upper.iterdir()) == ["new", "top"]


def test_without_a_user_namespace(rootbox: Any, open_tmp: Path) -> None:
    """Root inside is the machine's root then, so it may make no device and reach nothing of it."""
    one = other(rootbox, open_tmp, "no-userns")
    result = one.run(
        "grep CapBnd /proc/self/status; mknod /x c 1 3; cat /proc/1/exe; "
        "echo x > /proc/sys/kernel/core_pattern; echo x > /proc/sysrq-trigger; "
        "head -c1 /proc/kcore; touch /f; ping -c1 127.0.0.1 > /dev/null && echo raw"
    )
    one.stop()
    assert f"{0xA80425FB & ~(1 << 27):016x}" in result.out
    assert result.out.count("not permitted") + result.out.count("denied") == 2
    assert "ead-only" in result.out
    assert result.out.endswith("raw\n")
    assert (result.upper / "f").stat().st_uid == 0


def test_a_process_is_born_in_a_version_2_group() -> None:
    if os.geteuid() != 0:
        pytest.skip("machine: needs root")
    for place in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
        if Path(place, "cgroup.procs").exists() and Path(place, "cgroup.controllers").exists():
            break
    else:
        pytest.skip("machine: no version 2 hierarchy")
    group = Path(place, f"bg-test-{os.getpid()}")
    group.mkdir()
    fd = os.open(group, os.O_PATH | os.O_DIRECTORY)
    reader, writer = os.pipe()
    try:
        pid, pidfd = kernel.clone(0, cgroup=fd)
        if pid == 0:
            os.write(writer, Path("/proc/self/cgroup").read_bytes())
            os._exit(0)
        os.close(pidfd)
        os.waitpid(pid, 0)
        assert f"0::/{group.name}\n" in os.read(reader, 4096).decode()
    finally:
        for one in (fd, reader, writer):
            os.close(one)
        group.rmdir()
