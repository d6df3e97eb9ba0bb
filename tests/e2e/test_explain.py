"""Knows that the program can say which thing changed, with its old and new value; must not know
how it finds out.
"""

from __future__ import annotations

import json

import pytest

from e2e.harness import Workspace
from e2e.project import STEPS, Project


@pytest.fixture
def project(workspace: Workspace) -> Project:
    made = Project(workspace)
    made.build()
    return made


def reasons(project: Project, target: str = "//app") -> dict[str, list[dict[str, str]]]:
    """Return what `plan` says, by title, of steps that would be built."""
    rows = map(json.loads, project.run("plan", "--json", target).stdout.splitlines())
    return {row["title"]: row["reasons"] for row in rows if row["verdict"] == "build"}


def test_a_changed_byte_names_its_file_with_old_and_new(project: Project) -> None:
    project.write("lib/src/a", "1\n9\n")
    (reason,) = reasons(project)[STEPS["sources"]]
    assert reason["what"] == "file a"
    assert reason["old"].startswith("sha256:")
    assert reason["new"].startswith("sha256:")
    assert reason["old"] != reason["new"]
    said = project.run("explain", "//app").stdout
    assert f"file a: {reason['old']} -> {reason['new']}" in said
    assert "lib/Dockerfile:2" in said
    assert "depends on a step above" in said
    before = project.run("plan", "//app").stdout
    assert "file a: " in before
    project.build()
    after = project.run("explain", "//app").stdout
    assert "nothing would be rebuilt" in after
    assert f"file a: {reason['old']} -> {reason['new']}" in after


def test_files_that_come_go_and_change_their_mode(project: Project, workspace: Workspace) -> None:
    project.write("lib/src/new", "n")
    workspace.path("lib/src/a").unlink()
    workspace.path("lib/src/b").chmod(0o600)
    found = {r["what"]: (r["old"], r["new"]) for r in reasons(project)[STEPS["sources"]]}
    assert found["file a"][1] == ""
    assert found["file new"][0] == ""
    assert found["file b"] == ("file 644", "file 600")


CHANGES = {
    "the command": ("RUN sort /lib/src/a /lib/src/b >/lib/out; true", "sort", "true"),
    "variable V": (f"ENV V=1\n{STEPS['sort']}", "", "1"),
    "the user": (f"USER 0:0\n{STEPS['sort']}", "", "0:0"),
    "the network mode": (STEPS["sort"].replace("RUN", "RUN --network=none"), "default", "none"),
    "a mount": (STEPS["sort"].replace("RUN", "RUN --mount=type=tmpfs,target=/t"), "", "/t"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_other_things_that_change(project: Project, what: str) -> None:
    line, old, new = CHANGES[what]
    project.write("lib/Dockerfile", f"FROM base\n{STEPS['sources']}\n{line}\n")
    found = [r for rs in reasons(project, "//lib").values() for r in rs if r["what"] == what]
    assert found, reasons(project, "//lib")
    assert old in found[0]["old"]
    assert new in found[0]["new"]


def test_a_reason_that_only_the_build_can_know_is_kept(project: Project) -> None:
    lines = ["FROM base", STEPS["sources"], "WORKDIR /lib", STEPS["sort"]]
    project.write("lib/Dockerfile", "\n".join(lines) + "\n")
    assert "depends on a step above" in project.run("explain", "//lib").stdout
    project.build("//lib")
    assert "the working directory: / -> /lib" in project.run("explain", "//lib").stdout


def test_options_of_a_copy(project: Project) -> None:
    project.write("app/Dockerfile", "FROM lib\nCOPY --chmod=600 app.txt /app/\n")
    text = json.dumps(reasons(project))
    assert "600" in text
    project.write("app/Dockerfile", "FROM lib\nCOPY --chown=5:6 app.txt /app/\n")
    assert "owner" in json.dumps(reasons(project)) or "5" in json.dumps(reasons(project))


def test_a_changed_base_is_named(project: Project, workspace: Workspace) -> None:
    project.write("alone/Dockerfile", f"FROM lib\n{STEPS['sort'].replace('/lib/out', '/x')}\n")
    project.build("//alone")
    project.write("lib/src/a", "1\n9\n")
    project.build("//lib")
    (found,) = reasons(project, "//alone").values()
    assert found[0]["what"] == "the layers below"


def test_a_build_says_why_as_it_goes(project: Project) -> None:
    project.write("lib/src/a", "1\n9\n")
    started = [e for e in project.build().events if e["event"] == "node_started"]
    (first,) = [e["reason"] for e in started if e["title"] == STEPS["sources"]]
    assert first.startswith("file a: sha256:")


def test_what_was_never_built_says_so(workspace: Workspace) -> None:
    project = Project(workspace)
    assert "not built here before" in project.run("explain", "//lib").stdout


def test_names_cannot_drive_the_terminal(project: Project) -> None:
    project.write("lib/src/\033[31mred\n", "x")
    for command in ("plan", "explain"):
        said = project.run(command, "//lib").stdout
        assert "\033" not in said
        assert "red" in said


def shared(workspace: Workspace) -> None:
    """Write targets a and b that have one step, and c with one that comes to the same."""
    workspace.write("lib/f", "1")
    workspace.write("lib/Dockerfile", "FROM scratch\nCOPY f /made\n")
    for name in ("a", "b"):
        workspace.write(f"{name}/Dockerfile", "FROM scratch\nCOPY --from=lib made /f\n")
        workspace.write(f"{name}/Boxfile.yaml", "contexts: {lib: '//lib'}\n")
    # Another node, which comes to the same: known when it is reached.
    workspace.write("c/Dockerfile", "FROM scratch\nCOPY --from=lib /made /f\n")
    workspace.write("c/Boxfile.yaml", "contexts: {lib: '//lib'}\n")
    workspace.write("Boxfile.yaml", "workspace:\n")


def test_targets_that_share_a_step_all_know_why_it_is_made(workspace: Workspace) -> None:
    shared(workspace)
    assert len(workspace.build("//...").built) == 2, "a, b and c have one step"
    workspace.write("lib/f", "2")
    workspace.build("//lib")
    for name in ("a", "b", "c"):
        assert "file made: sha256:" in workspace.run("plan", f"//{name}").stdout
    workspace.build("//...")
    for name in ("a", "b", "c"):
        said = workspace.run("explain", f"//{name}").stdout.splitlines()
        assert said[-1].startswith("    file made: sha256:"), said


def test_a_step_that_another_target_made_before_is_said_to_be_one(workspace: Workspace) -> None:
    shared(workspace)
    workspace.build("//a")
    assert workspace.build("//b").built == []
    said = workspace.run("explain", "//b").stdout.splitlines()
    assert said[-1] == "    made as a step of another target"
