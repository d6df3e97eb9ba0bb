"""Holds what small builds cost, in things that can be counted: no clock can make these fail."""

from __future__ import annotations

import collections
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from e2e.harness import HEAVY

STRACE = shutil.which("strace")
BUSYBOX = shutil.which("busybox")
FILES = 30
OURS = {
    "buildgraph",
    "buildgraph.cli",
    "buildgraph.cli.places",
    "buildgraph.cli.unchanged",
    "buildgraph_cache",
    "buildgraph_cache.invocation",
}
needs_strace = pytest.mark.skipif(STRACE is None, reason="strace is not installed")


class Place:
    def __init__(self, top: Path) -> None:
        self.top = top
        self.context = top / "context"
        self.src = self.context / "src"
        self.src.mkdir(parents=True)
        self.trace = top / "trace"
        self.store = ("--store", str(top / "store"))
        for number in range(FILES):
            (self.src / f"f{number:03}.txt").write_text(f"file {number}\n" * 20)
        self.dockerfile("FROM scratch", "COPY src /src")

    def dockerfile(self, *lines: str) -> None:
        (self.context / "Dockerfile").write_text("\n".join(lines) + "\n")

    def build(self, *python: str, before: tuple[str, ...] = ()) -> str:
        time.sleep(0.15)  # files younger than the clock's grain are looked at twice
        done = subprocess.run(
            [*before, sys.executable, *python, "-m", "buildgraph", "build", *self.store, "."],
            cwd=self.context,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def traced(self, calls: str) -> str:
        assert STRACE is not None
        self.build(before=(STRACE, "-f", "-o", str(self.trace), "-e", f"trace={calls}"))
        return self.trace.read_text(errors="replace")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def _by_file(trace: str) -> collections.Counter[str]:
    return collections.Counter(re.findall(r'"(?:[^"]*/)?(f\d{3}\.txt)"', trace))


def test_a_build_with_nothing_to_do_loads_next_to_nothing(place: Place) -> None:
    place.build()
    lines = place.build("-X", "importtime").splitlines()
    loaded = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert {name for name in loaded if name.startswith("buildgraph")} == OURS
    assert not {name.partition(".")[0] for name in loaded} & HEAVY
    assert len(loaded) <= 95


@needs_strace
def test_a_build_with_nothing_to_do_looks_at_each_file_once(place: Place) -> None:
    place.build()
    place.build()
    trace = place.traced("openat,openat2,stat,lstat,newfstatat,statx")
    assert _by_file(trace) == {f"f{n:03}.txt": 1 for n in range(FILES)}
    assert not [line for line in trace.splitlines() if "openat" in line and _by_file(line)]
    assert trace.count("openat") <= 200


@needs_strace
def test_one_changed_file_is_the_only_one_hashed_again(place: Place) -> None:
    place.build()
    place.build()
    (place.src / "f007.txt").write_text("changed\n")
    opened = _by_file(place.traced("openat,openat2"))
    assert opened.pop("f007.txt") == 1  # for its digest; what was read goes into the layer
    assert set(opened.values()) == {1}  # for the layer


@needs_strace
def test_files_are_asked_for_attributes_when_they_are_open(place: Place) -> None:
    for number in range(2):
        (place.src / "f007.txt").write_text(f"changed {number}\n")
        trace = place.traced("listxattr,llistxattr,flistxattr")
        assert not _by_file(trace)
        assert trace.count("flistxattr") == (1 if number else FILES)


@needs_strace
def test_files_of_a_context_are_opened_once_and_those_of_a_stage_twice(place: Place) -> None:
    place.dockerfile("FROM scratch AS a", "COPY src /src", "FROM scratch", "COPY --from=a /src /d")
    trace = place.traced("openat,openat2,newfstatat,listxattr,llistxattr")
    names = [
        name for line in trace.splitlines() if "O_CREAT" not in line for name in _by_file(line)
    ]
    # In the context: seen, read. In the stage: seen, hashed, copied.
    assert set(collections.Counter(names).values()) == {5}


@needs_strace
@pytest.mark.kernel
@pytest.mark.skipif(BUSYBOX is None or os.geteuid() != 0, reason="needs busybox, and root")
def test_each_run_step_starts_the_same_few_processes(place: Place) -> None:
    assert BUSYBOX is not None
    shutil.copy(BUSYBOX, place.context / "sh")
    counts = []
    for number, steps in enumerate((2, 6)):
        runs = [f"RUN : {number}.{step}" for step in range(steps)]
        place.dockerfile("FROM scratch", "COPY sh /bin/sh", *runs)
        trace = place.traced("clone,clone3,fork,vfork")
        made = re.findall(r"^\d+ +(?:<\.\.\. )?(?:clone3?|v?fork)\b.*= \d+$", trace, re.M)
        counts.append(sum("CLONE_THREAD" not in line for line in made))
    few, many = counts
    assert (many - few) / 4 <= 4, counts
