"""A page about a build holds what happened, and nothing in it that a browser would obey."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from buildgraph import events as ev
from buildgraph.cli import report_data
from buildgraph.cli.console import render_error
from buildgraph.cli.course import Course
from buildgraph.cli.progress_json import JsonScreen
from buildgraph.cli.progress_plain import QuietScreen
from buildgraph.cli.readers import ReaderFiles, open_readers
from buildgraph.cli.report_page import page
from buildgraph.errors import BuildgraphError, HostError, InputError, InputErrors, Location
from unit.cli import recorded

Story = Callable[[], Iterator[ev.Event]]


class Seen(HTMLParser):
    """The elements of a page, and what can be read in it outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._in = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in != "style":
            self.text += data

    def ids(self) -> list[str]:
        return [attrs["id"] or "" for _, attrs in self.tags if "id" in attrs]

    def data(self) -> dict[str, Any]:
        (found,) = [
            s
            for s, (_, a) in zip(
                self.scripts, [t for t in self.tags if t[0] == "script"], strict=True
            )
            if a.get("id") == "report"
        ]
        return dict(json.loads(found))


def told(story: Story, *errors: BuildgraphError, command: str = "buildgraph build //app") -> Seen:
    course = Course(command, 0.0)
    for event in story():
        course(event)
    for error in errors:
        course.failed(error)
    text = "".join(page(course))
    text.encode()  # no lone surrogate is left
    seen = Seen(text)
    scripts = [attrs for tag, attrs in seen.tags if tag == "script"]
    assert [a.get("id") for a in scripts if a.get("type")] in (["data", "report"], ["report"])
    assert all(not a for a in scripts if not a.get("type"))
    assert not [a for _, a in seen.tags if {"src", "href"} & a.keys()], "nothing to fetch"
    assert not [n for _, a in seen.tags for n in a if n.startswith("on")], "nothing that runs"
    ids = seen.ids()
    assert len(ids) == len(set(ids))
    assert "\x1b" not in text
    assert "\u202e" not in text
    data = seen.data()
    lanes: dict[int, list[tuple[float, float]]] = {}
    for span in data["spans"]:
        lanes.setdefault(span[0], []).append((span[1], span[2]))
    for lane in lanes.values():
        assert all(one[1] <= two[0] for one, two in pairwise(lane)), "none overlap"
    return seen


def verdicts(seen: Seen) -> dict[int, str]:
    return {row[0]: report_data.VERDICTS[row[5]] for row in seen.data()["steps"]}


def test_a_good_build() -> None:
    seen = told(recorded.good)
    assert verdicts(seen) == {0: "hit", 1: "built", 2: "built", 3: "built"}
    for text in ("Everything is there", "sha256:" + "d" * 64, "1.3 kB", "no pin", "Boxfile.yaml:3"):
        assert text in seen.text
    assert "The longest way: 2.8 s" in seen.text
    assert seen.data()["critical"] == [1, 3]
    assert seen.data()["lanes"] == [
        "deciding",
        "worker 1",
        "worker 2",
        "phases of worker 2",
        "//app:smoke app",
        "//app:smoke checks",
        "//app:smoke db",
    ]
    assert re.search(r"passed\s+//app:smoke", seen.text)


def test_a_failure_comes_with_its_log_and_how_to_go_on() -> None:
    seen = told(recorded.failing)
    assert verdicts(seen) == {0: "hit", 1: "built", 2: "built", 3: "failed", 4: "skipped"}
    assert "</script><script>alert(1)</script><!--red" in seen.text, "as text"
    assert "tail" in seen.text
    assert "only the last" not in seen.text, "the log has more"
    assert "buildgraph replay 0123456789ab" in seen.text
    assert "buildgraph shell //app:image@2" in seen.text
    assert "hint: look" in seen.text
    assert "f-3" in seen.ids()
    (row,) = [row for row in seen.data()["steps"] if row[0] == 4]
    assert row[12] == ["a step it stands on failed"]


