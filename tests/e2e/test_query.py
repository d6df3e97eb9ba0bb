"""Asks real workspaces: targets, their steps, and the exact files they read."""

from __future__ import annotations

import json
import os

import pytest

from e2e.harness import Workspace
from e2e.project import Project


@pytest.fixture
def project(workspace: Workspace) -> Project:
    return Project(workspace)


def test_targets_answer_in_the_order_they_are_built(project: Project) -> None:
    assert project.run("query", "deps(//app)").stdout == "//lib:image\n//app:image\n"
    assert project.run("query", "rdeps(//..., lib, 1)", "--output", "label_kind").stdout == (
        "image rule //lib:image\nimage rule //alone:image\nimage rule //app:image\n"
        "image rule //tool:image\n"
    )
    (row,) = json.loads(project.run("query", "//tool", "--output", "json").stdout)
    assert row["needs"] == ["//lib:image"]
    assert row["attributes"]["contexts"][1] == "lib=//lib:image"
    drawn = project.run("query", "deps(//app)", "--output", "mermaid").stdout
    assert drawn.splitlines()[-1].strip() == "n1 --> n0"
    said = project.run("query", "deps(//app, many)", expect=2).stderr
    assert "--> query:1:13" in said
    assert "^^^^" in said


def test_inputs_are_the_exact_files(project: Project, workspace: Workspace) -> None:
    workspace.write("lib/.dockerignore", "src/b\n")
    workspace.write("lib/other", "not copied\n")
    os.symlink("a", workspace.path("lib/src/link"))
    inputs = project.run("query", "deps(//app)", "--output", "inputs").stdout.splitlines()
    layout = [path for path in inputs if path.startswith("busybox/")]
    assert "busybox/index.json" in layout
    assert [path for path in inputs if path not in layout] == [
        "Boxfile.yaml",
        "app/Boxfile.yaml",
        "app/Dockerfile",
        "app/app.txt",
        "lib/.dockerignore",
        "lib/Boxfile.yaml",
        "lib/Dockerfile",
        "lib/src/a",
        "lib/src/link",
    ]


def test_steps_answer_by_slot_stage_and_kind(project: Project) -> None:
    def ask(text: str) -> list[str]:
        return project.run("query", "--nodes", text).stdout.splitlines()

    (run,) = ask("kind(run, //app)")
    assert run.startswith("//app:image linux/")
    assert run.endswith(" 0/run0")
    assert ask("'//app:image 0/run0'") == [run]
    assert len(ask("deps(//app)")) == 5  # two of each, and the image they stand on
    assert ask("attr(title, 'sort', deps(//app))") == ask("'//lib 0/run0'")
    assert project.run("query", "--nodes", "'//app 0/run9'", expect=2).stderr.startswith(
        "error: there is no step"
    )
