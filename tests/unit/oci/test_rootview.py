"""Layers on top of each other look as overlayfs shows them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from buildgraph import limits
from buildgraph.errors import InputError
from buildgraph.filetree import Entry, Kind
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.rootview import RootView
from buildgraph.oci.types import Chain, Layer
from buildgraph_cache.digest import sha256_digest
from buildgraph_cache.store import Store

ME = (os.geteuid(), os.getegid())


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LayerStore]:
    with Store.open(str(tmp_path_factory.mktemp("store") / "s")) as store:
        yield LayerStore(store, overlay="user")


def file(path: str, content: bytes = b"") -> Entry:
    return Entry(path, Kind.FILE, 0o644, *ME, len(content), content=content)


def folder(path: str, mode: int = 0o755) -> Entry:
    return Entry(path, Kind.DIR, mode, *ME)


def link(path: str, target: str) -> Entry:
    return Entry(path, Kind.SYMLINK, 0o777, *ME, link=target)


def gone(path: str) -> Entry:
    return Entry(path, Kind.CHAR, 0)


def view(layers: LayerStore, *stack: list[Entry], want: str = "blob") -> RootView:
    made = [layers.create(entries, want) for entries in stack]  # type: ignore[arg-type]
    return RootView(layers, Chain.of(tuple(made)))


BOTH = pytest.mark.parametrize("want", ["blob", "directory"])


@BOTH
def test_upper_layers_win_and_directories_merge(layers: LayerStore, want: str) -> None:
    root = view(
        layers,
        [folder("d"), file("d/a", b"low"), file("d/b", b"low"), folder("e"), file("e/x")],
        [folder("d", 0o700), file("d/b", b"high!"), gone("d/a"), gone("e")],
        [folder("e"), file("e/y")],
        want=want,
    )
    assert [name for name, _ in root.list("")] == ["d", "e"]
    assert [name for name, _ in root.list("d")] == ["b"]
    assert [name for name, _ in root.list("e")] == ["y"]
    assert root.read_file("d/b", 10) == b"high!"
    assert root.stat("d/a") is None
    assert root.stat("e/x") is None
    stat = root.stat("d")
    assert stat is not None
    assert stat.mode == 0o700


@BOTH
def test_a_file_over_a_directory_and_back(layers: LayerStore, want: str) -> None:
    root = view(layers, [folder("d"), file("d/a")], [file("d")], [folder("d")], want=want)
    assert root.list("d") == []
    lower = view(layers, [folder("d"), file("d/a")], [file("d")], want=want)
    assert lower.stat("d/a") is None
    with pytest.raises(NotADirectoryError):
        lower.list("d")
    with pytest.raises(FileNotFoundError):
        lower.list("nothing")
    with pytest.raises(FileNotFoundError):
        lower.open("nothing")


@BOTH
@pytest.mark.parametrize("listed", [False, True])
def test_many_files_are_hashed_as_they_are_seen(
    layers: LayerStore, want: str, listed: bool
) -> None:
    kept = (("user.k", b"v"),)
    root = view(
        layers,
        [folder("d", 0o700), file("d/a", b"low"), file("d/b", b"low"), file("d/c", b"low")],
        [folder("d"), file("d/b", b"high!"), gone("d/a"), replace(file("d/x", b"x"), xattrs=kept)],
        [file("top"), replace(folder("e"), xattrs=kept)],
        want=want,
    )
    if listed:
        assert [name for name, _ in root.list("d")] == ["b", "c", "x"]
    files = {"d/b": b"high!", "d/c": b"low", "d/x": b"x", "top": b""}
    assert root.hash_many(files) == {path: sha256_digest(data) for path, data in files.items()}
    assert root.xattrs_many([*files, "d", "e"]) == {"d/x": kept, "e": kept}
    for path in ("d/a", "d/new", "new/a"):
        assert root.stat(path) is None
        with pytest.raises(FileNotFoundError):
            root.hash_many([path])
        with pytest.raises(FileNotFoundError):
            root.open(path)


def test_no_layers_are_an_empty_root(layers: LayerStore) -> None:
    root = RootView(layers, Chain())
    assert root.list("") == []
    assert root.stat("x") is None
    stat = root.stat("")
    assert stat is not None
    assert stat.kind is Kind.DIR
    assert root.xattrs("") == ()


@BOTH
def test_links_are_followed_inside_the_root(layers: LayerStore, want: str) -> None:
    root = view(
        layers,
        [folder("usr"), folder("usr/lib"), file("usr/lib/x", b"1"), link("lib", "usr/lib")],
        [link("abs", "/lib"), link("up", "../../../lib/./x"), link("dangling", "/var/run/y")],
        want=want,
    )
    assert root.resolve("/lib/x") == "usr/lib/x"
    assert root.resolve("abs/x") == "usr/lib/x"
    assert root.resolve("up") == "usr/lib/x"
    assert root.resolve("lib/../lib/new/../file") == "usr/lib/file"
    assert root.resolve("dangling/z") == "var/run/y/z"
    assert root.resolve("/") == ""
    assert root.resolve("../../etc") == "etc"
    assert root.read_file("/abs/x", 1) == b"1"
    assert root.read_file("/dangling", 1) is None
    assert root.read_file("/lib", 1) is None
    assert root.stat("lib/x") is None, "stat follows nothing"


def test_loops_end(layers: LayerStore) -> None:
    root = view(layers, [link("a", "b"), link("b", "a")])
    with pytest.raises(InputError, match="too many symbolic links"):
        root.resolve("a/x")


def test_reading_has_a_cap(layers: LayerStore) -> None:
    root = view(layers, [file("f", b"x" * 11)])
    with pytest.raises(InputError, match="11 bytes, more than 10"):
        root.read_file("f", 10)
    assert limits.PASSWD_BYTES > 10


_NAMES = st.sampled_from(["a", "b", "a/a", "a/b", "b/a", "a/a/a"])


@st.composite
def stacks(draw: st.DrawFn) -> list[list[Entry]]:
    out = []
    for _ in range(draw(st.integers(1, 4))):
        entries: dict[str, Entry] = {}
        for path in draw(st.lists(_NAMES, max_size=5)):
            parent = path.rpartition("/")[0]
            while parent:
                entries[parent] = folder(parent)
                parent = parent.rpartition("/")[0]
            if path not in entries:
                entries[path] = draw(st.sampled_from([file(path), folder(path), gone(path)]))
        kept = [
            e
            for e in entries.values()
            if all(entries[up].kind is Kind.DIR for up in entries if e.path.startswith(up + "/"))
        ]
        out.append(kept)
    return out


def apply(stack: list[list[Entry]]) -> dict[str, Kind]:
    """The same merge, the way the image specification tells it."""
    root: dict[str, Kind] = {}
    for entries in stack:
        for entry in sorted(entries, key=lambda e: e.path):
            if entry.kind is not Kind.DIR or root.get(entry.path) is not Kind.DIR:
                for path in [p for p in root if (p + "/").startswith(entry.path + "/")]:
                    del root[path]
            if entry.kind is not Kind.CHAR:
                root[entry.path] = entry.kind
    return root


def walk(root: RootView, parent: str = "") -> dict[str, Kind]:
    out = {}
    for name, stat in root.list(parent):
        path = f"{parent}/{name}" if parent else name
        out[path] = stat.kind
        assert root.stat(path) == stat
        if stat.kind is Kind.DIR:
            out |= walk(root, path)
    return out


@settings(max_examples=80)
@given(stacks(), st.booleans())
def test_random_stacks_merge_as_the_specification_says(
    layers: LayerStore, stack: list[list[Entry]], unpacked: bool
) -> None:
    root = view(layers, *stack, want="directory" if unpacked else "blob")
    assert walk(root) == apply(stack)


def test_opening_takes_the_bytes_of_the_right_layer(layers: LayerStore, tmp_path: Path) -> None:
    root = view(layers, [file("f", b"1")], [file("g", b"2")])
    assert [os.read(root.open(name), 9) for name in ("f", "g")] == [b"1", b"2"]
    assert root.digest("f", root.stat("f")).startswith("sha256:6b86b273ff34f")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not a regular file"):
        view(layers, [folder("d")]).open("d")


def test_a_layer_is_looked_at_once(layers: LayerStore) -> None:
    made: Layer = layers.create([folder("d"), file("d/x")], "blob")
    first = RootView(layers, Chain.of((made,)))
    second = RootView(layers, Chain.of((made,)))
    assert first.list("d") == second.list("d")
    assert layers.toc(made) is layers.toc(made)
