"""Programs that read a build get what happened, whole, and nothing that they could obey."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from buildgraph import events as ev
from buildgraph.cli.progress_gitlab import GitlabScreen
from buildgraph.cli.progress_plain import QuietScreen
from buildgraph.cli.readers import ReaderFiles, Readers, open_readers
from buildgraph.errors import BuildFailed, HostError, InputError, InputErrors, Location

EVIL = "\x1b]2;x\x07\r##[error]a\n::error::b\u202e\ud800]]>&<|`"
WHERE = Location("app/Dockerfile", 3, 1, 4, "RUN x")
FAILED = BuildFailed(
    f"exit code 1 {EVIL}",
    WHERE,
    "look",
    label="//app:image",
    log=("fine", EVIL, "````"),
    replay="r",
)
EVENTS = (
    ev.BuildStarted(0.0, ("//app:image",), 4, "/s"),
    ev.NodeFinished(0.1, 0, "//app:image", "FROM x", True, 9.0),
    ev.NodeStarted(0.1, 1, "//app:image", "RUN y", where=WHERE),
    ev.NodeOutput(0.2, 1, b"hello\n\x1b[0Ksection_end:1:buildgraph_1\r\x1b[0K\n"),
    ev.NodeFinished(1.5, 1, "//app:image", "RUN y", False, 1.4),
    ev.NodeStarted(1.5, 2, "//app:image", f"RUN {EVIL}", where=WHERE),
    ev.NodeFailed(2.0, 2, "//app:image", f"RUN {EVIL}", 0.5, FAILED),
    ev.NodeCancelled(2.0, 3, "//lib:image", "RUN z"),
    ev.ImageBuilt(2.0, "//lib:image", "sha256:1", "sha256:2", 1000, 1),
    ev.CheckFinished(2.0, "//app:smoke", "http", False, 0.1, ("no answer",), Location("B", 7)),
    ev.SmokeFinished(2.0, "//app:smoke", False, False, 1.0, 0, 1),
    ev.BuildFinished(2.0, False, 1, 1, 1, 1),
)
ERRORS = InputErrors([InputError("one", Location("Boxfile.yaml", 2)), InputError("two")])


def run(make: Callable[[], Readers], *, fail: bool = True) -> None:
    readers = make()
    for event in EVENTS:
        readers(event)
    readers.failed(FAILED)  # its node has told already
    if fail:
        readers.failed(ERRORS)
    readers.close()
    readers.finish()
    readers.finish()


def quiet() -> QuietScreen:
    return QuietScreen(io.StringIO(), {})


def test_events_are_whole_and_end(tmp_path: Path) -> None:
    file = tmp_path / "e"
    run(lambda: open_readers(quiet(), {}, io.StringIO(), ReaderFiles(events=str(file))))
    raw = file.read_bytes()
    assert not set(raw) - set(range(32, 127)) - {10}
    rows = [json.loads(line) for line in raw.splitlines()]
    assert rows[0]["event"] == "stream"
    assert rows[0]["version"] == 1
    assert rows[-1] == {"event": "stream_ended", "time": 2.0}
    assert [row["event"] for row in rows].count("node_failed") == 1
    (error,) = [row["error"] for row in rows if row["event"] == "error"]
    assert [one["message"] for one in error["errors"]] == ["one", "two"]


def test_events_need_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        open_readers(quiet(), {}, io.StringIO(), ReaderFiles(events="-"))
    with pytest.raises(HostError):
        open_readers(quiet(), {}, io.StringIO(), ReaderFiles(events=str(tmp_path / "no" / "e")))
    with pytest.raises(HostError):
        open_readers(quiet(), {}, io.StringIO(), ReaderFiles(junit=str(tmp_path / "no" / "e")))


def test_junit_has_a_suite_a_target_and_a_case_a_node(tmp_path: Path) -> None:
    file = tmp_path / "j.xml"
    run(lambda: open_readers(quiet(), {}, io.StringIO(), ReaderFiles(junit=str(file))))
    root = ElementTree.parse(file).getroot()
    suites = {suite.get("name"): suite for suite in root}
    assert set(suites) == {"//app:image", "//lib:image", "buildgraph"}
    app = suites["//app:image"]
    assert (app.get("tests"), app.get("failures"), app.get("skipped")) == ("3", "1", "0")
    times = [case.get("time") for case in app]
    assert times == ["0.000", "1.400", "0.500"]
    failed = app[2]
    assert (failed.get("file"), failed.get("line")) == ("app/Dockerfile", "3")
    failure = failed.find("failure")
    assert failure is not None
    assert "fine\n^[]2;x^G" in (failure.text or "")
    assert suites["//lib:image"].get("skipped") == "1"
    assert [case.find("error") is not None for case in suites["buildgraph"]] == [True, True]


def test_github_gets_annotations_and_a_summary(tmp_path: Path) -> None:
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / "Boxfile.yaml").write_text("workspace: {name: w}\n")
    summary = tmp_path / "s.md"
    summary.write_text("before\n")
    env = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_WORKSPACE": str(tmp_path),
        "GITHUB_STEP_SUMMARY": str(summary),
    }
    err = io.StringIO()
    run(lambda: open_readers(quiet(), env, err, cwd=str(tmp_path / "ws")))
    lines = err.getvalue().splitlines()
    assert all(re.match("::(error|warning) ", line) for line in lines)
    assert lines[0].startswith("::error file=ws/app/Dockerfile,line=3,col=1,endColumn=4,title=")
    assert "%0A" in lines[0]
    assert "##[" not in lines[0]
    assert "\x1b" not in err.getvalue()
    assert "::error file=ws/B,line=7,title=//app%3Asmoke http::no answer" in lines
    assert "::error file=ws/Boxfile.yaml,line=2,title=buildgraph::one" in lines
    text = summary.read_text()
    assert text.startswith("before\n### buildgraph ❌: failed 1, built 1, cached 1, cancelled 1")
    assert "| //lib:image | `sha256:1` | 1.0 kB |" in text
    assert "`````text" in text, "a fence longer than any in the log"
    assert "| //app:smoke | FAILED | 0 of 1 |" in text


def test_gitlab_has_a_section_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    screen = GitlabScreen(out, {})
    for event in EVENTS:
        screen(event)
    screen.close()
    text = out.getvalue()
    starts = re.findall(r"\x1b\[0Ksection_start:\d+:(\w+)(\[collapsed=true\])?\r\x1b\[0K(.*)", text)
    ends = re.findall(r"\x1b\[0Ksection_end:\d+:(\w+)\r", text)
    assert starts == [("buildgraph_1", "[collapsed=true]", "//app:image RUN y")]
    assert ends == ["buildgraph_1"], "a step cannot end a section of ours"
    inside = text[text.index("section_start") : text.rindex("section_end")]
    assert "#1 0.1 hello" in inside
    assert "DONE" in text[text.rindex("section_end") :]
    assert not re.search(r"^\s*::", text, re.MULTILINE)


def test_gitlab_shows_long_output_in_parts() -> None:
    out = io.StringIO()
    screen = GitlabScreen(out, {})
    screen(EVENTS[2])
    for number in range(30):
        screen(ev.NodeOutput(0.2, 1, b"x" * 1000 * 100 + b"\n"))
        screen(ev.NodeOutput(0.2, 1, (f"{number}\n" * 5000).encode()))
    screen(EVENTS[4])
    screen.close()
    text = out.getvalue()
    assert text.count("section_start") == text.count("section_end") > 1


def test_a_disk_that_is_full_from_the_start_is_said() -> None:
    with pytest.raises(HostError, match="cannot write /dev/full"):
        open_readers(
            QuietScreen(io.StringIO(), {}), {}, io.StringIO(), ReaderFiles(events="/dev/full")
        )