def test_shell_is_not_named_where_it_would_make_another_graph() -> None:
    for flag in ("--build-arg A=1", "-f x", "--target=a", "https://example.com/x.git"):
        seen = told(recorded.failing, command=f"buildgraph build {flag} //app")
        assert "buildgraph shell" not in seen.text, flag
    assert "buildgraph shell" in told(recorded.failing, command="buildgraph build -k //app").text


def test_a_failed_test_shows_its_checks() -> None:
    def story() -> Iterator[ev.Event]:
        yield from recorded.opening()
        yield from recorded.tested(ok=False)
        yield ev.BuildFinished(5.0, True, 1, 1, 0, 0)

    seen = told(story)
    assert "It failed" in seen.text
    assert "no answer </script>" in seen.text
    assert "buildgraph logs //app:smoke" in seen.text


def test_an_interrupted_build_and_one_that_never_was() -> None:
    seen = told(recorded.interrupted)
    assert verdicts(seen) == {0: "hit", 1: "built", 2: "stopped", 3: "stopped", 4: "skipped"}
    assert "It was interrupted" in seen.text
    error = InputErrors([InputError("one </b>", Location("B", 2, 1, 3, "text")), InputError("two")])
    seen = told(lambda: iter(()), error)
    assert "one </b>" in seen.text
    assert "2 errors" in seen.text
    assert "Nothing came as far" in seen.text


def test_of_very_many_steps_those_that_matter_are_shown() -> None:
    many = report_data.ROWS + 500

    def story() -> Iterator[ev.Event]:
        yield ev.BuildStarted(0.0, ("//a",), many, "/s", 2)
        for n in range(many - 1):
            yield ev.NodeFinished(1.0, n, f"//p{n // 100}", "RUN x", True, 1.0, began=1.0)
        yield ev.NodeFailed(1.0, many - 1, "//p", "RUN y", 1.0, HostError("no"), worker=0, began=0)

    seen = told(story)
    steps = seen.data()["steps"]
    assert len(steps) == report_data.ROWS
    assert steps[-1][0] == many - 1
    assert seen.data()["nodes"] == many
    assert "500 more are not listed" in seen.text
    assert f"{many:,} steps are more than a page can draw" in seen.text


def test_a_line_of_a_dockerfile_shows_no_login() -> None:
    line = "ADD https://me:secret@example.com/x /"
    where = Location("Dockerfile", 2, 5, 38, line)
    text = render_error(InputError("no", where))
    assert "secret" not in text
    event = ev.NodeFinished(0.0, 0, "//a", "ADD", True, 0.0, where=where)
    out = io.StringIO()
    screen = JsonScreen(out)
    screen(event)
    screen(ev.NodeFailed(0.0, 0, "//a", "ADD", 0.0, InputError("no", where)))
    screen.close()
    assert "secret" not in out.getvalue()
    assert "https://*********@example.com" in out.getvalue()


def test_nothing_of_it_is_loaded_unasked() -> None:
    code = "import sys, buildgraph.cli.build, buildgraph.cli.test; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.removeprefix("buildgraph.cli.") for name in done.stdout.split()}
    assert "readers" in loaded
    assert not {name for name in loaded if name.startswith(("report_", "course"))}
    assert "buildgraph.graph.picture" not in loaded


def test_a_page_needs_a_file() -> None:
    for files in (ReaderFiles(report="-"), ReaderFiles(profile="-")):
        with pytest.raises(InputError, match="give a file"):
            open_readers(QuietScreen(io.StringIO(), {}), {}, io.StringIO(), files)


def test_a_reader_writes_the_page_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    files = ReaderFiles(report=str(path))
    readers = open_readers(QuietScreen(io.StringIO(), {}), {}, io.StringIO(), files)
    assert readers.want_findings
    for event in recorded.good():
        readers(event)
    readers.tests([])
    readers.findings([])
    assert not path.exists()
    readers.close()
    readers.finish()
    assert Seen(path.read_text()).data()["nodes"] == 4
    assert os.listdir(tmp_path) == ["r.html"]
