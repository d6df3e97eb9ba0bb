"""The one path resolver: it never leaves its root, and both of its ways give the same answers."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildgraph.rootpath import Root, clean, components


@pytest.fixture(scope="module")
def root_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("resolver")
    (top / "secret").write_text("host")
    root = top / "root"
    (root / "a/b/c").mkdir(parents=True)
    (root / "a/file").write_text("inside")
    (root / "secret").write_text("not the host's")
    links = {
        "abs": "/a/b",
        "abs_file": "/a/file",
        "rel": "a/b",
        "up": "../../../secret",
        "a/up": "../../../../secret",
        "slash": "a/b/",
        "file_slash": "a/file/",
        "dangling": "nowhere",
        "dangling_deep": "/no/where",
        "loop": "loop",
        "ping": "pong",
        "pong": "ping",
        "root": "/",
        "dots": "..",
        "host": str(top / "secret"),
        "a/b/back": "../../rel/c",
        "proc": "/proc/self/root",
    }
    for name, target in links.items():
        os.symlink(target, root / name)
    for at in range(39):
        os.symlink(f"chain{at + 1}", root / f"chain{at}")
    (root / "chain39").write_text("end")
    os.mkfifo(root / "fifo")
    return root


PATHS = [
    *("a", "a/", "a/.", "a/b/c", "/a/b/c", "//a///b", ".", "/", "..", "../..", "../a", "a/../.."),
    *("a/file", "a/file/", "a/file/.", "a/file/..", "a/file/x", "missing", "missing/", "a/missing"),
    *(
        "missing/x",
        "missing/..",
        "abs",
        "abs/",
        "abs/c",
        "abs_file",
        "abs_file/",
        "rel/c",
        "rel/..",
    ),
    *(
        "up",
        "a/up",
        "slash",
        "file_slash",
        "dangling",
        "dangling/",
        "dangling_deep",
        "loop",
        "ping",
    ),
    *("loop/x", "root", "root/a", "dots", "dots/a", "host", "a/b/back", "a/b/back/..", "chain0"),
    *(
        "secret",
        "../secret",
        "../../../../secret",
        "proc",
        "",
        "a/b/../../secret",
        "root/root/root",
    ),
    *("./a/./b", "a/b/c/../../../..", "x" * 255, "x" * 256, "rel/../file", "abs/../abs/c"),
]
FLAGS = [
    os.O_RDONLY | os.O_NONBLOCK,
    os.O_PATH,
    os.O_PATH | os.O_NOFOLLOW,
    os.O_PATH | os.O_DIRECTORY,
    os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW,
    os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK,
]


def answer(root: Root, path: str, flags: int, *, follow: bool) -> object:
    try:
        fd = root.open(path, flags, follow=follow)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    try:
        found = os.fstat(fd)
        return (found.st_dev, found.st_ino)
    finally:
        os.close(fd)


def has_openat2(root_dir: Path) -> bool:
    with Root.at(str(root_dir)) as root:
        return root._native


@pytest.mark.parametrize("path", PATHS)
def test_the_walk_answers_as_the_kernel_does(root_dir: Path, path: str) -> None:
    if not has_openat2(root_dir):
        pytest.skip("this kernel has no openat2")
    with Root.at(str(root_dir), native=True) as kernel, Root.at(str(root_dir), native=False) as own:
        for flags in FLAGS:
            for follow in (True, False):
                assert answer(own, path, flags, follow=follow) == answer(
                    kernel, path, flags, follow=follow
                ), (path, flags, follow)


NAMES = st.sampled_from(
    ["a", "b", "c", "file", "..", ".", "", "rel", "abs", "up", "back", "dots", "root", "slash"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(NAMES, max_size=7), st.sampled_from(FLAGS))
def test_any_path_is_resolved_alike(root_dir: Path, names: list[str], flags: int) -> None:
    path = "/".join(names)
    with Root.at(str(root_dir), native=False) as own, Root.at(str(root_dir)) as kernel:
        got = answer(own, path, flags, follow=True)
        assert got == answer(kernel, path, flags, follow=True)
        secret = os.stat(root_dir.parent / "secret")
        assert got != (secret.st_dev, secret.st_ino)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("path", "real"),
    [
        ("", None),
        ("/", ""),
        ("a/b/../b/c", "a/b/c"),
        ("abs/c", "a/b/c"),
        ("up", "secret"),
        ("a/up", "secret"),
        ("dots/a", "a"),
        ("a/b/back", "a/b/c"),
        ("../../etc", None),
        ("chain0", "chain39"),
        ("abs_file", "a/file"),
        ("loop", None),
        ("host", None),
    ],
)
def test_resolve_gives_the_real_path_inside(
    root_dir: Path, path: str, real: str | None, native: bool
) -> None:
    with Root.at(str(root_dir), native=native) as root:
        if real is None:
            with pytest.raises(OSError):  # noqa: PT011 ENOENT or ELOOP
                root.resolve(path)
        else:
            assert root.resolve(path) == real


@pytest.mark.parametrize(
    ("path", "real"),
    [
        ("new/dir", "new/dir"),
        ("abs/new/x", "a/b/new/x"),
        ("dangling", "nowhere"),
        ("dangling/x", "nowhere/x"),
        ("dangling_deep/x", "no/where/x"),
        ("new/../../x", "x"),
        ("a/../../../new", "new"),
        ("", ""),
        ("rel/", "a/b"),
        ("a/file", "a/file"),
    ],
)
def test_a_missing_tail_is_kept(root_dir: Path, path: str, real: str) -> None:
    with Root.at(str(root_dir)) as root:
        assert root.resolve(path, missing_ok=True) == real


def test_a_long_chain_of_links_is_walked_up_to_the_budget(tmp_path: Path) -> None:
    for at in range(256):
        os.symlink(f"l{at + 1}", tmp_path / f"l{at}")
    (tmp_path / "l256").write_text("end")
    with Root.at(str(tmp_path), native=False) as root:
        assert root.resolve("l1") == "l256"  # 255 links
        with pytest.raises(OSError, match="Too many levels"):
            root.resolve("l0")


@pytest.mark.parametrize("native", [True, False])
def test_a_file_is_created_inside_through_a_dangling_link(tmp_path: Path, native: bool) -> None:
    root_dir = tmp_path / "root"
    root_dir.mkdir()
    os.symlink(str(tmp_path / "outside"), root_dir / "link")
    (root_dir / str(tmp_path).lstrip("/")).mkdir(parents=True)
    with Root.at(str(root_dir), native=native) as root:
        os.close(root.open("link", os.O_WRONLY | os.O_CREAT, 0o600))
    assert not (tmp_path / "outside").exists()
    assert (root_dir / str(tmp_path).lstrip("/") / "outside").exists()


@pytest.mark.parametrize("native", [True, False])
def test_exclusive_creation_does_not_follow(root_dir: Path, native: bool) -> None:
    with Root.at(str(root_dir), native=native) as root:
        with pytest.raises(FileExistsError):
            root.open("dangling", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


@pytest.mark.parametrize("native", [True, False])
def test_magic_links_are_refused(native: bool) -> None:
    with Root.at("/", native=native) as root:
        with pytest.raises(OSError, match=r"Too many levels"):
            root.open(
                "proc/self/root/etc" if not native else "proc/thread-self/root/etc", os.O_PATH
            )


@pytest.mark.parametrize("native", [True, False])
def test_directories_are_made_behind_links_and_inside(tmp_path: Path, native: bool) -> None:
    root_dir, outside = tmp_path / "root", tmp_path / "outside"
    root_dir.mkdir()
    outside.mkdir()
    os.symlink(str(outside), root_dir / "abs")  # leads nowhere inside: made there (A07)
    os.symlink("../../../deep/er", root_dir / "rel")
    old = os.umask(0o077)
    try:
        with Root.at(str(root_dir), native=native) as root:
            for path in ("abs/x", "rel/y", "plain/z", "plain/z"):
                os.close(root.make_dirs(path, 0o755))
            (root_dir / "file").write_text("")
            with pytest.raises(NotADirectoryError):
                root.make_dirs("file/x")
    finally:
        os.umask(old)
    assert list(outside.iterdir()) == []
    assert (root_dir / str(outside).lstrip("/") / "x").is_dir()
    assert (root_dir / "deep/er/y").is_dir()
    assert (root_dir / "plain/z").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize(
    ("path", "name"), [("a/../../x", "x"), ("x", "x"), ("up", "up"), ("a/up/", "up")]
)
def test_parent_never_follows_the_last_name(root_dir: Path, path: str, name: str) -> None:
    with Root.at(str(root_dir)) as root:
        fd, last = root.parent(path)
        os.close(fd)
        assert last == name


@pytest.mark.parametrize("path", ["", "/", "..", "a/..", ".", "a/../.."])
def test_a_path_without_a_last_name_has_no_parent(root_dir: Path, path: str) -> None:
    with Root.at(str(root_dir)) as root:
        with pytest.raises(ValueError, match="names no entry"):
            root.parent(path)


def test_a_null_byte_is_refused(root_dir: Path) -> None:
    for native in (True, False):
        with Root.at(str(root_dir), native=native) as root:
            with pytest.raises(ValueError, match="null"):
                root.open("a\0b", os.O_PATH)


def test_no_descriptor_is_left_open(root_dir: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for native in (True, False):
        with Root.at(str(root_dir), native=native) as root:
            for path in PATHS:
                answer(root, path, os.O_PATH, follow=True)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("/", ""),
        ("../../x", "x"),
        ("a/../../x", "x"),
        ("./a//b/.", "a/b"),
        ("a/..", ""),
        ("..", ""),
    ],
)
def test_clean(text: str, expected: str) -> None:
    assert clean(text) == expected
    assert ".." not in components(clean(text))
