"""Looks at what is written about a build when it is over: the trace as a program reads it, the page
in a real browser where there is one.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.building import BOTH, Bench
from e2e.chromium import PROGRAM, Page, browser
from e2e.smoking import WEB, smoke

needs_browser = pytest.mark.skipif(PROGRAM is None, reason="machine: chromium is not installed")
EVIL = "</script><script>alert(1)</script>"
FILE = """\
FROM base AS left
RUN sleep 0.3; echo left > /left
FROM base AS right
COPY f /f
RUN sleep 0.2; cat /f > /right
FROM base
COPY --from=left /left /
COPY --from=right /right /
RUN echo joined
"""
WRONG = f"RUN printf '\\033[31mred\\033[0m {EVIL}\\n'; exit 3\nRUN echo never\n"


def traced(who: Bench, name: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Check what holds for every trace; returns its steps by title, and what it says of itself."""
    value = json.loads(who.workspace.read(name))
    rows = value["traceEvents"]
    times = [row["ts"] for row in rows if row["ph"] != "M"]
    assert times == sorted(times)
    tracks: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["ph"] == "X":
            tracks[row["tid"]].append(row)
    for track in tracks.values():
        for one, two in itertools.pairwise(track):
            assert one["ts"] + one["dur"] <= two["ts"], (one, two)
    named = {row["tid"] for row in rows if row["name"] == "thread_name"}
    assert tracks.keys() <= named
    steps = [row for track in tracks.values() for row in track if "node" in row["args"]]
    assert len({row["args"]["node"] for row in steps}) == len(steps), "each node once"
    return {row["name"]: row for row in steps}, value["otherData"]


@BOTH
def test_a_trace_says_who_did_what_when(who: Bench) -> None:
    directory = who.directory({"f": f"{who.user}\n"}, FILE)
    words = ["build", *who.base([directory]), directory, "-j", "2", "--profile", "t.json"]
    begun = time.monotonic()
    who.run(*words)
    whole = (time.monotonic() - begun) * 1e6
    steps, about = traced(who, "t.json")
    assert about["outcome"] == "passed"
    assert {row["args"]["verdict"] for row in steps.values()} == {"built", "hit"}
    left, right = (next(r for n, r in steps.items() if f"sleep {s}" in n) for s in ("0.3", "0.2"))
    assert left["dur"] >= 300_000
    assert right["dur"] >= 200_000
    assert {left["tid"], right["tid"]} == {1, 2}, "side by side"
    busy = sum(row["dur"] for row in steps.values())
    assert 500_000 <= busy <= 2 * whole
    assert right["args"]["where"] == f"{directory}/Dockerfile:5:1"
    assert right["args"]["because"] == ["not built here before"]
    assert len(right["args"]["key"]) == 12
    who.workspace.write(f"{directory}/f", "changed\n")
    who.run(*words)
    steps, _ = traced(who, "t.json")
    verdicts = {name.split(" ")[0]: row["args"]["verdict"] for name, row in steps.items()}
    assert verdicts["FROM"] == "hit"
    copied = next(row for name, row in steps.items() if name == "COPY f /f")
    assert copied["args"]["because"][0].startswith("file f: sha256:")


