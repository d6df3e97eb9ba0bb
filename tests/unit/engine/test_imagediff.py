"""Two images differ in exactly what a container would see differ."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from buildgraph.engine.imagediff import (
    ImageDiff,
    diff_config,
    diff_images,
    installed,
    path_filter,
    text_lines,
)
from buildgraph.errors import InputError
from buildgraph.filetree import Entry, Kind
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.rootview import RootView
from buildgraph.oci.types import Chain, HistoryEntry, Image, ImageConfig, Platform
from buildgraph_cache.store import Store

ME = (os.geteuid(), os.getegid())
CONFIG = ImageConfig(Platform("linux", "amd64"))


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LayerStore]:
    with Store.open(str(tmp_path_factory.mktemp("store") / "s")) as store:
        yield LayerStore(store, overlay="user")


def file(path: str, content: bytes = b"", mode: int = 0o644) -> Entry:
    return Entry(path, Kind.FILE, mode, *ME, len(content), content=content)


def folder(path: str, mode: int = 0o755) -> Entry:
    return Entry(path, Kind.DIR, mode, *ME)


def link(path: str, target: str) -> Entry:
    return Entry(path, Kind.SYMLINK, 0o777, *ME, link=target)


def gone(path: str) -> Entry:
    return Entry(path, Kind.CHAR, 0)


def made(layers: LayerStore, *stack: list[Entry], want: str = "blob") -> tuple[Image, RootView]:
    chain = Chain.of(tuple(layers.create(entries, want) for entries in stack))  # type: ignore[arg-type]
    return Image(CONFIG, chain), RootView(layers, chain)


def told(diff: ImageDiff) -> list[str]:
    return [f"{change.what} {change.path}" for change in diff.files]


@pytest.mark.parametrize("want", ["blob", "directory"])
def test_what_came_went_and_changed(layers: LayerStore, want: str) -> None:
    base = [
        folder("d"),
        file("d/a", b"1"),
        file("d/b", b"2"),
        folder("e"),
        file("e/x"),
        link("l", "d"),
    ]
    one = made(layers, base, want=want)
    above = [folder("d"), file("d/a", b"9"), gone("d/b"), folder("f"), file("f/y"), link("l", "e")]
    two = made(layers, base, above, want=want)
    diff = diff_images(one, two)
    assert told(diff) == ["changed d/a", "removed d/b", "added f", "added f/y", "changed l"]
    (changed,) = [change for change in diff.files if change.path == "d/a"]
    assert changed.before is not None
    assert changed.after is not None
    assert changed.before.digest != changed.after.digest
    assert told(diff_images(two, one))[0] == "changed d/a"
    assert [layer.side for layer in diff.layers] == ["both", "after"]
    assert diff.size_after > diff.size_before


def test_the_same_files_in_other_layers_are_the_same(layers: LayerStore) -> None:
    one = made(layers, [folder("d"), file("d/a", b"1"), file("z", b"2")])
    two = made(layers, [file("z", b"2")], [folder("d"), file("d/a", b"1")])
    diff = diff_images(one, two)
    assert diff.same
    assert [layer.side for layer in diff.layers] == ["before", "after", "after"]


def test_a_directory_that_becomes_a_file_takes_what_is_in_it_along(layers: LayerStore) -> None:
    one = made(layers, [folder("d"), folder("d/e"), file("d/e/a")])
    two = made(layers, [file("d", b"x")])
    assert told(diff_images(one, two)) == ["changed d", "removed d/e", "removed d/e/a"]
    assert told(diff_images(two, one)) == ["changed d", "added d/e", "added d/e/a"]


def test_modes_and_owners_of_directories_count(layers: LayerStore) -> None:
    one = made(layers, [folder("d", 0o755), file("d/a")])
    two = made(layers, [folder("d", 0o700), file("d/a")])
    assert told(diff_images(one, two)) == ["changed d"]


def test_only_the_paths_that_are_wanted(layers: LayerStore) -> None:
    one = made(layers, [folder("d"), file("d/a.py"), file("b")])
    two = made(layers, [])
    diff = diff_images(one, two, wanted=path_filter(["*.py"]), digests=True)
    assert told(diff) == ["removed d/a.py"]
    assert diff.files[0].before is not None
    assert diff.files[0].before.digest.startswith("sha256:e3b0c442")


@pytest.mark.parametrize(
    ("glob", "path", "meant"),
    [
        ("*.py", "a/b/c.py", True),
        ("etc/*", "etc/x", True),
        ("etc/*", "etc/x/y", True),  # what is in a directory that matches
        ("etc/*.d", "etc/x/y.d", False),
        ("/x", "a/x", False),
        ("a/**/z", "a/z", True),
        ("a/**/z", "a/b/c/z", True),
        ("a.b", "aXb", False),
        ("", "", None),
    ],
)
def test_globs(glob: str, path: str, meant: bool | None) -> None:
    if meant is None:
        with pytest.raises(InputError):
            path_filter([glob])
    else:
        assert path_filter([glob])(path) is meant


def test_config_is_compared_name_by_name() -> None:
    one = replace(
        CONFIG, env=(("A", "1"), ("B", "2")), cmd=("sh",), history=(HistoryEntry("RUN a"),)
    )
    two = replace(CONFIG, env=(("A", "3"),), user="app", history=(HistoryEntry("RUN b"),))
    assert {
        c.name: (c.before, c.after) for c in diff_config(one, two) if c.name != "instruction"
    } == {
        "cmd": ('["sh"]', None),
        "user": (None, "app"),
        "env A": ("1", "3"),
        "env B": ("2", None),
    }
    assert [c.after or c.before for c in diff_config(one, two) if c.name == "instruction"] == [
        "RUN a",
        "RUN b",
    ]
    assert list(diff_config(one, one)) == []


STATUS = b"""Package: a
Status: install ok installed
Architecture: amd64
Version: 1.0

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 2

Package: b
Status: install ok installed
Architecture: amd64
Version: 1
Description: x
 Version: 9

Package: b
Status: install ok installed
Architecture: i386
Version: 1
"""


def dpkg(layers: LayerStore, status: bytes) -> tuple[Image, RootView]:
    parents = [folder("var"), folder("var/lib"), folder("var/lib/dpkg")]
    parts = [
        folder("var/lib/dpkg/status.d"),
        file("var/lib/dpkg/status.d/c", b"Package: c\nVersion: 4\n"),
    ]
    return made(layers, [*parents, file("var/lib/dpkg/status", status), *parts])


def test_packages_by_dpkg_status(layers: LayerStore) -> None:
    one = dpkg(layers, STATUS)
    assert installed(one[1]) == {"a": "1.0", "b:amd64": "1", "b:i386": "1", "c": "4"}
    two = dpkg(layers, STATUS.replace(b"1.0", b"1.1"))
    assert [(c.name, c.before, c.after) for c in diff_images(one, two).packages] == [
        ("a", "1.0", "1.1")
    ]


def test_lines_of_text_files_alone(layers: LayerStore) -> None:
    _, view = made(
        layers, [file("t", b"a\nb\n"), file("n", b"a\0"), file("u", b"\xff"), folder("d")]
    )
    assert text_lines(view, "t") == ["a", "b"]
    assert [text_lines(view, name) for name in ("n", "u", "d", "none")] == [None] * 4
