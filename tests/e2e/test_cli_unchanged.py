"""Knows that a build with nothing to do answers at once, and is not fooled; must not know how it
remembers.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from e2e.building import call, interpreter
from e2e.harness import HEAVY, Workspace, clean_environment, me
from e2e.images import read_archive, read_layout

ANY = HEAVY | {"isal", "zstandard", "typing"}
DOCKERFILE = "FROM base\nARG BARE\nCOPY . /ctx\nRUN echo $BARE >/bare\n"


class Twice:
    """A directory that is built by the same command again and again."""

    def __init__(self, workspace: Workspace, *words: str):
        self.workspace = workspace
        self.layout = workspace.busybox_layout()
        workspace.write("Boxfile.yaml", "workspace: {name: w}\n")
        workspace.write("app/Dockerfile", DOCKERFILE)
        workspace.write("app/Boxfile.yaml", self.boxfile())
        workspace.write("app/f", "one")
        workspace.write("app/sub/g", "g")
        workspace.write("app/.dockerignore", "*.log\n")
        self.words = ["//app", *words]

    def boxfile(self, more: str = "") -> str:
        contexts = '{base: "oci-layout://../busybox-layout"}'
        return f"targets: {{image: {{contexts: {contexts}{more}}}}}\n"

    def digest(self, env: dict[str, str] | None = None) -> str:
        """Build; files that changed just now are not trusted, so wait for the clock first."""
        time.sleep(0.06)
        said = self.workspace.run("build", *self.words, env=env)
        return said.stdout.split()[1]

    def modules(self, env: dict[str, str] | None = None) -> set[str]:
        """Return the top-level modules that the same build imports."""
        done = subprocess.run(
            [interpreter(), "-X", "importtime", "-m", "buildgraph", "build", *self.words],
            cwd=self.workspace.root,
            env=clean_environment(me())
            | {"BUILDGRAPH_STORE": str(self.workspace.store())}
            | (env or {}),
            capture_output=True,
            text=True,
            check=True,
        )
        lines = [x for x in done.stderr.splitlines() if x.startswith("import time:")]
        return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines[1:]}

    def is_answered_at_once(self, env: dict[str, str] | None = None) -> bool:
        return not self.modules(env) & ANY


@pytest.fixture
def twice(workspace: Workspace) -> Twice:
    return Twice(workspace)


def test_it_answers_without_importing_anything_heavy(twice: Twice) -> None:
    first = twice.digest()
    assert twice.digest() == first
    modules = twice.modules()
    assert not modules & ANY
    assert len(modules) < 60
    quick = twice.workspace.run("build", *twice.words)
    assert quick.stdout.split()[1] == first


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("app/Dockerfile", DOCKERFILE + "RUN true\n"),
        ("app/f", "two"),
        ("app/new", ""),
        ("app/sub/new", ""),
        ("app/.dockerignore", "f\n"),
        ("app/Dockerfile.dockerignore", "f\n"),
        ("app/Boxfile.yaml", None),
        ("busybox-layout/index.json", None),
    ],
)
def test_it_is_not_fooled_by_a_changed_or_new_file(
    twice: Twice, path: str, content: str | None
) -> None:
    before = twice.digest()
    assert twice.is_answered_at_once()
    if content is None and path.endswith("yaml"):
        content = twice.boxfile(", args: {BARE: x}")
    if content is None:
        index = json.loads(twice.workspace.read(path))
        manifest = twice.workspace.path("busybox-layout/blobs") / index["manifests"][0][
            "digest"
        ].replace(":", "/")
        other = json.loads(manifest.read_text())
        other["annotations"] = {"a": "b"}
        data = json.dumps(other).encode()
        name = hashlib.sha256(data).hexdigest()
        (manifest.parent / name).write_bytes(data)
        index["manifests"][0] |= {"digest": f"sha256:{name}", "size": len(data)}
        content = json.dumps(index)
        twice.workspace.write(path, content)
        assert not twice.is_answered_at_once()
        return
    twice.workspace.write(path, content)
    after = twice.digest()
    assert after != before
    assert twice.digest() == after


def test_it_is_not_fooled_by_a_removed_file(twice: Twice) -> None:
    before = twice.digest()
    assert twice.is_answered_at_once()
    twice.workspace.path("app/sub/g").unlink()
    assert twice.digest() != before


def test_it_is_not_fooled_by_the_same_size_and_time(twice: Twice) -> None:
    path = twice.workspace.path("app/f")
    os.utime(path, ns=(10**18, 10**18))
    before = twice.digest()
    assert twice.is_answered_at_once()
    path.write_text("eno")
    os.utime(path, ns=(10**18, 10**18))
    assert twice.digest() != before


def test_it_is_not_fooled_by_a_renamed_package(twice: Twice) -> None:
    before = twice.digest()
    twice.workspace.path("app").rename(twice.workspace.path("other"))
    said = twice.workspace.run("build", *twice.words, expect=2)
    assert "no directory 'app'" in said.stderr
    twice.workspace.path("other").rename(twice.workspace.path("app"))
    assert twice.digest() == before


def test_it_is_not_fooled_by_the_environment(workspace: Workspace) -> None:
    twice = Twice(workspace, "--build-arg", "BARE")
    one, two = {"BARE": "1"}, {"BARE": "2"}
    first = twice.digest(one)
    assert twice.is_answered_at_once(one)
    second = twice.digest(two)
    assert first != second
    assert twice.digest(one) == first
    unset = twice.digest()
    assert unset not in (first, second)
    assert twice.digest({**one, "SOURCE_DATE_EPOCH": "1000000000"}) != first


def test_it_is_not_fooled_by_a_collected_store(twice: Twice) -> None:
    before = twice.digest()
    assert twice.is_answered_at_once()
    twice.workspace.run("cache", "gc", "--max-size", "0")
    said = twice.workspace.run("build", *twice.words, "--progress=plain")
    assert said.stdout.split()[1] == before
    assert "built 2" in said.stderr


@pytest.mark.parametrize("kind", ["oci", "docker", "layout"])
def test_it_is_not_fooled_by_a_removed_or_changed_output(workspace: Workspace, kind: str) -> None:
    # Not into the workspace: writing there changes a directory that the build looked at.
    dest = workspace.top / "out"
    option = f"type=oci,tar=false,dest={dest}" if kind == "layout" else f"type={kind},dest={dest}"
    iid = workspace.top / "iid"
    twice = Twice(workspace, "-o", option, "--iidfile", str(iid))
    before = twice.digest()
    identity = iid.read_text()
    assert twice.is_answered_at_once()
    if kind == "layout":
        (dest / "index.json").unlink()
        call("rm", "-r", dest)
    else:
        dest.unlink()
    assert twice.digest() == before
    assert (read_layout(dest) if kind == "layout" else read_archive(dest)).tree["ctx/f"]
    assert twice.is_answered_at_once()
    iid.write_text("something else")
    twice.digest()
    assert iid.read_text() == identity
    if kind != "layout":
        dest.write_bytes(b"not an image")
        twice.digest()
        assert read_archive(dest).tree["ctx/f"]


def test_another_directory_or_user_asks_anew(twice: Twice, tmp_path: Path) -> None:
    before = twice.digest()
    inside = twice.workspace.run("build", ".", cwd="app")
    assert inside.stdout.split()[1] == before
    again = twice.workspace.run("build", ".", cwd="app")
    assert again.stdout == inside.stdout
    fresh = twice.workspace.run("build", *twice.words, "--store", str(tmp_path / "s"))
    assert "built 2" in fresh.stderr


def test_no_cache_and_dry_run_are_never_answered_so(twice: Twice) -> None:
    twice.digest()
    assert "built 2" in twice.workspace.run("build", "--no-cache", *twice.words).stderr
    assert "2 hit" in twice.workspace.run("build", "-n", *twice.words).stdout


def test_a_directory_that_is_left_out_is_looked_at_for_what_may_come_back(twice: Twice) -> None:
    """A context that was answered without a walk, too, hangs on directories that are not shown."""
    context = twice.workspace.root / "app"
    twice.workspace.write("app/.dockerignore", "out\n!out/keep*\n")
    twice.workspace.write("app/out/x", "x")
    twice.workspace.write("Dockerfile", DOCKERFILE)
    twice.workspace.write("app/Boxfile.yaml", twice.boxfile(", dockerfile: ../Dockerfile"))
    (context / "Dockerfile").unlink()
    twice.digest()
    twice.workspace.write("Dockerfile", DOCKERFILE + "LABEL a=b\n")
    first = twice.digest()
    assert twice.is_answered_at_once()
    twice.workspace.write("app/out/keep", "k")
    assert twice.digest() != first
