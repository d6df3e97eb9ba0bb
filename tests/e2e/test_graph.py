"""Looks at the pictures of a workspace: as files, and the page in a real browser where there is one."""

from __future__ import annotations

import os
import xml.dom.minidom
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.chromium import PROGRAM, Page, browser
from e2e.harness import Workspace
from e2e.project import Project

needs_browser = pytest.mark.skipif(PROGRAM is None, reason="machine: chromium is not installed")


@pytest.fixture
def project(workspace: Workspace) -> Project:
    made = Project(workspace)
    made.build()
    made.write("app/app.txt", "another\n")
    return made


def test_svg_shows_what_a_build_would_do(project: Project) -> None:
    drawn = project.run("graph", "//app", "--output", "svg", "--level", "step").stdout
    document = xml.dom.minidom.parseString(drawn)
    classes = [g.getAttribute("class") for g in document.getElementsByTagName("g")]
    counts = {word: sum(word in c.split() for c in classes) for word in ("hit", "build", "depends")}
    assert counts == {"hit": 2, "build": 1, "depends": 1}
    targets = project.run("graph", "--output", "dot").stdout
    assert '"//app:image" -> "//lib:image";' in targets


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser() as opened:
        yield opened


@needs_browser
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (400, 800)])
def test_the_page_draws_searches_and_zooms_in_a_browser(
    project: Project, page: Page, width: int, height: int, tmp_path: Path
) -> None:
    file = tmp_path / "graph.html"
    project.run("graph", "--file", str(file))
    assert file.stat().st_size < 200_000
    page.complaints.clear()
    page._session = ""
    page.open(file, width, height)
    visible = "getComputedStyle(document.getElementById('g-{}')).display!=='none'"
    assert page.ask(visible.format("target"))
    assert page.ask("document.querySelectorAll('#g-target .b').length") == 4
    assert page.ask("document.documentElement.scrollWidth") <= width
    page.ask("document.getElementById('t-step').click()")
    assert page.ask(visible.format("step"))
    assert not page.ask(visible.format("target"))
    page.ask("q.value='copy app.txt';q.dispatchEvent(new Event('input'))")
    assert page.ask("document.getElementById('n').textContent") == "1 found"
    assert page.ask("document.querySelectorAll('#g-step .b.f').length") == 1
    page.ask("q.value='';q.dispatchEvent(new Event('input'))")
    page.ask("document.getElementById('t-target').click()")
    page.ask("document.getElementById('fit').click()")
    place = page.ask(
        "(r=>[r.x+r.width/2,r.y+r.height/2])"
        "(document.querySelector('#g-target .b rect').getBoundingClientRect())"
    )
    page.click(*place)
    assert page.ask("!document.getElementById('info').hidden")
    assert page.ask("document.querySelector('#info h2').textContent").startswith("//")
    before = page.ask("v.getAttribute('viewBox')")
    page.call(
        "Input.dispatchMouseEvent", type="mouseWheel", x=width / 2, y=500, deltaX=0, deltaY=-240
    )
    for _ in range(200):
        if page.ask("v.getAttribute('viewBox')") != before:
            break
    assert page.ask("v.getAttribute('viewBox')") != before
    if shots := os.environ.get("BUILDGRAPH_SCREENSHOTS"):
        page.screenshot(Path(shots) / f"graph-{width}.png")
    assert page.complaints == []


@needs_browser
def test_the_names_of_a_matrix_fit_into_their_boxes(
    workspace: Workspace, page: Page, tmp_path: Path
) -> None:
    names = ("gateway", "catalog", "monitoring", "MAXIMUM", "commands-for-www")
    workspace.write("Boxfile.yaml", "workspace:\n")
    workspace.write("examples/monorepo/Dockerfile", "FROM scratch\n")
    workspace.write(
        "examples/monorepo/Boxfile.yaml",
        f"targets: {{image: {{}}, push: {{matrix: {{name: [{', '.join(names)}]}}}}}}\n",
    )
    file = tmp_path / "graph.html"
    workspace.run("graph", "--file", str(file))
    page._session = ""
    page.open(file, 1280, 800)
    room = page.ask(
        "Math.min(...[...document.querySelectorAll('#g-target .b')].flatMap((box) => {"
        " const edge = box.querySelector('rect').getBBox();"
        " return [...box.querySelectorAll('text')].map((text) => { const own = text.getBBox();"
        " return edge.x + edge.width - own.x - own.width; }); }))"
    )
    assert room >= 0
