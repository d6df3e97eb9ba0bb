"""Containers that run on: started, joined, asked to stop, left alone; as root and as a user."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from buildgraph.sandbox.leftovers import sweep_leftovers

DRIVER = Path(__file__).with_name("container_driver.py")
REPOSITORY = Path(__file__).resolve().parents[2]


def scenarios() -> list[str]:
    tree = ast.parse(DRIVER.read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [f.name for f in functions if f.decorator_list]


def start(box: Any, *names: str) -> subprocess.Popen[str]:
    paths = [str(REPOSITORY), str(REPOSITORY / "cache")]
    paths += [path for path in sys.path if "site-pa" in path]
    env = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    env["PYTHONPATH"] = ":".join(paths)
    program = [str(DRIVER), str(box.store), box.image, *names]
    command = [sys.executable, *program]
    if box.user:
        words = [f"{key}={value}" for key, value in env.items()]
        line = shlex.join(["env", *words, "/usr/bin/python3", *program])
        command = ["su", "-", box.user, "-c", f"cd / && exec {line}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)


@pytest.fixture(scope="module")
def answers(box: Any) -> dict[str, str]:
    with start(box) as process:
        assert process.stdout is not None
        found = [json.loads(line) for line in process.stdout]
    return {answer["name"]: answer["error"] for answer in found}


@pytest.mark.parametrize("name", scenarios())
def test_scenario(answers: dict[str, str], name: str) -> None:
    assert name in answers, "the driver did not get that far"
    assert answers[name] == "", answers[name]


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


@pytest.mark.parametrize("whom", ["builder", "everybody"])
def test_kill_9_leaves_no_process(box: Any, whom: str) -> None:
    process = start(box, "hold")
    assert process.stdout is not None
    said = json.loads(process.stdout.readline())
    pids = said["pids"]
    assert all(is_alive(pid) for pid in pids)
    for pid in [said["pid"], *(pids[len(pids) // 2 :] if whom == "everybody" else [])]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.stdout.close()
    process.wait(10)
    end = time.monotonic() + 10
    while any(is_alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.02)
    assert not [pid for pid in pids if is_alive(pid)]


def groups_of(pid: int) -> set[str]:
    found = set()
    for where, directories, _ in os.walk("/sys/fs/cgroup"):
        found |= {f"{where}/{name}" for name in directories if name.startswith(f"bg-{pid}-")}
    return found


def test_groups_of_the_dead_go_with_the_next_start_of_any_command(rootbox: Any) -> None:
    process = start(rootbox, "hold")
    assert process.stdout is not None
    said = json.loads(process.stdout.readline())
    there = groups_of(said["pid"])
    os.kill(said["pid"], signal.SIGKILL)
    process.stdout.close()
    process.wait(10)
    if not there:
        pytest.skip("machine: no control groups can be made here")
    end = time.monotonic() + 10
    while any(is_alive(pid) for pid in said["pids"]) and time.monotonic() < end:
        time.sleep(0.02)
    sweep_leftovers()
    assert groups_of(said["pid"]) == set()