@BOTH
def test_an_interrupted_build_leaves_a_whole_trace_and_page(who: Bench) -> None:
    directory = who.directory({}, "FROM base\nRUN sleep 60\nRUN echo never\n")
    words = ["build", *who.base([directory]), directory, "--progress", "plain"]
    process = who.workspace.start(
        *words, "--profile", "i.json", "--report", "i.html", user=who.user, stdout=None
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "RUN sleep" in line:
            break
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    steps, about = traced(who, "i.json")
    assert about["outcome"] == "interrupted"
    assert steps["RUN sleep 60"]["args"]["verdict"] == "stopped"
    assert "It was interrupted" in who.workspace.read("i.html")


def test_nothing_is_written_where_nothing_is_built(who: Bench) -> None:
    directory = who.directory({}, "FROM scratch\n")
    said = who.run("build", directory, "--report", "x.html", "--check", expect=2).stderr
    assert "--report tells of a build" in said
    assert not who.workspace.path("x.html").exists()
    said = who.run("build", directory, "--profile", "no/x.json", expect=3).stderr
    assert "cannot write no/x.json: No such file or directory" in said


def test_a_step_without_a_key_is_told_of_as_one_that_failed(who: Bench) -> None:
    directory = who.directory({}, "FROM scratch\nCOPY missing /\nCOPY Dockerfile /\n")
    words = ["--events", "m.jsonl", "--profile", "m.json", "--report", "m.html"]
    said = who.run("build", directory, *words, expect=2).stderr
    assert said.count("'missing' not found") == 1
    steps, about = traced(who, "m.json")
    assert steps["COPY missing /"]["args"]["verdict"] == "failed"
    assert len(about["errors"]) == 1
    rows = [json.loads(line) for line in who.workspace.read("m.jsonl").splitlines()]
    assert [row["event"] for row in rows].count("node_failed") == 1
    assert "a step it stands on failed" in who.workspace.read("m.html")


@pytest.fixture(scope="module")
def browsed() -> Iterator[Page]:
    with browser() as opened:
        yield opened


def shown(page: Page, name: str) -> bool:
    """Open a part of the page and say whether it is the one that can be seen."""
    page.ask(f"document.getElementById('tab-{name}').click()")
    visible = "[...document.querySelectorAll('.panel')].filter(e=>getComputedStyle(e).visibility==="
    return bool(page.ask(f"{visible}'visible').map(e=>e.id).join()") == f"p-{name}")


def wait_for(page: Page, script: str) -> None:
    """Wait until an expression is true."""
    deadline = time.monotonic() + 5
    while not page.ask(script):
        assert time.monotonic() < deadline, script


def shoot(page: Page, name: str) -> None:
    if shots := os.environ.get("BUILDGRAPH_SCREENSHOTS"):
        page.screenshot(Path(shots) / f"report-{name}.png")


@pytest.fixture(scope="module")
def failed_page(root_bench: Bench) -> Path:
    """Return the page about a build that fails."""
    directory = root_bench.directory({"f": "page\n"}, FILE + WRONG)
    words = [*root_bench.base([directory]), directory, "--report", "failed.html"]
    root_bench.run("build", *words, expect=1)
    return root_bench.workspace.path("failed.html")


@needs_browser
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (400, 800)])
def test_the_page_shows_searches_and_zooms(
    failed_page: Path, browsed: Page, width: int, height: int
) -> None:
    page = browsed
    page.complaints.clear()
    page._session = ""
    page.open(failed_page, width, height)
    for name in ("summary", "timeline", "graph", "steps"):
        assert shown(page, name)
        assert page.ask("document.documentElement.scrollWidth") <= width
        assert page.ask("document.querySelector('.panel.on').scrollWidth") <= width
        shoot(page, f"{name}-{width}")
    summary = page.ask("document.getElementById('p-summary').textContent")
    assert f"red {EVIL}" in summary
    assert "buildgraph replay " in summary
    assert page.ask("document.querySelectorAll('.lane').length") >= 3
    assert page.ask("document.querySelectorAll('#g-step .b.failed').length") == 1
    assert page.ask("document.querySelector('#rows .chip').textContent") == "failed"
    # one search for all parts
    page.ask("q.value='never';q.dispatchEvent(new Event('input'))")
    assert page.ask("document.getElementById('found').textContent").startswith("1 of ")
    assert page.ask("document.querySelectorAll('#rows tr.s').length") == 1
    assert "a step it stands on failed" in page.ask("document.getElementById('rows').textContent")
    wait_for(page, "document.querySelectorAll('.sp:not(.dim)').length===0")
    page.ask("document.querySelector('#rows .t').click()")
    assert "stands on" in page.ask("document.getElementById('rows').textContent")
    page.ask("q.value='';q.dispatchEvent(new Event('input'))")
    # the timeline by mouse and by keyboard
    assert shown(page, "timeline")
    wait_for(page, "document.querySelectorAll('.sp.failed').length===1")
    before = page.ask("document.getElementById('axis').textContent")
    x, y = page.ask(
        "(r=>[r.x+r.width/2,r.y+r.height/2])"
        "(document.querySelector('.sp.failed').getBoundingClientRect())"
    )
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    wait_for(page, "document.getElementById('tip').textContent.includes('printf')")
    page.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-600)
    wait_for(page, f"document.getElementById('axis').textContent!=={json.dumps(before)}")
    page.ask("document.getElementById('tl').focus()")
    for key in ("0", "ArrowRight", "ArrowDown", "+", "Enter"):
        page.call("Input.dispatchKeyEvent", type="keyDown", key=key)
    wait_for(page, "document.querySelectorAll('.sp.cur').length===1")
    assert page.ask("document.getElementById('tip').textContent")
    shoot(page, f"chosen-{width}")
    assert page.complaints == []


@needs_browser
@pytest.mark.kernel
def test_the_page_of_a_failed_test(root_bench: Bench, browsed: Page) -> None:
    check = "  - exec: {in: web, run: [cat, /nothing]}\n"
    made = smoke(root_bench, WEB + "checks:\n" + check)
    made.run("--report", "smoke.html", "--profile", "smoke.json", expect=1)
    _, about = traced(root_bench, "smoke.json")
    assert about["outcome"] == "failed"
    browsed.complaints.clear()
    browsed._session = ""
    browsed.open(root_bench.workspace.path("smoke.html"), 1280, 800)
    text = browsed.ask("document.getElementById('p-summary').textContent")
    assert "can't open '/nothing'" in text
    assert f"buildgraph test {made.label} --keep" in text
    wait_for(browsed, "document.querySelectorAll('.sp.failed').length>=2")
    assert browsed.complaints == []
