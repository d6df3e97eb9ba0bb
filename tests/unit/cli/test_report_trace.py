"""A trace says who did what when, whole, whatever became of the build."""

from __future__ import annotations

import io
import itertools
import json
import os
import stat
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from buildgraph import events as ev
from buildgraph.cli.course import Course, busiest, command_line
from buildgraph.cli.progress_plain import QuietScreen
from buildgraph.cli.readers import ReaderFiles, open_readers
from buildgraph.cli.report_trace import trace
from buildgraph.cli.textfile import check_writable, replace_text
from buildgraph.errors import BuildgraphError, HostError, InputError, Interrupted
from unit.cli import recorded

Story = Callable[[], Iterator[ev.Event]]


def told(story: Story, *errors: BuildgraphError) -> Course:
    course = Course("buildgraph build", 0.0)
    for event in story():
        course(event)
    for error in errors:
        course.failed(error)
    return course


def traced(story: Story, *errors: BuildgraphError) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    text = "".join(trace(told(story, *errors)))
    assert text.isascii()
    value = json.loads(text)
    assert value["displayTimeUnit"] == "ms"
    rows = value["traceEvents"]
    times = [row["ts"] for row in rows if row["ph"] != "M"]
    assert times == sorted(times)
    assert all(isinstance(time, int) and time >= 0 for time in times)
    tracks: dict[int, list[tuple[int, int]]] = defaultdict(list)
    named = {row["tid"] for row in rows if row["name"] == "thread_name"}
    for row in rows:
        if row["ph"] == "X":
            assert row["dur"] >= 0
            tracks[row["tid"]].append((row["ts"], row["ts"] + row["dur"]))
    for track in tracks.values():
        assert all(one[1] <= two[0] for one, two in itertools.pairwise(track)), "none overlap"
    assert tracks.keys() <= named
    for begin, end in (("s", "f"), ("b", "e")):
        ids = [[row["id"] for row in rows if row["ph"] == phase] for phase in (begin, end)]
        assert sorted(ids[0]) == sorted(ids[1])
        assert len(set(ids[0])) == len(ids[0])
    counts = [row["args"]["workers"] for row in rows if row["ph"] == "C"]
    assert counts[-1] == 0
    assert max(counts) == 2
    return rows, value["otherData"]


