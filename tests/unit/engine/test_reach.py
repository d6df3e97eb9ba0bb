"""Which steps could see that a path has changed, and that asking takes work in proportion."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildgraph.engine.affected import Causes, add_content, downstream, reach_of
from buildgraph.engine.earlier import Changes
from buildgraph.engine.reach import Reach
from buildgraph.engine.reads import ContextAt, ContextRead, PathRead, Reading
from buildgraph.errors import Location
from buildgraph.graph.dag import Dag

HERE = Location("app/Dockerfile", 3)


def _seen(root: Path, sources: tuple[str, ...], path: str, **more: object) -> bool:
    ignore = more.pop("ignore", ())
    assert isinstance(ignore, tuple)
    at = ContextAt("app", ignore, ".dockerignore", "app")
    reach = Reach(str(root))
    reach.add_context("//app:image", ContextRead(at, sources, "COPY", "", HERE, **more))  # type: ignore[arg-type]
    return bool(list(reach.contexts(path)))


@pytest.mark.parametrize(
    ("sources", "path", "seen"),
    [
        (("src",), "app/src/a", True),
        (("./src/",), "app/src/deep/a", True),
        (("src",), "app/src2/a", False),
        (("src",), "src/a", False),
        (("src/a",), "app/src", True),  # it was a directory and is a file, or a link
        (("/",), "app/x", True),
        (("../..",), "app/x", True),
        (("*.txt",), "app/a.txt", True),
        (("*.txt",), "app/a.md", False),
        (("*.txt",), "app/dir/a.txt", False),
        (("d*/x",), "app/dir/x/below", True),
        (("d*/x",), "app/dir/y", False),
        (("d*/x",), "app/dir", True),
        ((r"a\[1].txt",), "app/a[1].txt", True),
        (("[z-a]",), "app/x", True),  # malformed: nobody knows
    ],
)
def test_a_path_counts_where_a_source_holds_it(
    tmp_path: Path, sources: tuple[str, ...], path: str, seen: bool
) -> None:
    (tmp_path / "app").mkdir()
    assert _seen(tmp_path, sources, path) is seen


def test_ignore_rules_excludes_and_parents_count(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    rules = ("src/*", "!src/keep")
    assert not _seen(tmp_path, ("src",), "app/src/a", ignore=rules)
    assert _seen(tmp_path, ("src",), "app/src/keep/a", ignore=rules)
    assert not _seen(tmp_path, ("src",), "app/src/a.md", exclude=("*.md",))
    assert _seen(tmp_path, ("src",), "app/src/a.txt", exclude=("*.md",))
    assert _seen(tmp_path, ("src/**/x",), "app/src/a/b/x/y", parents=True)
    assert not _seen(tmp_path, ("src/**/x",), "app/other/x", parents=True)


def test_what_links_lead_to_counts(tmp_path: Path) -> None:
    app = tmp_path / "app"
    (app / "v1").mkdir(parents=True)
    (app / "real.conf").touch()
    os.symlink("v1", app / "current")
    os.symlink("current", app / "latest")
    os.symlink("/real.conf", app / "a.conf")
    os.symlink("round", app / "round")
    for path in ("app/v1/x", "app/current", "app/latest"):
        assert _seen(tmp_path, ("latest",), path)
    assert not _seen(tmp_path, ("latest",), "app/v2/x")
    assert _seen(tmp_path, ("a*.conf",), "app/real.conf")
    assert not _seen(tmp_path, ("round",), "app/other")


def _monorepo(count: int) -> Reading:
    labels = [f"//p{i}:image" for i in range(count)]
    shared = ContextAt("", (), ".dockerignore", "")
    where = Location("Dockerfile", 2)
    return Reading(
        {name: [labels[i // 2]] if i else [] for i, name in enumerate(labels)},
        {
            name: [PathRead(f"p{i}/Dockerfile", "Dockerfile", where)]
            for i, name in enumerate(labels)
        },
        {
            name: [ContextRead(shared, (f"p{i}/src",), "COPY", "", where)]
            for i, name in enumerate(labels)
        },
        frozenset(),
    )


def test_work_grows_with_targets_and_changes_and_not_with_their_product(tmp_path: Path) -> None:
    steps = []
    for count in (500, 1000):
        reading = _monorepo(count)
        reach = reach_of(str(tmp_path), reading)
        paths = tuple(f"p{i}/src/main.c" for i in range(count))  # every target's own file
        causes = Causes()
        add_content(causes, str(tmp_path), Changes("x", "0", paths), reach)
        dag = Dag(reading.needs)
        assert len(downstream(causes, dag)) == count
        steps.append(reach.steps + dag.steps)
    assert steps[1] < 2.2 * steps[0]
