"""Holds what is kept of a context to the files as they are."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildgraph.context.reading import ChangedWhileReading
from buildgraph.engine.identify import Identifier
from buildgraph.engine.sources import Sources
from buildgraph.errors import Location
from buildgraph.graph.ops import ContextSource, ContextSpec, CopyOp, Node
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.types import Chain, Platform
from buildgraph_cache.store import Store

HERE = Platform("linux", "amd64")


class Build:
    """One build's look at a context."""

    def __init__(self, store: Store, root: Path, ignore: tuple[str, ...]):
        layers = LayerStore(store)
        spec = ContextSpec(str(root), ignore, "context", ".dockerignore")
        self.sources = Sources(store, layers, (spec,))
        nobody: Any = None
        self.identifier = Identifier(
            store, layers, self.sources, nobody, nobody, epoch=0, profile="1"
        )
        self.walks = 0
        walked = self.sources._context

        def counted(index: int) -> Any:
            self.walks += 1
            return walked(index)

        self.sources._context = counted  # type: ignore[method-assign]

    def key(self, path: str) -> str:
        op = CopyOp(ContextSource(0), (path,), (), "/x/", link=True, unpack=False)
        number = sum(path.encode())
        node = Node(
            number, op, HERE, (None,), "//a:a", "0", "COPY", Location("Dockerfile"), f"s {path}"
        )
        digest = self.identifier.key(node, Chain(), ()).digest
        self.node, self.op = node, op
        return str(digest)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    root = tmp_path / "context"
    for name in ("a/one", "a/two", "b/three", "b/left.out", "c/four"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


Ask = Callable[..., tuple[list[str], int]]


@pytest.fixture
def ask(place: Path, tmp_path: Path) -> Ask:
    def asked(*paths: str, ignore: tuple[str, ...] = ("**/*.out",)) -> tuple[list[str], int]:
        time.sleep(0.03)  # older than the clock's grain
        with Store.open(str(tmp_path / "store")) as store, store.lease():
            build = Build(store, place, ignore)
            keys = [build.key(path) for path in paths]
            build.sources.close()
        return keys, build.walks

    return asked


def test_a_context_that_is_as_it_was_is_not_walked(ask: Ask) -> None:
    first, walks = ask("a", "b")
    assert walks > 0
    assert ask("a", "b") == (first, 0)
    assert ask("a") == (first[:1], 0)


@pytest.mark.parametrize(
    "edit",
    [
        lambda top: (top / "a/one").write_text("1"),
        lambda top: (top / "a/one").chmod(0o700),
        lambda top: (top / "a/new").write_text("n"),
        lambda top: (top / "a/one").unlink(),
        lambda top: os.rename(top / "a/one", top / "a/uno"),
        lambda top: os.link(top / "a/one", top / "a/uno"),
        lambda top: os.setxattr(top / "a/one", "user.x", b"1"),
        lambda top: (top / "a/deep").mkdir(),
        lambda top: os.replace(top / "b/three", top / "a/one"),
    ],
)
def test_any_change_is_seen(ask: Ask, place: Path, edit: Callable[[Path], object]) -> None:
    before, _ = ask("a", "c")
    edit(place)
    after, walks = ask("a", "c")
    assert walks > 0
    assert before[0] != after[0]
    assert before[1] == after[1]
    assert ask("a", "c") == (after, 0)


def test_bytes_written_with_the_old_times_are_seen(ask: Ask, place: Path) -> None:
    before, _ = ask("a")
    stat = (place / "a/one").stat()
    (place / "a/one").write_text("A/ONE")
    os.utime(place / "a/one", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert ask("a")[0] != before


def test_other_rules_are_another_context(ask: Ask) -> None:
    with_rules, _ = ask("b")
    without, walks = ask("b", ignore=())
    assert walks > 0
    assert with_rules != without
    assert ask("b") == (with_rules, 0)


def test_answers_of_several_builds_stay(ask: Ask, place: Path) -> None:
    (a,), _ = ask("a")
    (c,), _ = ask("c")  # the next build asks for both, and learns one of them anew
    ask("a", "c")
    assert ask("a", "c") == ([a, c], 0)
    (place / "c/four").write_text("4")
    (_, changed), walks = ask("a", "c")
    assert walks > 0
    assert changed != c
    assert ask("a", "c")[1] == 0


def test_what_is_copied_is_what_the_key_was_made_from(
    ask: Ask, place: Path, tmp_path: Path
) -> None:
    ask("a")
    time.sleep(0.03)
    with Store.open(str(tmp_path / "store")) as store, store.lease():
        build = Build(store, place, ("**/*.out",))
        build.key("a")
        assert build.walks == 0
        (place / "a/one").write_text("between")
        with pytest.raises(ChangedWhileReading):
            build.identifier.selection(build.node, build.op, ())
        build.identifier.look_again(build.node)
        build.key("a")
        assert build.identifier.selection(build.node, build.op, ()).groups
        build.sources.close()


def test_damage_is_as_good_as_nothing(ask: Ask, tmp_path: Path) -> None:
    keys, _ = ask("a")
    for damage in (b"", b"[", b"[[1, 2]]", b'[[["/", [], "x", true], 3]]'):
        with Store.open(str(tmp_path / "store")) as store:
            for record in list(store.records("context")):
                store.put_record("context", record.key, damage)
        again, walks = ask("a")
        assert again == keys
        assert walks > 0
