"""A change that a build would see is seen, and nothing else; waiting wakes for it."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from buildgraph.context.ignore import IgnoreRules
from buildgraph.context.remembered import NoStatCache
from buildgraph.context.tree import ContextTree, stat_of_row
from buildgraph.engine.watching import (
    Baseline,
    Waiter,
    as_json,
    baseline,
    changes,
    from_json,
)
from buildgraph.graph.ops import ContextSpec

PATTERNS = ("*.swp", "ignored")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "app" / "src").mkdir(parents=True)
    (tmp_path / "app" / "src" / "a").write_text("1")
    (tmp_path / "app" / "ignored").mkdir()
    (tmp_path / "app" / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    return tmp_path


def look(root: Path, since: int | None = None) -> Baseline:
    tree = ContextTree(str(root / "app"), IgnoreRules(PATTERNS), NoStatCache())
    with tree:
        tree.list("")
        tree.list("src")
        tree.hash_many(["src/a", "Dockerfile"])
        found = tree.found()
    seen = [(f"{root}/app", stat_of_row(found[0].own))]
    for directory in found:
        place = f"{root}/app/{directory.path}".rstrip("/")
        seen += [(f"{place}/{row[0]}", stat_of_row(row)) for row in directory.rows()]
    spec = ContextSpec(str(root / "app"), PATTERNS, "context app/")
    observed = ["./", "app/", "app/Dockerfile"]
    made = baseline(str(root), observed, seen, [spec], since or time.time_ns())
    return from_json(json.loads(json.dumps(as_json(made))))


def told(root: Path, base: Baseline) -> list[str]:
    return [f"{one.what} {os.path.relpath(one.path, root)}" for one in changes(base)]


def test_nothing_changed(root: Path) -> None:
    base = look(root)
    assert told(root, base) == []
    (root / "app" / ".x.swp").write_text("editor")
    (root / "app" / "ignored" / "x").write_text("")
    (root / "notes").write_text("no package")
    (root / ".git").mkdir()
    assert told(root, base) == []


def test_what_a_build_would_see(root: Path) -> None:
    base = look(root)
    (root / "app" / "src" / "a").write_text("22")
    (root / "app" / "src" / "b").write_text("")
    (root / "new").mkdir()
    assert told(root, base) == ["changed app/src/a", "added app/src/b", "added new"]
    (root / "app" / "src" / "a").unlink()
    assert "removed app/src/a" in told(root, base)


def test_a_directory_that_is_renamed(root: Path) -> None:
    base = look(root)
    (root / "app").rename(root / "other")
    assert "removed app" in told(root, base)
    (root / "other").rename(root / "app")
    assert told(root, base) == []
    with Waiter() as waiter:
        waiter.watch(base)
        (root / "app" / "src" / "a").write_text("new")
        waiter.wait()
    assert told(root, base) == ["changed app/src/a"]


def test_what_changed_while_it_was_read(root: Path) -> None:
    assert told(root, look(root, since=time.time_ns() + 10**12)) == []
    (root / "Boxfile.yaml").write_text("")
    spec = ContextSpec(str(root / "app"), (), "")
    made = baseline(str(root), ["Boxfile.yaml"], [], [spec], time.time_ns() - 10**12)
    assert told(root, made) == ["changed Boxfile.yaml"]


@pytest.mark.parametrize("poll", [False, True])
def test_waiting_wakes(root: Path, poll: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("buildgraph.engine.watching.POLL", 0.05)
    base = look(root)
    with Waiter(poll=poll) as waiter:
        assert waiter.watch(base) >= 3
        timer = threading.Timer(0.1, lambda: (root / "app" / "src" / "c").write_text("x"))
        timer.start()
        end = time.monotonic() + 5
        while not changes(base) and time.monotonic() < end:
            waiter.wait()
        timer.join()
    assert told(root, base) == ["added app/src/c"]


def test_the_directory_above_what_is_gone_is_watched(root: Path) -> None:
    base = look(root)
    (root / "app").rename(root / "other")
    with Waiter() as waiter:
        waiter.watch(base)
        (root / "other").rename(root / "app")
        waiter.wait()
    assert told(root, base) == []
