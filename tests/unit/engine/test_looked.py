"""Holds what a command looked at to all of it, told once, and small."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildgraph.engine.looked import LookedAt
from buildgraph.engine.sources import Sources
from buildgraph.filetree import Kind
from buildgraph.graph.ops import ContextSource, ContextSpec, CopyOp
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.types import Chain
from buildgraph_cache.store import Store

NO_CHAINS: tuple[Chain, ...] = ()


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for name in ("app/src/a", "app/src/b", "app/out/x", "lib/c"):
        (tmp_path / "top" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "top" / name).write_text(name)
    (tmp_path / "top" / "link").symlink_to("lib/c")
    time.sleep(0.03)  # older than the clock's grain
    return tmp_path / "top"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "store")) as opened, opened.lease():
        yield opened


def opened(store: Store, *roots: Path, ignore: tuple[str, ...] = ()) -> Sources:
    specs = tuple(ContextSpec(str(root), ignore, "context", ".dockerignore") for root in roots)
    return Sources(store, LayerStore(store), specs, dict.fromkeys(range(len(specs)), 1))


def copy(context: int) -> CopyOp:
    return CopyOp(ContextSource(context), (".",), (), "/")


def walk(sources: Sources, context: int, *directories: str) -> None:
    with sources.tree(ContextSource(context), NO_CHAINS) as tree:
        for directory in directories:
            tree.list(directory)


def told(looked_at: LookedAt, top: Path) -> list[str]:
    inside = [path for path, _ in looked_at if path.startswith(f"{top}/")]
    return [os.path.relpath(path, top) for path in inside]


@pytest.mark.parametrize("let_go", [False, True], ids=["in use", "let go"])
def test_contexts_that_overlap_are_told_once(store: Store, top: Path, let_go: bool) -> None:
    sources = opened(store, top, top / "app")
    walk(sources, 0, "", "app", "app/src")
    walk(sources, 1, "", "src", "out")
    if let_go:
        sources.done(copy(0))
        sources.done(copy(1))
    looked_at = LookedAt()
    looked_at.add_contexts(sources)
    expected = ["app", "lib", "link", "app/out", "app/src", "app/out/x", "app/src/a", "app/src/b"]
    assert told(looked_at, top) == expected
    assert dict(looked_at)[str(top)].kind is Kind.DIR
    sources.close()


def test_what_changed_in_between_is_told_twice(store: Store, top: Path) -> None:
    sources = opened(store, top / "app", top)
    walk(sources, 0, "src")
    sources.done(copy(0))
    (top / "app/src/a").write_text("changed")
    walk(sources, 1, "app/src")
    looked_at = LookedAt()
    looked_at.add_contexts(sources)
    sizes = [stat.size for path, stat in looked_at if path.endswith("/a")]
    assert sorted(sizes) == [len("changed"), len("app/src/a")]
    sources.close()


def test_directories_that_are_left_out_are_told_where_they_were_read(
    store: Store, top: Path
) -> None:
    sources = opened(store, top / "app", ignore=("out", "!out/keep*"))
    walk(sources, 0, "")
    looked_at = LookedAt()
    looked_at.add_contexts(sources)
    found = dict(looked_at)
    assert found[f"{top}/app/out"].ino == (top / "app/out").stat().st_ino
    sources.close()


def test_files_by_themselves(top: Path) -> None:
    looked_at = LookedAt()
    assert not looked_at
    looked_at.add(f"{top}/link")
    looked_at.add(f"{top}/lib/c")
    both = LookedAt()
    both.add(f"{top}/app")
    both.add_all(looked_at)
    assert told(both, top) == ["app", "link", "lib/c"]
    assert dict(both)[f"{top}/lib/c"].size == len("lib/c")
    with pytest.raises(FileNotFoundError):
        both.add(f"{top}/gone")


def test_what_nobody_reads_any_more_takes_little(store: Store, tmp_path: Path) -> None:
    files = 5_000
    (tmp_path / "many").mkdir()
    for number in range(files):
        (tmp_path / "many" / f"file-{number:05}").touch()
    time.sleep(0.03)
    tracemalloc.start()
    try:
        sources = opened(store, tmp_path / "many")
        with sources.tree(ContextSource(0), NO_CHAINS) as tree:
            names = [name for name, _ in tree.list("")]
            for name in names:
                tree.digest(name, tree.stat(name))  # type: ignore[arg-type]
        del tree, names
        sources.done(copy(0))
        after, _ = tracemalloc.get_traced_memory()
        assert after / files < 150  # bytes; a tree takes 800
        looked_at = LookedAt()
        looked_at.add_contexts(sources)
        assert sum(1 for _ in looked_at) == files + 1
        sources.close()
    finally:
        tracemalloc.stop()