def steps(rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {row["args"]["node"]: row for row in rows if row["ph"] == "X" and "node" in row["args"]}


def test_a_good_build() -> None:
    rows, about = traced(recorded.good)
    assert about["outcome"] == "passed"
    found = steps(rows)
    assert {n: row["args"]["verdict"] for n, row in found.items()} == {
        0: "hit",
        1: "built",
        2: "built",
        3: "built",
    }
    assert {n: row["tid"] for n, row in found.items()} == {0: 0, 1: 1, 2: 2, 3: 1}
    copied = found[1]
    assert (copied["ts"], copied["dur"]) == (600_000, 1_000_000)
    assert copied["args"] == {
        "node": 1,
        "target": "//app:image",
        "verdict": "built",
        "where": "app/Dockerfile:2",
        "stage": "build",
        "key": "0123456789ab",
        "because": ["file a.c: x -> y", "and 3 more"],
        "bytes": 2000,
        "before_it_ran_ms": 200.0,
    }
    arrows = [(row["ph"], row["id"], row["tid"]) for row in rows if row["ph"] in "sf"]
    assert arrows == [("s", "3.0", 1), ("f", "3.0", 1)]
    phases = {row["name"]: row for row in rows if row["ph"] == "b" and row["cat"] == "phase"}
    assert set(phases) == {"fetch x", "configuring"}
    ends = {row["name"]: row["ts"] for row in rows if row["ph"] == "e"}
    assert ends["fetch x"] == 1_000_000
    assert ends["configuring"] == 2_600_000, "it goes on until its step ends"
    services = [row["name"] for row in rows if row["ph"] == "b" and row["cat"] != "phase"]
    assert services == ["db", "app"]
    checks = [(row["name"], row["tid"]) for row in rows if row.get("cat") == "check"]
    assert checks == [("http", 10_000), ("exec", 10_000)]


def test_a_build_that_fails() -> None:
    rows, about = traced(recorded.failing)
    assert about["outcome"] == "failed"
    assert len(about["errors"]) == 1
    found = steps(rows)
    assert found[3]["args"]["verdict"] == "failed"
    assert found[3]["dur"] == 600_000
    assert 4 not in found, "it took no time"


def test_a_build_that_is_interrupted() -> None:
    rows, about = traced(recorded.interrupted, Interrupted("interrupted"))
    assert about["outcome"] == "interrupted"
    found = steps(rows)
    assert {n: found[n]["args"]["verdict"] for n in (2, 3)} == {2: "stopped", 3: "stopped"}
    assert found[2]["ts"] + found[2]["dur"] == 2_300_000, "nobody said how it ended"


def test_a_command_that_never_builds() -> None:
    course = told(lambda: iter(()), InputError("no"))
    value = json.loads("".join(trace(course)))
    assert value["otherData"]["outcome"] == "failed"
    assert [row["ph"] for row in value["traceEvents"]].count("X") == 1


def test_the_way_that_took_longest_leads_over_hits() -> None:
    course = told(recorded.good)
    assert busiest(course.steps()) == [1, 3]


def test_a_failed_delivery_ends_when_it_failed() -> None:
    course = told(recorded.good)
    error = HostError("no disk")
    course(ev.NodeFailed(6.0, 6, "//app:image", "image", 0.1, error, worker=0, began=4.9))
    assert course.step(6).ended == 5.0
    assert [(step and step.node, found) for step, found in course.failures()] == [(6, error)]


def test_logs_are_kept_of_what_failed_alone_and_in_bounds() -> None:
    course = told(recorded.failing)
    for _ in range(100):
        course(ev.NodeOutput(2.0, 9, b"x" * 100_000 + b"\n"))
    assert sum(map(len, course._logs[9])) <= 400_000
    assert 2 not in course._logs
    lines = course.log(3)
    assert lines[0] == "one"
    assert lines[-1] == "tail"
    assert "\x1b" not in "".join(lines)


def test_the_command_line_shows_no_login() -> None:
    assert command_line(["build", "https://me:pw@example.com/x.git", "a b"]) == (
        "buildgraph build https://example.com/x.git 'a b'"
    )


# -- the file ----------------------------------------------------------------------------


def test_the_file_is_written_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    files = ReaderFiles(profile=str(path))
    readers = open_readers(QuietScreen(io.StringIO(), {}), {}, io.StringIO(), files)
    for event in recorded.good():
        readers(event)
    assert not path.exists()
    readers.close()
    readers.finish()
    assert len(steps(json.loads(path.read_text())["traceEvents"])) == 4
    assert os.listdir(tmp_path) == ["t.json"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path, link = tmp_path / "f", tmp_path / "link"
    path.write_text("old")
    link.symlink_to("f")

    def breaks() -> Iterator[str]:
        yield "new"
        raise KeyError

    with pytest.raises(KeyError):
        replace_text(str(link), breaks())
    assert path.read_text() == "old"
    replace_text(str(link), ["a", "\udc80"])
    assert path.read_text() == "a\\udc80"
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["f", "link"]
    old = os.umask(0o027)
    try:
        replace_text(str(tmp_path / "new"), ["x"])
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_a_pipe_is_written_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(path.read_text()))
    reader.start()
    replace_text(str(path), ["x"])
    reader.join()
    assert read == ["x"]
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_what_cannot_be_written_is_said_before_the_build(tmp_path: Path) -> None:
    for path in (tmp_path / "no" / "f", tmp_path):
        with pytest.raises(HostError, match="cannot write"):
            check_writable(str(path))
    check_writable(str(tmp_path / "f"))
    assert os.listdir(tmp_path) == []
    with pytest.raises(HostError, match="cannot write /dev/full"):
        replace_text("/dev/full", ["x"])
