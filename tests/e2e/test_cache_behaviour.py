"""Knows what is built again after which change, and that the results are the same bytes; must not
know how keys are made.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import Any

import pytest

from e2e.building import as_root
from e2e.harness import Workspace
from e2e.images import read_layout
from e2e.project import PACKAGES, STEPS, Project, steps

ALL = set(STEPS)


@pytest.fixture
def project(workspace: Workspace) -> Project:
    return Project(workspace)


def test_nothing_is_built_for_what_is_no_change(project: Project, workspace: Workspace) -> None:
    first = project.build()
    assert steps(first) == ALL
    assert project.built() == set()
    workspace.touch("lib/src/a")
    workspace.touch("lib/src")
    workspace.touch("app/Dockerfile")
    for path in workspace.root.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (1_000_000_000, 1_000_000_000))
    assert project.built() == set()
    # write the same bytes into new files
    workspace.path("lib/src/a").unlink()
    project.write("lib/src/a", "1\n3\n")
    project.write("lib/Dockerfile", "# a comment\n" + workspace.read("lib/Dockerfile"))
    last = project.build()
    assert steps(last) == set()
    assert last.digests == first.digests


def test_a_copy_of_the_tree_elsewhere_is_the_same_tree(
    project: Project, workspace: Workspace
) -> None:
    first = project.build()
    shutil.copytree(workspace.root, workspace.top / "deeper/copy", symlinks=True)
    (workspace.top / "deeper/copy").rename(workspace.path("again"))
    there = Project.__new__(Project)
    there.workspace, there.user, there.at = workspace, None, "again"
    again = there.build()
    assert steps(again) == set()
    assert again.digests == first.digests


def test_any_parallelism_order_time_and_hash_seed_give_the_same_digests(
    project: Project, workspace: Workspace
) -> None:
    seen = []
    for number, jobs in enumerate(["1", "2", "8"]):
        store = workspace.top / f"fresh{number}"
        environ = {"PYTHONHASHSEED": str(number), "TZ": "Asia/Tokyo" if number else "UTC"}
        done = project.build("-j", jobs, "--store", str(store), env=environ)
        assert steps(done) == ALL
        seen.append(done.digests)
    assert seen[0] == seen[1] == seen[2]
    words = ["//alone", "//app", "//lib", "//tool"]
    assert project.build(*words, "--store", str(workspace.top / "last")).digests == seen[0]


@as_root
def test_an_ordinary_user_makes_the_same_bytes(workspace: Workspace, as_user: Any) -> None:
    mine = Project(workspace, at="mine").build()
    theirs = Project(workspace, as_user, at="theirs")
    done = theirs.build()
    assert steps(done) == ALL
    assert done.digests == mine.digests


@as_root
def test_a_user_without_subordinate_ids_makes_the_same_bytes(
    workspace: Workspace, as_lone_user: Any
) -> None:
    mine = Project(workspace, at="mine").build()
    assert Project(workspace, as_lone_user, at="theirs").build().digests == mine.digests


CHANGES = {
    "a source that matters": ("lib/src/a", "1\n9\n", {"sources", "sort", "join", "take", "count"}),
    "a source, with the same result": ("lib/src/a", "3\n1\n", {"sources", "sort", "join"}),
    "a new source that nobody reads": ("lib/src/c", "x", {"sources", "sort", "join"}),
    "the file of one image": ("app/app.txt", "other\n", {"data", "join"}),
    "a file that one image copies": ("alone/f", "g\n", {"alone"}),
    "a file in no context": ("notes.txt", "n\n", set()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_rebuilds_what_depends_on_it_and_no_more(project: Project, name: str) -> None:
    path, content, wanted = CHANGES[name]
    project.build()
    project.write(path, content)
    assert project.built() == wanted
    assert project.built() == set()


def test_one_byte_back_is_known_again(project: Project) -> None:
    first = project.build()
    project.write("lib/src/a", "1\n9\n")
    assert project.build().digests != first.digests
    project.write("lib/src/a", "1\n3\n")
    again = project.build()
    assert steps(again) == set()
    assert again.digests == first.digests


def test_a_mode_is_content_and_rebuilds(project: Project, workspace: Workspace) -> None:
    project.build()
    workspace.path("app/app.txt").chmod(0o755)
    assert project.built() == {"data", "join"}


def test_another_command_with_the_same_effect_stops_there(project: Project) -> None:
    project.build()
    other = STEPS["sort"].replace("sort /lib/src/a /lib/src/b", "cat /lib/src/a /lib/src/b | sort")
    project.write("lib/Dockerfile", f"FROM base\n{STEPS['sources']}\n{other}\n")
    assert project.built() == {other}, "//app and //tool stand on the same bytes"


def test_a_variable_a_step_can_see_is_a_reason_and_metadata_is_none(project: Project) -> None:
    project.build()

    def with_line(line: str) -> None:
        lines = ["FROM base", STEPS["sources"], line, STEPS["sort"]]
        project.write("lib/Dockerfile", "\n".join(lines) + "\n")

    for line in ("LABEL a=b", "EXPOSE 80", "CMD x", "HEALTHCHECK CMD x", "VOLUME /v", "ARG x"):
        with_line(line)
        assert project.built() == set(), line
    with_line("ENV x=1")
    assert "sort" in project.built()
    with_line("USER 5\nUSER root\nWORKDIR /tmp\nWORKDIR /")
    assert "sort" in project.built(), "USER root is not the user of before, though the same one"


def test_the_same_step_of_two_targets_runs_once(workspace: Workspace) -> None:
    workspace.busybox_layout("busybox")
    workspace.write("Boxfile.yaml", "workspace: {name: w}\n")
    for name in "abcd":
        workspace.write(f"{name}/Dockerfile", "FROM base\nCOPY f /f\nRUN sleep 0.2; cat /f >/g\n")
        workspace.write(f"{name}/f", "same")
        contexts = 'targets: {image: {contexts: {base: "oci-layout://../busybox"}}}\n'
        workspace.write(f"{name}/Boxfile.yaml", contexts)
    done = workspace.build("//...", "-j", "4")
    assert sorted(title.split()[0] for title in done.built) == ["COPY", "RUN"]
    assert len(set(done.digests.values())) == 1


def test_builds_at_the_same_time_share_the_work(project: Project, workspace: Workspace) -> None:
    for name in ("sort", "join"):
        package = "lib" if name == "sort" else "app"
        text = workspace.read(f"{package}/Dockerfile")
        project.write(f"{package}/Dockerfile", text.replace("RUN ", "RUN sleep 0.3; "))
    words = ["build", "--progress", "json", "//...", "-j", "2"]
    running = [workspace.start(*words) for _ in range(4)]
    built: list[str] = []
    digests = []
    for process in running:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        events = [json.loads(line) for line in out.splitlines()]
        built += [e["title"] for e in events if e["event"] == "node_finished" and not e["cached"]]
        digests.append({e["label"]: e["digest"] for e in events if e["event"] == "image_built"})
    assert digests[0] == digests[1] == digests[2] == digests[3]
    assert len(built) == len(set(built)), "a step was run by two of them"


def test_no_cache_does_it_all_again_with_the_same_result(project: Project) -> None:
    first = project.build()
    again = project.build("--no-cache")
    assert len(again.built) >= len(ALL)
    assert again.digests == first.digests
    assert project.built() == set()


def test_no_cache_filter_names_stages(workspace: Workspace) -> None:
    workspace.busybox_layout("busybox")
    workspace.write(
        "Dockerfile",
        "FROM base AS One\nRUN echo 1 >/1\nFROM base AS two\nRUN echo 2 >/2\nFROM one\nCOPY --from=two /2 /2\n",
    )
    words = [".", "--build-context", "base=oci-layout://busybox"]
    workspace.build(*words)
    assert workspace.build(*words, "--no-cache-filter=one").built == ["RUN echo 1 >/1"]
    assert workspace.build(*words, "--no-cache-filter", "TWO,nothere").built == ["RUN echo 2 >/2"]
    assert workspace.build(*words).built == []


def test_a_collected_store_builds_the_same_again(project: Project) -> None:
    first = project.build()
    project.run("cache", "gc", "--max-size", "0")
    assert project.run("cache", "verify").stdout.strip() == "everything is in order"
    again = project.build()
    assert steps(again) == ALL
    assert again.digests == first.digests


def test_damage_is_found_set_aside_and_built_again(project: Project, workspace: Workspace) -> None:
    first = project.build("-o", f"type=oci,tar=false,dest={workspace.path('layout')}/")
    blobs = [p for p in workspace.store().glob("blobs/sha256/*/*") if p.stat().st_size > 600]
    assert blobs
    for path in blobs:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.chmod(0o600)
        path.write_bytes(data)
    said = project.run("cache", "verify", "--deep", expect=4)
    assert f"{len(blobs)} damaged" in said.stdout or "damaged" in said.stdout
    again = project.build("-o", f"type=oci,tar=false,dest={workspace.path('again')}/")
    assert again.digests == first.digests
    for name in PACKAGES:
        digest = again.digests[f"//{name}:image"]
        assert read_layout(workspace.path("again"), digest).tree
    assert project.run("cache", "verify", "--deep").code == 0


def test_the_index_is_disposable(project: Project, workspace: Workspace) -> None:
    first = project.build()
    (workspace.store() / "index.sqlite").write_bytes(b"noise" * 1000)
    for name in ("index.sqlite-wal", "index.sqlite-shm"):
        (workspace.store() / name).unlink(missing_ok=True)
    assert project.build().digests == first.digests
    (workspace.store() / "index.sqlite").unlink()
    assert project.build().digests == first.digests


def test_a_file_of_the_same_size_and_time_is_still_read(
    project: Project, workspace: Workspace
) -> None:
    path = workspace.path("app/app.txt")
    os.utime(path, ns=(10**18, 10**18))
    project.build()
    time.sleep(0.05)
    project.write("app/app.txt", "ppa\n")
    os.utime(path, ns=(10**18, 10**18))
    assert project.built() == {"data", "join"}
