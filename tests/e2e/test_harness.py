"""Knows that the harness itself can be trusted; must not know the program."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from e2e.harness import BUSYBOX, Workspace, assert_nothing_left, leftovers, ordinary_user


def test_a_workspace_reads_what_it_wrote(workspace: Workspace) -> None:
    workspace.write("a/b.sh", "#!/bin/sh\n", 0o755)
    assert workspace.read("a/b.sh") == "#!/bin/sh\n"
    before = os.stat(workspace.path("a/b.sh"))
    workspace.touch("a/b.sh")
    assert os.stat(workspace.path("a/b.sh")).st_mtime != before.st_mtime


def test_a_workspace_goes_with_everything() -> None:
    with Workspace() as workspace:
        workspace.write("a/b", b"\x00")
        workspace.path("a").chmod(0)
        workspace.store()
    assert not workspace.top.exists()


def test_a_process_that_outlives_its_parent_is_found(workspace: Workspace) -> None:
    before = leftovers()
    script = "import subprocess; subprocess.Popen(['sleep', '60'])"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)
    left = leftovers() - before
    (found,) = left.processes
    assert found.endswith(" (sleep)")
    with pytest.raises(AssertionError, match="left behind"):
        assert_nothing_left(before, within=0)
    os.kill(int(found.split()[0]), 9)
    assert_nothing_left(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes mounts and cgroups on the host")
def test_mounts_are_found(workspace: Workspace) -> None:
    before = leftovers()
    where = workspace.path("point")
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(where)], check=True)
    assert str(where) in (leftovers() - before).mounts
    subprocess.run(["umount", str(where)], check=True)
    assert str(where) not in (leftovers() - before).mounts


def test_an_ordinary_user_can_run_our_code(as_user: Any, workspace: Workspace) -> None:
    assert as_user.uid != 0
    done = as_user.run(as_user.python, "-c", "import os, buildgraph; print(os.getuid())")
    assert (done.stderr, done.stdout) == ("", f"{as_user.uid}\n")
    if os.geteuid() == 0:
        with open("/etc/subuid") as lines:
            assert any(line.startswith(f"{as_user.name}:") for line in lines)
    store = workspace.store(as_user)
    assert as_user.run("touch", f"{store}/x", f"{workspace.root}/y").returncode == 0


def test_a_lone_user_has_no_ranges(as_lone_user: Any) -> None:
    with open("/etc/subuid") as lines:
        assert not any(line.startswith(f"{as_lone_user.name}:") for line in lines)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a user")
def test_a_user_goes_with_everything() -> None:
    before = leftovers()
    with ordinary_user() as user:
        process = user.popen(["sleep", "60"], stdout=subprocess.DEVNULL)
    assert process.wait(timeout=5) == -signal.SIGKILL
    assert_nothing_left(before)
    assert not user.home.exists()
    with pytest.raises(KeyError):
        pwd.getpwnam(user.name)


@pytest.mark.peers
@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")
@pytest.mark.skipif(not BUSYBOX.exists(), reason="busybox is not installed")
def test_the_busybox_layout_is_an_image(workspace: Workspace) -> None:
    layout = workspace.busybox_layout()
    done = subprocess.run(
        ["skopeo", "inspect", f"oci:{layout}:latest"], capture_output=True, check=True, text=True
    )
    assert len(json.loads(done.stdout)["Layers"]) == 1


def test_waiting_for_nothing_takes_no_time() -> None:
    begun = time.monotonic()
    assert_nothing_left(leftovers())
    assert time.monotonic() - begun < 3
