"""Where files go, what is made on the way, who owns it, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from buildgraph import limits
from buildgraph.engine.copying import (
    DestFacts,
    destination,
    entries,
    mkdir_entries,
    mkdir_facts,
    select,
)
from buildgraph.engine.filemodes import Chmod
from buildgraph.errors import InputError, Location
from buildgraph.filetree import Entry, FromTree, Kind, name_order
from buildgraph.graph.ops import ContextSource, CopyOp, InlineFile, MkdirOp, StageSource
from unit.engine.memorytree import MemoryTree

WHERE = Location("Dockerfile", 3)


def op(*paths: str, dest: str = "/d/", stage: bool = False, **kwargs: Any) -> CopyOp:
    kwargs.setdefault("unpack", False)
    source = StageSource(1) if stage else ContextSource(0)
    return CopyOp(source, paths, kwargs.pop("inline", ()), dest, **kwargs)


def run(tree: MemoryTree, below: MemoryTree | None, *paths: str, **kwargs: Any) -> dict[str, Entry]:
    copy = op(*paths, **kwargs)
    selection = select(copy, tree, WHERE)
    facts = destination(copy, selection, below, WHERE)
    assert json.dumps(facts.as_json())
    made = entries(copy, selection, facts)
    assert [e.path for e in made] == sorted((e.path for e in made), key=name_order)
    for entry in made:  # a layer stands for itself
        parent = entry.path.rpartition("/")[0]
        assert not parent or parent in {e.path for e in made if e.kind is Kind.DIR}
    return {entry.path: entry for entry in made}


def meta(entry: Entry) -> tuple[int, int, int]:
    return entry.mode, entry.uid, entry.gid


@pytest.fixture
def tree() -> MemoryTree:
    return (
        MemoryTree()
        .file("foo", b"foo", 0o640, 7, 8, mtime=1000)
        .file("bar", b"bar", 0o4755)
        .dir("dir", 0o700, 100, 200)
        .dir("dir/sub", 0o2770, 100, 200)
        .file("dir/sub/x", b"x", 0o600, 100, 200)
        .link("dir/l", "/sub/x")
    )


@pytest.fixture
def below() -> MemoryTree:
    tree = (
        MemoryTree()
        .dir("srv", 0o711, 3, 4)
        .dir("srv/app", 0o750, 5, 6)
        .file("srv/app/old", b"old")
        .dir("srv/app/sub", 0o700, 9, 9)
        .link("opt", "/srv/app")
        .link("srv/up", "../../../srv/app/new/place")
        .link("tofile", "srv/app/old")
        .file("etc/passwd", b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n")
        .file("etc/group", b"root:x:0:\nstaff:x:50:app\n")
    )
    tree.attributes["srv/app"] = (("user.k", b"v"),)
    return tree


# --- paths (1.5, 1.10) ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "dest", "paths"),
    [
        (["foo"], "/d/", ["d", "d/foo"]),
        (["foo"], "/d", ["d"]),
        (["foo"], "/", ["foo"]),
        (
            ["foo"],
            "/test1/test2/bar/baz",
            ["test1", "test1/test2", "test1/test2/bar", "test1/test2/bar/baz"],
        ),
        (["foo"], "/srv/app", ["srv", "srv/app", "srv/app/foo"]),  # an existing directory
        (["foo"], "/srv/app/", ["srv", "srv/app", "srv/app/foo"]),
        (["foo"], "/srv/app/old", ["srv", "srv/app", "srv/app/old"]),  # a file is replaced
        (["foo"], "/srv/app/.", ["srv", "srv/app", "srv/app/foo"]),
        (["foo"], "/x/..", ["foo"]),
        (["foo"], "/../../x/", ["x", "x/foo"]),  # clamped (A03)
        (["foo"], "/opt", ["srv", "srv/app", "srv/app/foo"]),  # through a link, inside
        (["foo"], "/opt/sub/y", ["srv", "srv/app", "srv/app/sub", "srv/app/sub/y"]),
        (["foo"], "/tofile", ["srv", "srv/app", "srv/app/old"]),
        (
            ["foo"],
            "/srv/up/",
            ["srv", "srv/app", "srv/app/new", "srv/app/new/place", "srv/app/new/place/foo"],
        ),
        (["foo", "bar"], "/d/", ["d", "d/bar", "d/foo"]),
        (["foo", "nomatch*"], "/d/", ["d", "d/foo"]),
        (["nomatch*"], "/d/", []),
        (["dir"], "/d", ["d", "d/l", "d/sub", "d/sub/x"]),
        (["dir"], "/", ["l", "sub", "sub/x"]),
        (["dir/s*"], "/d", ["d", "d/x"]),
        (["dir", "foo"], "/d", ["d", "d/foo", "d/l", "d/sub", "d/sub/x"]),
    ],
)
def test_paths(
    tree: MemoryTree, below: MemoryTree, sources: list[str], dest: str, paths: list[str]
) -> None:
    assert list(run(tree, below, *sources, dest=dest)) == paths


def test_a_glob_with_one_match_may_name_a_file() -> None:
    tree = MemoryTree().file("sub/dir1/dir2/foo", b"1")
    made = run(tree, None, "sub/*/dir2/foo", dest="/d/bar")
    assert made["d/bar"].kind is Kind.FILE
    assert list(run(tree, None, "sub/*", dest="/d/")) == ["d", "d/dir2", "d/dir2/foo"]


def test_the_last_of_several_files_on_one_path_stays(tree: MemoryTree) -> None:
    made = run(tree, None, "foo", "bar", dest="/d")
    assert made["d"].size == 3
    assert isinstance(made["d"].content, FromTree)
    assert made["d"].content.path == "bar"


def test_an_empty_directory_makes_its_destination() -> None:
    assert list(run(MemoryTree().dir("e"), None, "e", dest="/a/b")) == ["a", "a/b"]


# --- metadata -------------------------------------------------------------------------------------


def test_a_new_destination_is_0755_root_and_what_is_in_it_keeps_its_own(tree: MemoryTree) -> None:
    made = run(tree, None, "dir", dest="/a/new", stage=True)
    assert meta(made["a"]) == (0o755, 0, 0)
    assert meta(made["a/new"]) == (0o755, 0, 0)  # not the source's 0700 100:200
    assert meta(made["a/new/sub"]) == (0o2770, 100, 200)
    assert meta(made["a/new/sub/x"]) == (0o600, 100, 200)


def test_an_existing_destination_keeps_its_own(tree: MemoryTree, below: MemoryTree) -> None:
    made = run(tree, below, "dir", dest="/srv/app", stage=True)
    assert meta(made["srv"]) == (0o711, 3, 4)
    assert meta(made["srv/app"]) == (0o750, 5, 6)
    assert made["srv/app"].xattrs == (("user.k", b"v"),)
    assert meta(made["srv/app/sub"]) == (0o2770, 100, 200)  # nested: the source's


def test_files_of_a_context_belong_to_root(tree: MemoryTree) -> None:
    made = run(tree, None, "dir", "foo", "bar")
    assert {meta(e)[1:] for e in made.values()} == {(0, 0)}
    assert made["d/foo"].mode == 0o640
    assert made["d/bar"].mode == 0o4755  # setuid is kept (A10)


def test_attributes_go_along(tree: MemoryTree) -> None:
    tree.attributes["bar"] = (("security.capability", b"\1"), ("user.x", b"y"))
    tree.attributes["dir/sub"] = (("user.d", b"z"),)
    made = run(tree, None, "bar", "dir")
    assert made["d/bar"].xattrs == (("security.capability", b"\1"), ("user.x", b"y"))
    assert made["d/sub"].xattrs == (("user.d", b"z"),)


def test_the_same_entries_twice(tree: MemoryTree) -> None:
    assert run(tree, None, "dir", "bar") == run(tree, None, "dir", "bar")


def test_times(tree: MemoryTree) -> None:
    assert run(tree, None, "foo")["d/foo"].mtime is None
    kept = run(tree, None, "foo", preserve_times=True)
    assert kept["d/foo"].mtime == 1000
    assert kept["d"].mtime is None


def test_links_and_nodes(tree: MemoryTree) -> None:
    tree.node("dir/fifo", Kind.FIFO).node("dir/null", Kind.CHAR, 259)
    made = run(tree, None, "dir", chmod="600")
    assert (made["d/l"].kind, made["d/l"].link, made["d/l"].mode) == (
        Kind.SYMLINK,
        "/sub/x",
        0o777,
    )
    assert made["d/fifo"].kind is Kind.FIFO
    assert (made["d/null"].kind, made["d/null"].rdev) == (Kind.CHAR, 259)


def test_hard_links_inside_one_source(tree: MemoryTree) -> None:
    tree.hardlink("dir/a", "dir/sub/x")
    made = run(tree, None, "dir", "dir/sub/x")
    assert made["d/a"].kind is Kind.FILE
    assert (made["d/sub/x"].kind, made["d/sub/x"].link) == (Kind.HARDLINK, "d/a")
    assert made["d/sub/x"].content is None
    assert made["d/x"].kind is Kind.FILE  # another source, another copy


def test_a_replaced_first_name_does_not_break_a_hard_link(tree: MemoryTree) -> None:
    tree.hardlink("dir/a", "dir/sub/x").file("o/a", b"other")
    made = run(tree, None, "dir", "o/a", dest="/d/")
    assert made["d/a"].size == 5
    assert made["d/sub/x"].kind is Kind.FILE


def test_heredocs(tree: MemoryTree) -> None:
    files = (InlineFile("a.sh", b"hi\n"),)
    made = run(tree, None, inline=files, dest="/x/")
    assert (made["x/a.sh"].content, made["x/a.sh"].size) == (b"hi\n", 3)
    assert meta(made["x/a.sh"]) == (0o644, 0, 0)
    made = run(tree, None, inline=files, dest="/x", chmod="+x", chown="5:6")
    assert meta(made["x"]) == (0o755, 5, 6)


# --- --chmod --------------------------------------------------------------------------------------


def test_chmod_applies_to_files_and_new_directories(tree: MemoryTree, below: MemoryTree) -> None:
    made = run(tree, below, "dir", "foo", dest="/srv/app/n/", chmod="0711")
    assert {e.mode for p, e in made.items() if p.startswith("srv/app/n") and not e.link} == {0o711}
    assert made["srv/app"].mode == 0o750  # existing: its own


@pytest.mark.parametrize(
    ("text", "mode", "is_dir", "expected"),
    [
        ("0", 0o644, False, 0),
        ("755", 0o644, False, 0o755),
        ("04755", 0o644, False, 0o4755),
        ("7777", 0o644, False, 0o7777),
        ("u+x", 0o644, False, 0o744),
        ("+x", 0o644, False, 0o755),  # nobody named: everybody, whatever the umask
        ("a+x", 0o644, False, 0o755),
        ("go-r", 0o644, False, 0o600),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("u=rwX,go=rX", 0o700, False, 0o755),
        ("u=rwX,go=rX", 0o600, True, 0o755),
        ("a=", 0o777, False, 0),
        ("u+s", 0o755, False, 0o4755),
        ("g+s", 0o755, True, 0o2755),
        ("+t", 0o755, True, 0o1755),
        ("u-s", 0o4755, False, 0o755),
        ("u=rwx", 0o4755, False, 0o755),
        ("u=rwx", 0o4755, True, 0o4755),  # chmod(1): a directory keeps it
        ("g=u", 0o640, False, 0o660),
        ("o=g-w", 0o660, False, 0o664),
        ("u+x-w", 0o644, False, 0o544),
        ("ug+rw,o-rwx", 0o604, False, 0o660),
        ("a+X", 0o644, False, 0o644),
        ("a+X", 0o744, False, 0o755),
    ],
)
def test_modes(text: str, mode: int, is_dir: bool, expected: int) -> None:
    assert oct(Chmod.parse(text).apply(mode, is_dir=is_dir)) == oct(expected)


@pytest.mark.parametrize(
    "text", ["", "8", "10000", "77777", "u", "x+u", "u+q", "u+x,", "-1", "0o7"]
)
def test_bad_modes(tree: MemoryTree, text: str) -> None:
    with pytest.raises(InputError, match="not a mode") as caught:
        run(tree, None, "foo", chmod=text)
    assert caught.value.where == WHERE


# --- --chown --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("7", (7, 7)),  # a number alone is user and group
        ("7:8", (7, 8)),
        ("1000", (1000, 1000)),  # a number is no name: passwd's group is not asked
        ("app", (1000, 1001)),
        ("app:", (1000, 1001)),
        ("app:staff", (1000, 50)),
        ("app:9", (1000, 9)),
        ("9:staff", (9, 50)),
        (":staff", (0, 50)),
        ("0:0", (0, 0)),
    ],
)
def test_owners(tree: MemoryTree, below: MemoryTree, text: str, owner: tuple[int, int]) -> None:
    made = run(tree, below, "dir", dest="/srv/new/x", chown=text, stage=True)
    assert {meta(made[p])[1:] for p in made if p not in ("srv",)} == {owner}  # new parents too
    assert meta(made["srv"]) == (0o711, 3, 4)


@pytest.mark.parametrize("text", ["nobody", "app:nogroup", "nobody:0", ":", "4294967296"])
def test_unknown_owners_are_errors(tree: MemoryTree, below: MemoryTree, text: str) -> None:
    with pytest.raises(InputError) as caught:
        run(tree, below, "foo", chown=text)
    assert caught.value.where == WHERE


def test_names_need_files_to_be_looked_up_in(tree: MemoryTree) -> None:
    for below in (None, MemoryTree()):
        with pytest.raises(InputError, match="no user 'app'"):
            run(tree, below, "foo", chown="app")
        assert meta(run(tree, below, "foo", chown="3")["d/foo"])[1:] == (3, 3)


def test_a_user_called_by_a_number_is_not_found_by_it(tree: MemoryTree) -> None:
    below = MemoryTree().file("etc/passwd", b"1234:x:0:0::/:\n")
    assert meta(run(tree, below, "foo", chown="1234")["d/foo"])[1:] == (1234, 1234)  # A48


def test_passwd_is_read_inside_the_image(tree: MemoryTree) -> None:
    below = MemoryTree().file("usr/p", b"app:x:5:6::/:\n").link("etc/passwd", "../../../usr/p")
    assert meta(run(tree, below, "foo", chown="app")["d/foo"])[1:] == (5, 6)
    host = MemoryTree().link("etc/passwd", "/proc/self/root/etc/passwd")
    with pytest.raises(InputError, match="no user 'daemon'"):
        run(tree, host, "foo", chown="daemon")


def test_passwd_is_capped(tree: MemoryTree) -> None:
    long_line = b"x" * limits.PASSWD_LINE_BYTES + b":x:1:1::/:\n"
    below = MemoryTree().file("etc/passwd", long_line + b"app:x:5:6::/:\n")
    assert meta(run(tree, below, "foo", chown="app")["d/foo"])[1:] == (5, 6)
    padding = (b"#" * 99 + b"\n") * (limits.PASSWD_BYTES // 100 + 1)
    with pytest.raises(InputError, match="no user 'app'"):
        run(tree, MemoryTree().file("etc/passwd", padding + b"app:x:5:6::/:\n"), "foo", chown="app")


# --- conflicts (1.5) ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "dest", "words"),
    [
        (["dir"], "/srv/app/old", "onto /srv/app/old, which is not a directory"),
        (["dir"], "/tofile", "onto /srv/app/old, which is not a directory"),
        (["foo"], "/srv/app/old/", "/srv/app/old/ is not a directory but a file"),
        (["foo"], "/srv/app/old/x", "/srv/app/old is in the way"),
        (["foo"], "/tofile/x/y", "/srv/app/old is in the way"),
        (["f/sub"], "/srv/app/", "a file /f/sub onto /srv/app/sub, which is a directory"),
        (["f"], "/srv/app", "a file /f/sub onto /srv/app/sub, which is a directory"),
        (["g"], "/srv/app", "a directory /g/old onto /srv/app/old, which is a file"),
        (["h"], "/", "a directory /h/opt onto /opt, which is a symbolic link"),
        (["foo", "dir"], "/n", "onto /n, which is a file of the same step"),
        (["f", "g2"], "/n", "onto /n/sub, which is a file"),
        (["loop"], "/loop/x", "too many symbolic links"),
    ],
)
def test_conflicts(
    tree: MemoryTree, below: MemoryTree, sources: list[str], dest: str, words: str
) -> None:
    tree.file("f/sub").file("g/old/x").file("h/opt/x").file("g2/sub/y").file("loop")
    below.link("loop", "loop")
    with pytest.raises(InputError, match=words) as caught:
        run(tree, below, *sources, dest=dest)
    assert caught.value.where == WHERE


def test_a_link_may_be_replaced_by_a_file(tree: MemoryTree, below: MemoryTree) -> None:
    made = run(tree.file("h/opt", b"x"), below, "h", dest="/")
    assert made["opt"].kind is Kind.FILE


def test_conflicts_are_found_in_wide_directories(tree: MemoryTree, below: MemoryTree) -> None:
    for n in range(40):
        tree.file(f"w/f{n}")
    below.dir("srv/app/f39")
    with pytest.raises(InputError, match="onto /srv/app/f39, which is a directory"):
        run(tree, below, "w", dest="/srv/app")


# --- facts: the early cutoff ----------------------------------------------------------------------


def facts_of(below: MemoryTree | None, tree: MemoryTree, **kwargs: Any) -> DestFacts:
    copy = op("foo", **kwargs)
    return destination(copy, select(copy, tree), below)


def test_facts_do_not_change_with_what_does_not_matter(tree: MemoryTree, below: MemoryTree) -> None:
    before = facts_of(below, tree, dest="/srv/app/")
    below.file("srv/app/more").file("usr/lib/new").dir("srv/app/sub", 0o777)
    below.file("etc/passwd", b"x:x:1:1::/:\n")
    assert facts_of(below, tree, dest="/srv/app/") == before
    below.dir("srv/app", 0o700)
    assert facts_of(below, tree, dest="/srv/app/") != before


def test_facts_have_the_numbers_of_a_name(tree: MemoryTree, below: MemoryTree) -> None:
    before = facts_of(below, tree, chown="app")
    below.file("etc/passwd", b"other:x:3:3::/:\napp:x:1000:1001::/:\n")
    assert facts_of(below, tree, chown="app") == before
    below.file("etc/passwd", b"app:x:1002:1001::/:\n")
    assert facts_of(below, tree, chown="app") != before


def test_link_sees_nothing_below(tree: MemoryTree, below: MemoryTree) -> None:
    assert facts_of(below, tree, dest="/opt/x", link=True) == facts_of(None, tree, dest="/opt/x")
    made = run(tree, below, "foo", dest="/opt/x", link=True)
    assert list(made) == ["opt", "opt/x"]
    with pytest.raises(InputError, match="cannot be looked up with --link"):
        run(tree, below, "foo", link=True, chown="app")


def test_what_add_unpacks_goes_into_a_directory(below: MemoryTree) -> None:
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("x"))
    tree = MemoryTree().file("a", out.getvalue())
    copy = op("a", dest="/srv/app/t", unpack=None)
    selection = select(copy, tree)
    facts = destination(copy, selection, below)
    assert facts.into
    assert [e.path for e in entries(copy, selection, facts)] == ["srv", "srv/app", "srv/app/t"]
    bad = op("a", dest="/srv/app/old", unpack=None)
    with pytest.raises(InputError, match="not a directory"):
        destination(bad, selection, below)


# --- WORKDIR --------------------------------------------------------------------------------------


def workdir(below: MemoryTree | None, path: str, user: str = "") -> dict[str, Entry]:
    return {e.path: e for e in mkdir_entries(mkdir_facts(MkdirOp(path, user), below, WHERE))}


def test_workdir(below: MemoryTree) -> None:
    assert workdir(below, "/srv/app") == {}
    assert workdir(below, "/") == {}
    assert workdir(below, "/opt") == {}  # a link to a directory
    made = workdir(below, "/opt/a/b", "app:staff")
    assert {p: meta(e) for p, e in made.items()} == {
        "srv": (0o711, 3, 4),
        "srv/app": (0o750, 5, 6),
        "srv/app/a": (0o755, 1000, 50),
        "srv/app/a/b": (0o755, 1000, 50),
    }
    assert list(workdir(None, "/a/../../b/c")) == ["b", "b/c"]
    assert list(workdir(below, "/srv/up")) == ["srv", "srv/app", "srv/app/new", "srv/app/new/place"]


def test_a_workdir_of_a_user_nobody_knows_is_roots(below: MemoryTree) -> None:
    # USER is not looked up before a RUN needs it (1.4).
    assert meta(workdir(below, "/new", "nobody")["new"])[1:] == (0, 0)
    assert meta(workdir(None, "/new", "app")["new"])[1:] == (0, 0)


@pytest.mark.parametrize(
    ("path", "user", "words"),
    [
        ("/srv/app/old", "", "it exists and is a file"),
        ("/tofile", "", "it exists and is a file"),
        ("/srv/app/old/x", "", "in the way"),
    ],
)
def test_wrong_workdirs(below: MemoryTree, path: str, user: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        workdir(below, path, user)
    assert caught.value.where == WHERE
