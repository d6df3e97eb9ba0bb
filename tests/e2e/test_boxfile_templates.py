"""Knows what a build makes of templates, matrices and the workspace's own rules; must not know how
they are evaluated.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.harness import Workspace
from e2e.images import read_layout

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="stamps are git's")


@pytest.fixture
def workspace() -> Iterator[Workspace]:
    with Workspace() as found:
        yield found


def git(root: Path, *arguments: str) -> str:
    environ = os.environ | {
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_{what}": "x@y" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }  # fmt: skip
    command = ["git", "-c", "init.defaultBranch=main", "-C", str(root), *arguments]
    done = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(workspace: Workspace, text: str) -> str:
    root = Path(workspace.root)
    workspace.write("note", text)
    git(root, "add", "-A", "note")
    git(root, "commit", "-q", "-m", text)
    return git(root, "rev-parse", "HEAD")


def test_a_stamp_changes_the_config_and_builds_nothing(workspace: Workspace) -> None:
    root = Path(workspace.root)
    layout = workspace.busybox_layout()
    workspace.write("Boxfile.yaml", "workspace: {name: shop}\n")
    workspace.write("app/f", "f")
    workspace.write("app/Dockerfile", "FROM base\nCOPY f /f\nRUN cp /f /g\n")
    workspace.write(
        "app/Boxfile.yaml",
        f'contexts: {{base: "oci-layout://../{layout.name}"}}\n'
        'tags: "{{ workspace.name }}/app:{{ git.short }}"\n'
        'labels: {rev: "{{ git.sha }} {{ git.branch }}"}\n',
    )
    workspace.run("list", "//...")  # asks nothing of git, which is not here yet
    failed = workspace.run("build", "//app", expect=2)
    assert "this is in no git repository" in failed.stderr
    assert "app/Boxfile.yaml:2:36" in failed.stderr
    git(root, "init", "-q")
    first = commit(workspace, "one")
    words = ["//app", "-o", "type=oci,dest=out,tar=false"]

    def revision(digest: str) -> str:
        return str(read_layout(root / "out", digest).config["Labels"]["rev"])

    built = workspace.build(*words)
    assert (len(built.built), revision(built.digests["//app:image"])) == (2, f"{first} main")
    time.sleep(0.06)
    told = workspace.run("build", *words).stdout
    assert workspace.run("build", *words).stdout == told
    second = commit(workspace, "two")
    changed = workspace.build(*words)
    assert (changed.built, revision(changed.digests["//app:image"])) == ([], f"{second} main")
    time.sleep(0.06)
    workspace.run("build", *words)  # and is remembered
    third = commit(workspace, "three")
    digest = workspace.run("build", *words).stdout.split()[1]  # and is not answered from memory
    assert revision(digest) == f"{third} main"


def test_a_declared_variable_is_part_of_the_question(workspace: Workspace) -> None:
    workspace.write("Boxfile.yaml", "workspace: {env: [WHO]}\n")
    workspace.write("a/Dockerfile", "FROM scratch\nARG WHO\nLABEL who=$WHO\n")
    workspace.write("a/Boxfile.yaml", "args: {WHO: \"{{ env.WHO | default('nobody') }}\"}\n")
    digests = []
    for env in ({}, {}, {"WHO": "me"}, {"WHO": "me"}, {}):
        time.sleep(0.06)
        digests.append(workspace.run("build", "//a", env=env).stdout.split()[1])
    assert digests[0] == digests[1] == digests[4]
    assert digests[2] == digests[3] != digests[0]


def test_a_matrix_over_a_rule_of_the_workspace_is_built(workspace: Workspace) -> None:
    layout = workspace.busybox_layout()
    workspace.write("Boxfile.yaml", 'workspace: {rules: ["//tools/rules"]}\n')
    workspace.write(
        "tools/rules/greeting.rule.yaml",
        "doc: An image that greets.\n"
        "attributes:\n"
        "  words: {type: list, required: true, doc: What it says.}\n"
        f'image: {{contexts: {{base: "oci-layout://../../{layout.name}"}}}}\n'
        "dockerfile: |\n"
        "  FROM base\n"
        "  {% for word in words %}\n"
        "  RUN echo {{ word | quote }} >>/greeting\n"
        "  {% endfor %}\n"
        "targets:\n"
        "  smoke:\n"
        "    rule: smoke\n"
        '    services: {app: {image: "{{ self }}", command: [sleep, "60"]}}\n'
        "    checks:\n"
        "      - exec: {in: app, run: [cat, /greeting], stdout: \"{{ words | join('\\n') }}\"}\n",
    )
    workspace.write(
        "app/Boxfile.yaml",
        "targets:\n"
        "  hello:\n"
        "    rule: greeting\n"
        "    matrix: {n: ['1', '2']}\n"
        "    words: [hello, 'number {{ matrix.n }}']\n",
    )
    built = workspace.build("//app:hello")
    assert sorted(built.digests) == ["//app:hello@n=1", "//app:hello@n=2"]
    assert len(built.built) == 3  # the first word is the same for both
    workspace.run("rules", "greeting")
    assert "//app:hello@n=1" in workspace.run("list", "//app:all").stdout
    workspace.run("test", "//app:hello.smoke")
    workspace.write(
        "app/Boxfile.yaml", "targets:\n  bad: {rule: greeting, words: [a], tags: 'A{{'}\n"
    )
    failed = workspace.run("build", "//app:bad", expect=2)
    assert "app/Boxfile.yaml:2:45" in failed.stderr
