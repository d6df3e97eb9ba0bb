"""Knows that a build may be killed, interrupted or left unread at any moment; must not know what
it was doing then.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from typing import Any

import pytest

from e2e.building import BOTH, Bench, as_root
from e2e.harness import Workspace, assert_nothing_left, leftovers
from e2e.project import Project

SLOW = {
    "lib": "RUN sleep 0.15; sort /lib/src/a /lib/src/b >/lib/out; seq 20000 >/lib/many",
    "app": "RUN for i in 1 2 3 4 5; do mkdir -p /app/$i; cp -r /lib /app/$i; done; cat /app/1/lib/out >/x",
    "tool": "RUN cat /out >/lines; sleep 0.1",
}


def slow_project(workspace: Workspace, user: Any = None) -> Project:
    """Return a project whose steps take a while and write many files."""
    project = Project(workspace, user)
    for number in range(120):
        project.write(f"alone/d{number % 9}/f{number}", "x" * number * 40)
    project.write("lib/Dockerfile", f"FROM base\nCOPY src/ /lib/src/\n{SLOW['lib']}\n")
    project.write("app/Dockerfile", f"FROM lib\nCOPY app.txt /app/\n{SLOW['app']}\n")
    project.write("tool/Dockerfile", f"FROM base\nCOPY --from=lib /lib/out /out\n{SLOW['tool']}\n")
    project.write(
        "alone/Dockerfile",
        "FROM base\nCOPY . /alone\nRUN find /alone | sort >/found; cat /alone/d1/* | sha256sum >/sum\n",
    )
    return project


def kill(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    """Send a signal to all processes of a session that `Workspace.start` began."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


WORDS = ["build", "//...", "--progress", "json", "-j", "2"]
MOMENTS = 20


@pytest.mark.slow
def test_kill_9_at_twenty_moments(workspace: Workspace) -> None:
    seed = int(os.environ.get("BUILDGRAPH_TEST_SEED", "20"))
    dice = random.Random(seed)
    project = slow_project(workspace)
    before = leftovers()
    out = f"type=oci,tar=false,dest={workspace.path('layout')}"
    reference = project.run(*WORDS, "--store", str(workspace.top / "reference"))
    length = reference.seconds
    kept = 0
    for number in range(MOMENTS):
        # one in each twentieth of a build, so that chance leaves no part of it out
        moment = length * (number + dice.random()) / MOMENTS
        if number % 4 == 0:
            project.run("cache", "gc", "--max-size", "0")
        process = workspace.start(*WORDS, "--no-cache", "-o", out)
        time.sleep(moment)
        kill(process)
        process.communicate()
        said = project.run(*WORDS)
        assert said.digests == reference.digests, f"seed {seed}, moment {moment:.3f}"
        kept += len(said.events) and sum(e.get("cached", False) for e in said.events)
        if any(title.startswith("RUN") for title in said.built):
            assert_nothing_left(before)  # the first step of a build sweeps what the dead left
        verified = project.run("cache", "verify", expect=None)
        assert verified.code == 0, f"seed {seed}, moment {moment:.3f}: {verified.stdout}"
    assert kept, "what was finished before the kill was never used again"
    assert project.run("cache", "verify", "--deep").code == 0
    assert project.run(*WORDS, "-o", out).digests == reference.digests
    project.run(*WORDS, "--no-cache")
    assert_nothing_left(before)
    assert not list((workspace.store() / "tmp").iterdir())


@as_root
def test_kill_9_of_an_ordinary_users_build(workspace: Workspace, as_user: Any) -> None:
    project = slow_project(workspace, as_user)
    words = [*WORDS, "--network=none"]
    reference = project.run(*words, "--store", str(as_user.home / "reference"))
    before = leftovers()
    for moment in (0.3, 0.6, 0.85):
        process = workspace.start(*words, "--no-cache", user=as_user)
        time.sleep(reference.seconds * moment)
        kill(process)
        process.communicate()
        assert project.run(*words).digests == reference.digests
    assert project.run(*words, "--no-cache").digests == reference.digests
    assert_nothing_left(before)
    assert project.run("cache", "verify", "--deep").code == 0


@BOTH
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_a_signal_ends_it_within_five_seconds(
    who: Bench, number: signal.Signals, code: int
) -> None:
    directory = who.directory(
        {}, "FROM base\nRUN trap '' TERM INT; sleep 77 & sleep 78; echo late\n"
    )
    before = leftovers()
    words = who.base([])
    process = who.workspace.start("build", *words, directory, "--progress", "plain", user=who.user)
    deadline = time.monotonic() + 20
    while not any("sleep" in p for p in leftovers().processes):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    begun = time.monotonic()
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - begun < 5
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert_nothing_left(before)


def test_ctrl_c_twice_and_to_the_whole_group(root_bench: Bench) -> None:
    directory = root_bench.directory({}, "FROM base\nRUN sleep 79\n")
    before = leftovers()
    process = root_bench.workspace.start("build", *root_bench.base([]), directory)
    deadline = time.monotonic() + 20
    while not any("sleep" in p for p in leftovers().processes):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for _ in range(2):
        kill(process, signal.SIGINT)
        time.sleep(0.05)
    _, err = process.communicate(timeout=20)
    assert process.returncode in (130, -signal.SIGINT), err
    assert_nothing_left(before)


def test_an_interrupted_build_keeps_what_was_done(root_bench: Bench) -> None:
    directory = root_bench.directory({}, "FROM base\nRUN echo done-before >/a\nRUN sleep 80\n")
    process = root_bench.workspace.start("build", *root_bench.base([]), directory)
    deadline = time.monotonic() + 20
    while not any("sleep" in p for p in leftovers().processes):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    root_bench.workspace.write(f"{directory}/Dockerfile", "FROM base\nRUN echo done-before >/a\n")
    assert root_bench.build_in(directory).result.built == []


@pytest.mark.parametrize("mode", ["plain", "json"])
def test_nobody_reads_any_more(root_bench: Bench, mode: str) -> None:
    directory = root_bench.directory({}, "FROM base\nRUN seq 1 30000; sleep 0.3\nRUN echo unread\n")
    before = leftovers()
    process = root_bench.workspace.start(
        "build", *root_bench.base([]), directory, "--progress", mode, "--no-cache"
    )
    stream = process.stderr if mode == "plain" else process.stdout
    assert stream is not None
    stream.readline()
    stream.close()
    assert process.wait(timeout=30) == 0, "the build is done though nobody looks"
    for other in (process.stdout, process.stderr):
        assert other is not None
        other.close()
    assert_nothing_left(before)


def test_a_reader_that_stops_reading_holds_nothing_up_for_ever(root_bench: Bench) -> None:
    directory = root_bench.directory({}, "FROM base\nRUN seq 1 200000\nRUN echo slow-reader >/x\n")
    process = root_bench.workspace.start(
        "build", *root_bench.base([]), directory, "--progress", "plain", "--no-cache"
    )
    time.sleep(2.5)
    assert root_bench.run("build", *root_bench.base([]), directory, timeout=30).code == 0
    err = process.communicate(timeout=30)[1]
    assert process.returncode == 0
    assert "200000" in err


def test_leftovers_of_the_dead_are_swept_at_the_next_start(workspace: Workspace) -> None:
    project = slow_project(workspace)
    before = leftovers()
    words = [*WORDS, "--no-cache"]
    for moment in (0.25, 0.45, 0.65):
        process = workspace.start(*words)
        time.sleep(moment)
        kill(process)
        process.communicate()
    project.run(*words)
    assert_nothing_left(before)
    scratch = workspace.store() / "tmp"
    assert not list(scratch.iterdir())
