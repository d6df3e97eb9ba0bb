"""Knows what is promised of cache mounts across steps, processes and machines; must not know how
they are kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from e2e.building import BOTH, Bench


def mounts(who: Bench) -> dict[str, dict[str, Any]]:
    """Return what `cache du` knows of every cache mount, by id."""
    said = json.loads(who.run("cache", "du", "--json").stdout)
    return {mount["id"]: mount for mount in said["mounts"]}


def use(id_: str, command: str, more: str = "") -> str:
    return f"FROM base\nRUN --mount=type=cache,target=/c,id={id_}{more} {command}\n"


@BOTH
def test_mounts_are_listed_and_pruned(who: Bench) -> None:
    begun = time.time()
    for name in ("du-a", "du-b", "du-c"):
        who.build(
            use(name, f"dd if=/dev/zero of=/c/x bs=100k count=1 2>/dev/null; : {name} {begun}")
        )
    found = mounts(who)
    assert found["du-a"]["bytes"] >= 100 * 1024
    assert found["du-a"]["path"] == "/c"
    assert found["du-a"]["target"].startswith("//c")
    assert begun - 1 < found["du-a"]["last_used"] < time.time() + 1
    table = who.run("cache", "du").stdout
    assert "LAST USED" in table
    assert "du-a" in table
    said = who.run("cache", "gc", "--filter", "id=du-a", "--filter", "type=exec.cachemount")
    assert "1 cache mount\n" in said.stdout
    assert {"du-b", "du-c"} <= set(mounts(who))
    assert "du-a" not in mounts(who)
    who.run("cache", "gc", "--filter", "id=du-b", "--filter", "until=1h")
    assert "du-b" in mounts(who), "it was used within the hour"
    two = ["--filter", "id=du-b", "--filter", "id=du-c"]
    who.run("cache", "gc", *two, "--max-size", "150k")
    assert "du-b" not in mounts(who), "the one that was used first goes first"
    assert "du-c" in mounts(who)
    who.run("cache", "gc", "--filter", f"target={found['du-c']['target']}")
    assert "du-c" not in mounts(who)


@pytest.mark.parametrize("text", ["type=regular", "di=x", "id", "id="])
def test_filters_that_mean_nothing(root_bench: Bench, text: str) -> None:
    said = root_bench.run("cache", "gc", "--filter", text, expect=2)
    assert f"--filter {text}" in said.stderr
    assert "hint" in said.stderr


@BOTH
def test_mounts_are_carried_to_a_cold_store(who: Bench, tmp_path: Path) -> None:
    make = (
        "if test -e /c/dir/f; then echo warm >/1; else echo cold >/1; mkdir /c/dir;"
        " echo x >/c/dir/f; ln /c/dir/f /c/hard; ln -s /nowhere /c/link; mkfifo /c/pipe;"
        " chown 1000:1000 /c/dir; chmod 2750 /c/dir; touch -d @1000000000 /c/dir/f; echo y >/c/.wh.z;"
        " chmod 4755 /c/hard; fi; ls -lAR --full-time /c >/2\n"
    )
    line = f"FROM base\nRUN --mount=type=cache,target=/c,id=carried,mode=0711,uid=1000 {make}"
    cold = who.build(line)
    archive = who.workspace.path(f"mounts-{who.user is None}.tar.zst")
    who.run("cache", "export-mounts", "--id", "carried", str(archive))
    first = archive.read_bytes()
    who.run("cache", "export-mounts", "--id", "carried", str(archive))
    assert archive.read_bytes() == first, "the same mounts are the same bytes"
    other = who.workspace.top / f"cold-{who.user is None}"
    other.mkdir(mode=0o700)
    if who.user is not None:
        os.chown(other, who.user.uid, who.user.gid)
    there = {"BUILDGRAPH_STORE": str(other)}
    said = who.run("cache", "import-mounts", str(archive), env=there)
    assert said.stdout == "imported 1 cache mount\n"
    warm = who.build(line, None, env=there)
    assert (cold.content("1"), warm.content("1")) == ("cold\n", "warm\n")
    assert warm.content("2").replace("warm", "") == cold.content("2")
    archive.unlink()


def test_a_damaged_export_changes_nothing(root_bench: Bench) -> None:
    root_bench.build(use("whole", "echo old >/c/f"))
    archive = root_bench.workspace.path("damaged.tar.zst")
    root_bench.run("cache", "export-mounts", "--id=whole", str(archive))
    root_bench.build(use("whole", "echo new >/c/f"))
    whole = archive.read_bytes()
    for bad in (whole[:-5], whole[: len(whole) // 2], b"", b"x" * 100):
        archive.write_bytes(bad)
        said = root_bench.run("cache", "import-mounts", str(archive), expect=2)
        assert "Traceback" not in said.stderr
    assert root_bench.build(use("whole", "cat /c/f >/1")).content("1") == "new\n"
    archive.write_bytes(whole)
    root_bench.run("cache", "import-mounts", str(archive))
    assert root_bench.build(use("whole", "cat /c/f >/2")).content("2") == "old\n"
    said = root_bench.run("cache", "export-mounts", "--id=nope", str(archive), expect=2)
    assert "cache du" in said.stderr
    assert archive.read_bytes() == whole


def test_a_mount_in_use_is_neither_torn_nor_pruned(root_bench: Bench) -> None:
    root_bench.build(use("busy", "echo 1 >/c/f"))
    archive = root_bench.workspace.path("busy.tar.zst")
    root_bench.run("cache", "export-mounts", "--id=busy", str(archive))
    directory = root_bench.directory(
        {},
        use(
            "busy",
            "echo 2 >/c/f; for i in $(seq 100); do test -e /c/go && break;"
            " usleep 100000; done; cat /c/f >/1",
        ),
    )
    words = ["build", directory, "--progress", "json", *root_bench.base([])]
    running = root_bench.workspace.start(*words, stdout=subprocess.PIPE)
    name = mounts(root_bench)["busy"]["name"]
    data = root_bench.workspace.store() / "mounts" / name / "data"
    end = time.monotonic() + 10
    while (data / "f").read_text() != "2\n" and time.monotonic() < end:
        time.sleep(0.02)
    said = root_bench.run("cache", "import-mounts", str(archive), expect=3)
    assert "in use" in said.stderr
    assert "in use" in root_bench.run("cache", "gc", "--filter", "id=busy").stdout
    assert "in use" in root_bench.run("cache", "export-mounts", str(archive), expect=3).stderr
    assert (data / "f").read_text() == "2\n"
    (data / "go").touch()
    _, err = running.communicate(timeout=60)
    assert running.returncode == 0, err


def test_two_builds_share_and_lock(root_bench: Bench) -> None:
    """In two processes: `locked` never at once, `shared` the same directory, `private` never."""
    script = (
        "mkdir /c/in 2>/dev/null || touch /c/met; for i in $(seq {tries}); do"
        " test -e /c/met && break; usleep 50000; done; rmdir /c/in 2>/dev/null; : {n} {sharing}"
    )
    for sharing, met in (("locked", False), ("private", False), ("shared", True)):
        more = f",sharing={sharing}"
        running = []
        for n in range(2):
            tries = 100 if met else 8
            command = script.format(n=n, sharing=sharing, tries=tries)
            line = use(f"two-{sharing}", command, more)
            words = ["build", root_bench.directory({}, line), *root_bench.base([])]
            running.append(root_bench.workspace.start(*words))
        for process in running:
            _, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
        store = root_bench.workspace.store() / "mounts"
        slots = [
            path.parent
            for path in store.glob("*/about")
            if json.loads(path.read_text()).get("id") == f"two-{sharing}"
        ]
        assert any((slot / "data/met").exists() for slot in slots) is met, sharing


def test_steps_that_lock_two_mounts_do_not_wait_for_each_other(root_bench: Bench) -> None:
    a, b = (f"--mount=type=cache,id=order-{x},sharing=locked,target=/{x}" for x in "ab")
    same = a.replace("target=/a", "target=/again")
    stages = [
        f"FROM base AS s{n}\nRUN {first} {second} {same} touch /a/x && ls /again >/{n}\n"
        for n, (first, second) in enumerate([(a, b), (b, a), (a, b), (b, a)])
    ]
    joined = "".join(f"COPY --from=s{n} /{n} /{n}\n" for n in range(4))
    built = root_bench.build("".join([*stages, "FROM scratch\n", joined]), None, "-j4", timeout=60)
    assert built.content("3") == "x\n"


def test_identity(root_bench: Bench) -> None:
    def names(line: str, *args: str) -> set[str]:
        before = set(os.listdir(root_bench.workspace.store() / "mounts"))
        root_bench.build(line, None, *args)
        return set(os.listdir(root_bench.workspace.store() / "mounts")) - before

    assert len(names(use("identity", "true"))) == 1
    assert names(use("identity", "true || :")) == set()
    assert names(use("identity", "ls", ",mode=755,uid=0,gid=0")) == set(), "that is the default"
    for more in (",mode=0700", ",gid=5"):
        assert len(names(use("identity", "true", more))) == 1, more
    space = ["--build-arg", "BUILDKIT_CACHE_MOUNT_NS=elsewhere"]
    assert len(names(use("identity", "echo in a namespace"), *space)) == 1
    seeded = "FROM base AS seed\nRUN mkdir /s && echo {} >/s/f && chmod 0750 /s && chown 3:4 /s\n"
    line = "FROM base\nRUN --mount=type=cache,target=/c,id=identity,from=seed,source=/s "
    assert len(names(seeded.format(1) + line + "true")) == 1
    assert len(names(seeded.format(2) + line + "true")) == 1
    built = root_bench.build(seeded.format(3) + line + "stat -c %a:%u:%g /c >/1; cat /c/f >>/1")
    assert built.content("1") == "750:3:4\n3\n"


def test_which_cache_it_is_does_not_make_a_step_new(root_bench: Bench) -> None:
    root_bench.build(use("old", "echo key >/1"))
    again = root_bench.build(use("new", "echo key >/1", ",sharing=locked"))
    assert again.result.built == []
    assert root_bench.build(use("new", "echo key >/1", ",ro")).result.built != []


def test_a_path_of_a_mount_stays_inside_it(root_bench: Bench) -> None:
    """A38: one step turns the directory into a link to / and back while others mount it."""
    flip = (
        "for i in $(seq 60); do mkdir -p /c/sub; touch /c/sub/ours; rm -rf /c/sub;"
        " ln -s / /c/sub; rm /c/sub; ln -s ../../../../../../etc /c/sub; rm /c/sub; done; echo >/done"
    )
    stages = ["FROM base AS flip\nRUN --mount=type=cache,id=flip,target=/c " + flip]
    for n in range(12):
        stages.append(
            f"FROM base AS s{n}\nRUN --mount=type=cache,id=flip,source=sub,target=/m ls -A /m >/{n}"
        )
    joined = "COPY --from=flip /done /\n"
    joined += "".join(f"COPY --from=s{n} /{n} /{n}\n" for n in range(12))
    text = "\n".join([*stages, "FROM scratch", joined])
    said = root_bench.run(
        "build",
        root_bench.directory({}, text),
        *root_bench.base([]),
        "-j3",
        "-k",
        "--progress=json",
        expect=None,
    )
    assert "Traceback" not in said.stderr
    shown = [e["text"] for e in said.events if e["event"] == "node_output"]
    assert "hostname" not in "".join(shown)
    sub = root_bench.build(
        "FROM base\nRUN --mount=type=cache,id=below,source=a/../b/c,target=/m touch /m/x\n"
        "RUN --mount=type=cache,id=below,target=/m find /m -type f >/1\n"
    )
    assert sub.content("1") == "/m/b/c/x\n"
