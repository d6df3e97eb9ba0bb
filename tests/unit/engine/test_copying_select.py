"""Which files a COPY or ADD means, and when two selections are the same."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import lzma
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from buildgraph.context.ignore import IgnoreRules
from buildgraph.context.remembered import NoStatCache
from buildgraph.context.tree import ContextTree
from buildgraph.engine.copying import Selection, select
from buildgraph.errors import InputError, Location
from buildgraph.filetree import Kind
from buildgraph.graph.ops import ContextSource, CopyOp, InlineFile, StageSource
from unit.engine.memorytree import MemoryTree

WHERE = Location("Dockerfile", 3)


def op(*paths: str, stage: bool = False, **kwargs: Any) -> CopyOp:
    kwargs.setdefault("unpack", False)
    source = StageSource(1) if stage else ContextSource(0)
    return CopyOp(source, paths, kwargs.pop("inline", ()), kwargs.pop("dest", "/d/"), **kwargs)


def names(selection: Selection) -> list[str]:
    """All names, as they would be inside a destination directory."""
    return sorted(
        item.name if group.is_dir else group.name
        for group in selection.groups
        for item in group.items
    )


def picked(tree: MemoryTree, *paths: str, **kwargs: Any) -> list[str]:
    return names(select(op(*paths, **kwargs), tree, WHERE))


@pytest.fixture
def tree() -> MemoryTree:
    return (
        MemoryTree()
        .file("foo", b"foo")
        .file("bar.txt", b"bar")
        .file("sub/dir1/dir2/foo", b"deep")
        .file("sub/other/x", b"x")
        .file("sub/top", b"top")
        .link("tofile", "foo")
        .link("todir", "sub/dir1")
        .link("abs", "/sub/top")
        .link("sub/up", "../../../foo")
        .link("gone", "nowhere")
        .link("host", "/etc/passwd")
        .link("loop", "loop")
        .file("a*b", b"star")
        .file("[x]", b"bracket")
        .file("back\\slash", b"back")
    )


# --- sources (1.5, 1.10) --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("foo", ["foo"]),
        ("/foo", ["foo"]),
        ("./foo", ["foo"]),
        ("foo/", ["foo"]),  # a trailing slash on a source is ignored
        ("../../foo", ["foo"]),  # clamped to the root (A03)
        ("sub/../foo", ["foo"]),
        ("sub/dir1", ["dir2", "dir2/foo"]),  # a directory's contents
        ("sub/dir1/", ["dir2", "dir2/foo"]),
        ("sub/dir1/.", ["dir2", "dir2/foo"]),
        ("/sub/dir1", ["dir2", "dir2/foo"]),
        ("tofile", ["tofile"]),  # followed, under the link's own name
        ("todir", ["dir2", "dir2/foo"]),
        ("abs", ["abs"]),
        ("sub/up", ["up"]),
        ("todir/dir2/foo", ["foo"]),
        ("sub/dir1/*/foo", ["foo"]),
        ("f*", ["foo"]),
        ("*.txt", ["bar.txt"]),
        ("ba?.txt", ["bar.txt"]),
        ("[fb]oo", ["foo"]),
        ("[^f]ar.txt", ["bar.txt"]),
        ("nomatch*", []),  # a glob may match nothing
        ("missing/*", []),
        ("foo/*", []),
        ("sub/*", ["dir2", "dir2/foo", "top", "up", "x"]),  # each directory gives its contents
        ("sub/*/dir2/foo", ["foo"]),
        ("sub/*/dir2", ["foo"]),
        ("todir/*", ["foo"]),  # a link before the first wildcard is followed
        ("tod*/dir2", []),  # a link where the wildcard stands is not gone into
        ("tod*", ["dir2", "dir2/foo"]),  # but is followed as what was matched
        (r"a\*b", ["a*b"]),
        ("a*b", ["a*b"]),
        ("[[]x]", ["[x]"]),
        (r"\[x]", ["[x]"]),
        (r"back\slash", ["back\\slash"]),
        (r"back\\slash", ["back\\slash"]),
        ("**/foo", []),  # no `**` in COPY: two stars are one, and stop at a slash
        ("sub/**/dir2", ["foo"]),
    ],
)
def test_sources(tree: MemoryTree, source: str, expected: list[str]) -> None:
    assert picked(tree, source) == expected


def test_a_glob_that_matches_nothing_leaves_the_others(tree: MemoryTree) -> None:
    assert picked(tree, "foo", "nomatch*") == ["foo"]


@pytest.mark.parametrize(
    ("source", "words", "hint"),
    [
        ("missing", "'missing' not found in the context", None),
        ("fooo", "'fooo' not found", "did you mean 'foo'?"),
        ("sub/tob", "'sub/tob' not found", "did you mean 'top'?"),
        ("missing/x", "not found", None),
        ("foo/x", "'foo' is not a directory", None),
        ("gone", "leads to /nowhere, and that is not there", None),
        ("host", "leads to /etc/passwd, and that is not there", None),  # A01
        ("../x", "'../x' not found", "nothing outside it can be copied"),
        ("g*", "leads to /nowhere", None),
        ("loop", "too many symbolic links", None),
        ("a[", r"malformed pattern 'a\['", None),
        ("[]a]", "malformed pattern", None),
    ],
)
def test_wrong_sources(tree: MemoryTree, source: str, words: str, hint: str | None) -> None:
    with pytest.raises(InputError, match=words) as caught:
        picked(tree, source)
    assert caught.value.where == WHERE
    if hint is not None:
        assert hint in (caught.value.hint or "")


def test_a_stage_is_called_so(tree: MemoryTree) -> None:
    with pytest.raises(InputError, match="not found in the stage"):
        picked(tree, "missing", stage=True)


def test_a_source_that_the_ignore_file_leaves_out_says_so(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("")
    rules = IgnoreRules.parse("# no secrets\nsecret\n", "app/.dockerignore")
    with ContextTree(str(tmp_path), rules, NoStatCache()) as context:
        for source in ("secret", "secret/key", "./secret/"):
            with pytest.raises(InputError, match=r"left out .* by app/\.dockerignore: secret") as e:
                select(op(source), context, WHERE)
            assert "!secret" in (e.value.hint or "")
        with pytest.raises(InputError, match="not found"):
            select(op("secret/none"), context, WHERE)


def test_links_inside_a_copied_directory_stay_links(tree: MemoryTree) -> None:
    selection = select(op("."), tree, WHERE)
    kinds = {item.name: item.stat.kind for item in selection.groups[0].items}
    assert kinds["host"] is Kind.SYMLINK
    assert kinds["todir"] is Kind.SYMLINK
    assert "todir/dir2" not in kinds


def test_heredocs_come_after_the_files(tree: MemoryTree) -> None:
    files = (InlineFile("a.sh", b"#!/bin/sh\n"), InlineFile("b", b""))
    selection = select(op("foo", inline=files), tree, WHERE)
    assert [group.name for group in selection.groups] == ["foo", "a.sh", "b"]
    assert selection.groups[1].items[0].stat.mode == 0o644


# --- --parents ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("sub/dir1/dir2/foo", ["sub", "sub/dir1", "sub/dir1/dir2", "sub/dir1/dir2/foo"]),
        ("sub/./dir1/dir2/foo", ["dir1", "dir1/dir2", "dir1/dir2/foo"]),
        ("sub/dir1", ["sub", "sub/dir1", "sub/dir1/dir2", "sub/dir1/dir2/foo"]),
        ("./sub/./dir1/dir2/", ["dir1", "dir1/dir2", "dir1/dir2/foo"]),
        ("sub/dir1/./", ["dir2", "dir2/foo"]),
        ("todir/./dir2", ["dir2", "dir2/foo"]),
        ("**/foo", ["foo", "sub", "sub/dir1", "sub/dir1/dir2", "sub/dir1/dir2/foo"]),
        ("sub/./**/foo", ["dir1", "dir1/dir2", "dir1/dir2/foo"]),
        ("sub/*/x", ["sub", "sub/other", "sub/other/x"]),
        ("sub/o*", ["sub", "sub/other", "sub/other/x"]),
        ("nomatch/*", []),
        ("missing/./x*", []),
        ("../sub/./top", ["top"]),
    ],
)
def test_parents(tree: MemoryTree, source: str, expected: list[str]) -> None:
    assert picked(tree, source, parents=True) == expected


@pytest.mark.parametrize(
    "source", ["missing", "sub/./missing", "missing/./x", "foo/x", "todir/dir2"]
)
def test_a_literal_path_with_parents_must_exist(tree: MemoryTree, source: str) -> None:
    with pytest.raises(InputError, match="not found"):
        picked(tree, source, parents=True)


def test_parents_reads_no_more_than_it_must(tree: MemoryTree) -> None:
    picked(tree, "sub/dir1/dir2/foo", parents=True)
    assert tree.listed == []
    picked(tree, "sub/d*/dir2/f*", parents=True)
    assert "sub/other" not in tree.listed


# --- --exclude ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "exclude", "expected"),
    [
        ("sub", ["dir1"], ["other", "other/x", "top", "up"]),
        ("sub", ["**/foo"], ["dir1", "dir1/dir2", "other", "other/x", "top", "up"]),
        ("sub", ["*", "!dir1/dir2/foo"], ["dir1", "dir1/dir2", "dir1/dir2/foo"]),
        ("sub", ["*", "!dir1/none"], []),
        ("sub/dir1", ["dir1"], ["dir2", "dir2/foo"]),  # relative to what is copied
        ("*.txt", ["bar*"], []),  # BuildKit's issue 5489: fixed here
        ("foo", ["f*"], []),
        ("sub/*", ["dir1", "up"], ["top", "x"]),
        ("sub", ["/dir1/"], ["other", "other/x", "top", "up"]),
    ],
)
def test_exclude(tree: MemoryTree, source: str, exclude: list[str], expected: list[str]) -> None:
    assert picked(tree, source, exclude=tuple(exclude)) == expected


def test_exclude_with_parents_is_relative_to_the_pivot(tree: MemoryTree) -> None:
    got = picked(tree, "sub/./**", parents=True, exclude=("dir1/dir2", "up"))
    assert got == ["dir1", "other", "other/x", "top"]
    assert picked(tree, "sub/./top", parents=True, exclude=("top",)) == []


def test_a_bad_exclude_is_an_input_error(tree: MemoryTree) -> None:
    with pytest.raises(InputError, match="malformed pattern"):
        picked(tree, "sub", exclude=("[",))


# --- what a layer cannot hold (A05) ---------------------------------------------------------------


def test_special_files() -> None:
    tree = MemoryTree().node("d/fifo", Kind.FIFO).node("d/sock", Kind.SOCKET)
    tree.node("d/tty", Kind.CHAR, os.makedev(5, 0))
    assert picked(tree, "d") == ["fifo", "tty"]
    assert picked(tree, "d/*") == ["fifo", "tty"]
    with pytest.raises(InputError, match="is a socket"):
        picked(tree, "d/sock")


@pytest.mark.parametrize("source", ["d", "d/.wh.x", "d/*"])
def test_whiteout_names_are_refused(source: str) -> None:
    with pytest.raises(InputError, match="would delete 'x'"):
        picked(MemoryTree().file("d/.wh.x"), source)


def test_the_device_that_means_deleted_is_refused() -> None:
    with pytest.raises(InputError, match="would mean a deleted file"):
        picked(MemoryTree().node("d/x", Kind.CHAR, 0), "d", stage=True)


# --- identity (section 3) -------------------------------------------------------------------------


def key(tree: MemoryTree, *paths: str, **kwargs: Any) -> str:
    return select(op(*paths, **kwargs), tree, WHERE).tree_digest()


def base() -> MemoryTree:
    tree = MemoryTree().dir("d", 0o755, 5, 5).file("d/f", b"data", 0o644, 1, 2, mtime=7)
    tree.dir("d/s", 0o750).link("d/l", "f").file("d/t", b"")
    tree.attributes["d/f"] = (("user.a", b"1"),)
    return tree


CHANGES = {
    "bytes": lambda t: t.file("d/f", b"DATA", 0o644, 1, 2, mtime=7),
    "mode": lambda t: t.file("d/f", b"data", 0o755, 1, 2, mtime=7),
    "setuid": lambda t: t.file("d/f", b"data", 0o4644, 1, 2, mtime=7),
    "new file": lambda t: t.file("d/g"),
    "new directory": lambda t: t.dir("d/g"),
    "link target": lambda t: t.link("d/l", "t"),
    "type": lambda t: t.link("d/t", "f"),
    "directory mode": lambda t: t.dir("d/s", 0o755),
    "xattr": lambda t: t.attributes.update({"d/f": (("user.a", b"2"),)}),
    "capability": lambda t: t.attributes.update({"d/t": (("security.capability", b"\0"),)}),
    "hard link": lambda t: t.hardlink("d/u", "d/t"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_the_identity(change: str) -> None:
    tree = base()
    before = key(tree, "d", stage=True)
    CHANGES[change](tree)
    assert key(tree, "d", stage=True) != before


def test_what_does_not() -> None:
    before = key(base(), "d")
    tree = base()
    tree.file("d/f", b"data", 0o644, 8, 9, mtime=99)  # owners of a context, times of anything
    tree.dir("d", 0o700, 1, 1)  # the copied directory itself
    assert key(tree, "d") == before
    assert key(tree, "./d/") == before
    moved = MemoryTree()
    for path, stat in base().stats.items():
        moved.stats[path.replace("d", "e", 1)] = stat
    moved.bytes = {p.replace("d", "e", 1): b for p, b in base().bytes.items()}
    moved.attributes = {"e/f": (("user.a", b"1"),)}
    assert key(moved, "e") == before


def test_owners_count_for_stages_unless_chown_sets_them() -> None:
    other = base().file("d/f", b"data", 0o644, 8, 9, mtime=7)
    assert key(other, "d", stage=True) != key(base(), "d", stage=True)
    assert key(other, "d", stage=True, chown="1") == key(base(), "d", stage=True, chown="1")


def test_chmod_makes_source_modes_count_less() -> None:
    other = base().file("d/f", b"data", 0o600, 1, 2, mtime=7)
    assert key(other, "d", chmod="644") == key(base(), "d", chmod="644")
    assert key(other, "d", chmod="u+x") != key(base(), "d", chmod="u+x")
    assert key(other, "d", chmod="go=r") == key(base(), "d", chmod="go=r")


def test_times_count_only_where_they_are_kept() -> None:
    other = base().file("d/f", b"data", 0o644, 1, 2, mtime=8)
    assert key(other, "d") == key(base(), "d")
    assert key(other, "d", preserve_times=True) != key(base(), "d", preserve_times=True)


def test_a_renamed_match_is_another_and_a_moved_file_is_not() -> None:
    tree = MemoryTree().file("x/a", b"1").file("y/a", b"1").file("y/b", b"1")
    assert key(tree, "x/a") == key(tree, "y/a")
    assert key(tree, "y/a") != key(tree, "y/b")
    assert key(tree, "y/*") != key(tree, "x/*")


def test_a_file_and_a_directory_that_holds_it_differ() -> None:
    tree = MemoryTree().file("d/a", b"1")
    assert key(tree, "d") != key(tree, "d/a")
    assert key(MemoryTree().dir("d"), "d") != key(MemoryTree(), "n*")


def test_hard_links_count_inside_one_source_only() -> None:
    tree = MemoryTree().file("a", b"1").hardlink("b", "a")
    plain = MemoryTree().file("a", b"1").file("b", b"1")
    assert key(tree, "a", "b") == key(plain, "a", "b")
    assert key(tree, ".") != key(plain, ".")


def test_the_listing_is_json_and_its_order_hangs_on_names_alone() -> None:
    names_of = ["b", "a", "a-b", "a/x", "é", "\udcff", "Z"]
    rows = set()
    for order in itertools.islice(itertools.permutations(names_of), 0, 5000, 500):
        tree = MemoryTree(shuffled=len(rows) % 2 == 0)
        for name in order:
            if name == "a":
                tree.dir("a")
            else:
                tree.file(name, name.encode("utf-8", "surrogateescape"))
        selection = select(op("."), tree, WHERE)
        rows.add(json.dumps(selection.listing()))
        assert json.loads(json.dumps(selection.identity()))["count"] == 7
    assert len(rows) == 1


def test_a_context_on_disk_and_one_in_memory_agree(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir(mode=0o750)
    (tmp_path / "f").write_bytes(b"data")
    os.chmod(tmp_path / "f", 0o4644)
    os.link(tmp_path / "f", tmp_path / "g")
    os.symlink("f", tmp_path / "l")
    memory = MemoryTree().dir("s", 0o750).file("f", b"data", 0o4644).link("l", "f")
    memory.hardlink("g", "f")
    with ContextTree(str(tmp_path), IgnoreRules(), NoStatCache()) as context:
        assert select(op("."), context).listing() == select(op("."), memory).listing()


# --- archives (ADD) -------------------------------------------------------------------------------


def tar_bytes() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("x"))
    return out.getvalue()


PACKED = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}


@pytest.mark.parametrize("form", PACKED)
def test_add_unpacks_by_content(form: str) -> None:
    data = PACKED[form](tar_bytes())
    tree = MemoryTree().file("no-name-of-an-archive", data).link("l", "no-name-of-an-archive")
    for source in ("no-name-of-an-archive", "no*", "l"):
        selection = select(op(source, unpack=None), tree, WHERE)
        assert selection.archives == ("no-name-of-an-archive",)
        assert selection.groups == ()
    assert picked(tree, "no*", unpack=False) == ["no-name-of-an-archive"]
    assert select(op(".", unpack=None), tree, WHERE).archives == ()  # only what is named itself


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\0" * 1024,
        tar_bytes()[:300],
        gzip.compress(b"hello", mtime=0),
        gzip.compress(tar_bytes(), mtime=0)[:40],
        b"\x1f\x8b\x08garbage",
        lzma.compress(b"hello" * 1000),
        b"\x28\xb5\x2f\xfdgarbage",
        b"BZh9nothing",
        b"x" * 512,
        tar_bytes()[:148] + b"00000000" + tar_bytes()[156:],
    ],
    ids=range(12),
)
def test_anything_else_is_copied(data: bytes) -> None:
    tree = MemoryTree().file("a.tar.gz", data)
    assert picked(tree, "a.tar.gz", unpack=None) == ["a.tar.gz"]


def test_archives_are_part_of_the_identity() -> None:
    one = MemoryTree().file("a.tar", tar_bytes())
    two = MemoryTree().file("a.tar", tar_bytes() + b"\0" * 512)
    assert key(one, "a.tar", unpack=None) != key(two, "a.tar", unpack=None)
    assert key(one, "a.tar", unpack=None) != key(one, "a.tar", unpack=False)
