"""A local directory as a tree: what is seen, what is read, and what changes meanwhile."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from buildgraph.context.ignore import IgnoreRules
from buildgraph.context.observation import Observation
from buildgraph.context.reading import ChangedWhileReading, Reader
from buildgraph.context.remembered import NoStatCache
from buildgraph.context.tree import ContextTree
from buildgraph.errors import BuildgraphError, InputError
from buildgraph.filetree import FileStat, Kind
from buildgraph_cache.digest import Digest, sha256_digest


class MemoryCache:
    def __init__(self) -> None:
        self.known: dict[str, tuple[FileStat, Digest]] = {}
        self.asked = 0

    def get(self, path: str, stat: FileStat) -> Digest | None:
        self.asked += 1
        found = self.known.get(path)
        return found[1] if found and found[0] == stat else None

    def put(self, path: str, stat: FileStat, digest: Digest) -> None:
        self.known[path] = (stat, digest)


def open_tree(root: Path, ignore: str = "", cache: MemoryCache | None = None) -> ContextTree:
    return ContextTree(str(root), IgnoreRules.parse(ignore), cache or NoStatCache())


def names(tree: ContextTree, path: str = "") -> list[str]:
    return [name for name, _ in tree.list(path)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "ctx"
    (root / "src/deep").mkdir(parents=True)
    (root / "src/a.c").write_bytes(b"int a;")
    (root / "src/deep/b.c").write_bytes(b"int b;")
    (root / "README.md").write_bytes(b"read me")
    os.symlink("src/a.c", root / "link")
    os.symlink("/etc/passwd", root / "host")
    os.symlink("src", root / "dirlink")
    return root


def test_entries_are_sorted_by_bytes_and_not_followed(root: Path) -> None:
    for name in ("Z", "z", "é", "\udcff", "\U0001f600", "\ue000"):
        (root / "src/deep" / name).write_bytes(b"")
    with open_tree(root) as tree:
        found = names(tree, "src/deep")
        assert found == sorted(found, key=os.fsencode)
        link = tree.stat("link")
        assert link is not None
        assert (link.kind, link.target) == (Kind.SYMLINK, "src/a.c")
        assert tree.stat("dirlink/a.c") is None
        with pytest.raises(FileNotFoundError):
            tree.list("dirlink")
        with pytest.raises(FileNotFoundError):
            tree.list("README.md")
        assert tree.stat("missing/x") is None
        assert tree.stat("README.md/x") is None


def test_owner_is_root_and_mode_is_kept(root: Path) -> None:
    os.chmod(root / "src/a.c", 0o4750)
    with open_tree(root) as tree:
        stat = tree.stat("src/a.c")
        assert stat is not None
        assert (stat.uid, stat.gid, stat.mode, stat.size) == (0, 0, 0o4750, 6)


def test_digests_are_of_the_bytes(root: Path) -> None:
    with open_tree(root) as tree:
        stat = tree.stat("src/a.c")
        assert stat is not None
        assert tree.digest("src/a.c", stat) == sha256_digest(b"int a;")
        assert tree.hash_many(["README.md", "src/deep/b.c"]) == {
            "README.md": sha256_digest(b"read me"),
            "src/deep/b.c": sha256_digest(b"int b;"),
        }


def test_big_and_small_files_together(root: Path) -> None:
    want = {}
    for n, size in enumerate([0, 1, 300_000, 2_000_000, 5_000_000, 262_144, 1_048_576]):
        data = bytes([n]) * size
        (root / f"f{n}").write_bytes(data)
        want[f"f{n}"] = sha256_digest(data)
    with open_tree(root) as tree:
        assert tree.hash_many(want) == want
    with open_tree(root) as tree:  # big ones only: shared by two threads
        big = [name for name in want if (root / name).stat().st_size > 262_144]
        assert tree.hash_many(big) == {name: want[name] for name in big}


def test_many_files_are_hashed_alike_when_they_are_read_ahead(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = {}
    for n in range(1500):
        (root / f"n{n:04}").write_bytes(b"%d" % n)
        want[f"n{n:04}"] = sha256_digest(b"%d" % n)
    blocks = iter(range(100_000))
    ahead: list[str] = []
    read_ahead = Reader.read_ahead
    with open_tree(root) as tree:
        assert tree.hash_many(want) == want

    def noted(reader: Reader, directory: int, name: str) -> None:
        ahead.append(name)
        read_ahead(reader, directory, name)

    monkeypatch.setattr(Reader, "read_ahead", noted)
    monkeypatch.setattr("buildgraph.context.ahead.blocks_read", lambda: next(blocks))
    with open_tree(root) as tree:
        assert tree.hash_many(want) == want
    assert ahead == list(want)[256:]


@pytest.mark.parametrize("opened", [1, 300, 700])
def test_files_that_are_expected_are_read_ahead_when_they_are_opened(
    root: Path, monkeypatch: pytest.MonkeyPatch, opened: int
) -> None:
    files = [f"n{n:04}" for n in range(700)]
    for name in files:
        (root / name).write_bytes(name.encode())
    (root / "big").write_bytes(bytes(1 << 20))
    blocks = iter(range(100_000))
    ahead: list[str] = []
    monkeypatch.setattr(Reader, "read_ahead", lambda _, directory, name: ahead.append(name))
    monkeypatch.setattr("buildgraph.context.ahead.blocks_read", lambda: next(blocks))
    with open_tree(root) as tree:
        tree.expect(["big", *files])
        for name in ["big", *files[:opened], *(["README.md"] if opened == 700 else [])]:
            os.close(tree.open(name))
    assert ahead == {1: [], 300: files[256:512], 700: files[256:]}[opened]


@pytest.mark.parametrize("becomes", ["pipe", "nothing"])
def test_reading_ahead_says_nothing_of_a_file_that_is_gone(
    root: Path, monkeypatch: pytest.MonkeyPatch, becomes: str
) -> None:
    for n in range(300):
        (root / f"n{n:03}").write_bytes(b"%d" % n)
    blocks = iter(range(100_000))
    monkeypatch.setattr("buildgraph.context.ahead.blocks_read", lambda: next(blocks))
    with open_tree(root) as tree:
        files = [name for name in names(tree) if name.startswith("n")]
        (root / "n290").unlink()
        if becomes == "pipe":
            os.mkfifo(root / "n290")
        with pytest.raises(ChangedWhileReading, match="n290"):
            tree.hash_many(files)


def test_the_stat_cache_is_asked_first_and_told_after(root: Path) -> None:
    cache = MemoryCache()
    time.sleep(0.12)
    with open_tree(root, cache=cache) as tree:
        tree.hash_many(["src/a.c"])
    assert list(cache.known) == ["src/a.c"]
    stat, _ = cache.known["src/a.c"]
    cache.known["src/a.c"] = (stat, Digest("sha256:" + "0" * 64))
    with open_tree(root, cache=cache) as tree:
        assert tree.digest("src/a.c", stat) == "sha256:" + "0" * 64  # believed, not read
    (root / "src/a.c").write_bytes(b"int A;")
    with open_tree(root, cache=cache) as tree:
        assert tree.hash_many(["src/a.c"])["src/a.c"] == sha256_digest(b"int A;")


# --- ignore rules ---------------------------------------------------------------------------------


def test_what_is_left_out_does_not_exist(root: Path) -> None:
    with open_tree(root, "src/deep\n*.md") as tree:
        assert names(tree) == ["dirlink", "host", "link", "src"]
        assert names(tree, "src") == ["a.c"]
        assert tree.stat("README.md") is None
        assert tree.stat("src/deep/b.c") is None
        assert tree.hidden("README.md") == "*.md"
        assert tree.hidden("src/deep/b.c") == "src/deep"
        assert tree.hidden("nothing.md") is None  # not there at all
        assert tree.hidden("src/a.c") is None
        with pytest.raises(InputError):
            tree.open("README.md")


def test_an_excluded_directory_shows_when_something_in_it_is_brought_back(root: Path) -> None:
    with open_tree(root, "src\n!src/deep/b.c") as tree:
        assert names(tree, "src") == ["deep"]
        assert names(tree, "src/deep") == ["b.c"]
    with open_tree(root, "src\n!src/deep/none") as tree:
        assert "src" not in names(tree)
    with open_tree(root, "*\n!**/*.c") as tree:
        assert names(tree) == ["src"]


def test_a_pruned_directory_is_not_read(root: Path) -> None:
    (root / "closed").mkdir()
    with open_tree(root, "closed\n!README.md") as tree:
        names(tree)
        assert all(path != "closed" for path, _ in tree.observation(tree.found()).directories)


# --- special files (A05) --------------------------------------------------------------------------


def test_special_files_are_seen_and_never_opened(root: Path) -> None:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.getcwd()
        os.chdir(root)  # a socket's path may have 108 bytes
        try:
            sock.bind("sock")
        finally:
            os.chdir(here)
        with open_tree(root) as tree:
            kinds = {name: stat.kind for name, stat in tree.list("")}
            assert kinds["fifo"] is Kind.FIFO
            assert kinds["sock"] is Kind.SOCKET
            for name in ("fifo", "sock", "link", "src"):
                with pytest.raises(InputError, match="not a regular file"):
                    tree.open(name)
                with pytest.raises(InputError, match="not a regular file"):
                    tree.hash_many([name])
                assert tree.xattrs(name) == ()


def test_a_file_swapped_for_a_fifo_or_link_is_noticed(root: Path) -> None:
    for swap in (os.mkfifo, lambda path: os.symlink("/etc/passwd", path), os.mkdir):
        (root / "x").write_bytes(b"x")
        with open_tree(root) as tree:
            assert tree.stat("x")
            os.unlink(root / "x")
            swap(root / "x")
            with pytest.raises(ChangedWhileReading, match="changed while reading: x"):
                tree.open("x")
            with pytest.raises(ChangedWhileReading):
                tree.hash_many(["x"])
        if (root / "x").is_dir() and not (root / "x").is_symlink():
            os.rmdir(root / "x")
        else:
            os.unlink(root / "x")


def test_a_directory_swapped_for_a_link_is_noticed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.c").write_bytes(b"secret")
    with open_tree(root) as tree:
        assert tree.stat("src/a.c")
        os.rename(root / "src", tmp_path / "moved")
        os.symlink(outside, root / "src")
        for act in (tree.open, tree.xattrs, lambda path: tree.hash_many([path])):
            with pytest.raises(ChangedWhileReading):
                act("src/a.c")
    with open_tree(root) as tree:
        assert tree.stat("src/a.c") is None


# --- changes while reading (A04, R34) -------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"other!"),  # same size
        lambda path: path.write_bytes(b"longer than it was"),
        lambda path: os.truncate(path, 1),
        lambda path: os.utime(path, ns=(1, 1)),
        lambda path: os.chmod(path, 0o600),
        lambda path: path.unlink(),
    ],
)
def test_a_file_changed_since_it_was_seen_is_an_error(root: Path, change: object) -> None:
    assert callable(change)
    with open_tree(root) as tree:
        assert tree.stat("src/a.c")
        time.sleep(0.02)  # a clock tick, so that ctime can differ
        change(root / "src/a.c")
        with pytest.raises(ChangedWhileReading) as caught:
            tree.hash_many(["src/a.c"])
        assert caught.value.hint
        assert caught.value.exit_code == 3


def test_a_writer_is_found_out(root: Path) -> None:
    """A digest is of bytes that were there at once, or the file is known to be too young."""
    size = 4 << 20
    states = [bytes([byte]) * size for byte in b"xy"]
    good = {sha256_digest(data) for data in states}
    path = root / "big"
    path.write_bytes(states[0])
    stop = threading.Event()

    def write() -> None:
        at = 0
        while not stop.is_set():
            at ^= 1
            with open(path, "r+b") as file:
                file.write(states[at])

    thread = threading.Thread(target=write)
    thread.start()
    refused = 0
    try:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            with open_tree(root) as tree:
                try:
                    digest = tree.hash_many(["big"])["big"]
                    assert digest in good or "big" in tree._young
                except ChangedWhileReading:
                    refused += 1
    finally:
        stop.set()
        thread.join()
    assert refused


def test_a_file_hashed_while_being_written_is_hashed_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = MemoryCache()
    (root / "young").write_bytes(b"half")
    with open_tree(root, cache=cache) as tree:
        digest = tree.hash_many(["young"])["young"]
        assert digest == sha256_digest(b"half")
        assert not cache.known
        os.close(tree.open("young"))
        # As when the same write(2) goes on: other bytes, the same stamps.
        (root / "young").write_bytes(b"full")
        monkeypatch.setattr("buildgraph.context.reading.same_file", lambda now, then: True)
        with pytest.raises(ChangedWhileReading, match="still being written"):
            tree.open("young")


def test_a_link_swapped_in_between_hash_and_copy_gives_the_hashed_bytes_or_an_error(
    root: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_bytes(b"host secret")
    (root / "d").mkdir()
    (root / "d/f").write_bytes(b"ours")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(root / "d", root / "d.away")
            os.symlink(outside, root / "d")
            os.unlink(root / "d")
            os.rename(root / "d.away", root / "d")

    thread = threading.Thread(target=swap)
    thread.start()
    copied = errors = 0
    try:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            try:
                with open_tree(root) as tree:
                    digest = tree.hash_many(["d/f"])["d/f"]
                    fd = tree.open("d/f")
                    data = os.read(fd, 100)
                    os.close(fd)
            except BuildgraphError:
                errors += 1
            else:
                copied += 1
                assert data == b"ours"
                assert digest == sha256_digest(b"ours")
    finally:
        stop.set()
        thread.join()
    assert errors
    assert copied + errors > 100


# --- extended attributes (A10) --------------------------------------------------------------------


def set_xattr(path: Path, name: str, value: bytes) -> None:
    try:
        os.setxattr(path, name, value, follow_symlinks=False)
    except OSError as error:
        pytest.skip(f"machine: cannot set {name}: {error.strerror}")


def test_user_attributes_are_kept_and_overlays_are_not(root: Path) -> None:
    path = root / "src/a.c"
    set_xattr(path, "user.b", b"2")
    set_xattr(path, "user.a", b"\0\xff")
    set_xattr(path, "user.overlay.opaque", b"y")
    set_xattr(path, "user.buildgraph.node", b"c 1 3")
    set_xattr(root / "src", "user.dir", b"d")
    with open_tree(root) as tree:
        assert tree.xattrs("src/a.c") == (("user.a", b"\0\xff"), ("user.b", b"2"))
        assert tree.xattrs("src") == (("user.dir", b"d"),)
        assert tree.xattrs("") == ()
        assert tree.xattrs("link") == ()
        assert tree.xattrs_many(["src", "src/a.c", "README.md"]) == {
            "src": (("user.dir", b"d"),),
            "src/a.c": (("user.a", b"\0\xff"), ("user.b", b"2")),
        }


def test_files_with_attributes_are_not_told_to_the_stat_cache(root: Path) -> None:
    set_xattr(root / "src/a.c", "user.a", b"1")
    set_xattr(root / "README.md", "user.overlay.opaque", b"y")
    files = ["src/a.c", "src/deep/b.c", "README.md"]
    cache = MemoryCache()
    time.sleep(0.12)
    for _ in range(2):
        with open_tree(root, cache=cache) as tree:
            tree.hash_many(files)
            assert tree.xattrs_many([*files, "src"]) == {"src/a.c": (("user.a", b"1"),)}
        assert sorted(cache.known) == ["README.md", "src/deep/b.c"]
    set_xattr(root / "src/deep/b.c", "user.b", b"2")
    with open_tree(root, cache=cache) as tree:
        tree.hash_many(files)
        assert tree.xattrs_many(files)["src/deep/b.c"] == (("user.b", b"2"),)


def test_file_capabilities_are_kept(root: Path) -> None:
    value = bytes.fromhex("0100000200040000000000000000000000000000")
    set_xattr(root / "src/a.c", "security.capability", value)
    with open_tree(root) as tree:
        assert tree.xattrs("src/a.c") == (("security.capability", value),)


# --- what cannot be read --------------------------------------------------------------------------


def test_a_missing_context_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the context"):
        open_tree(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Not a directory"):
        open_tree(tmp_path / "file")


def test_the_context_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    os.symlink(root, tmp_path / "alias")
    with open_tree(tmp_path / "alias") as tree:
        assert "README.md" in names(tree)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(root: Path) -> None:
    os.chmod(root / "README.md", 0)
    with open_tree(root) as tree, pytest.raises(InputError, match=r"cannot read README\.md"):
        tree.hash_many(["README.md"])


def test_a_deep_directory_is_walked(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d" * 10, dir_fd=here)
        below = os.open("d" * 10, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    fd = os.open("end", os.O_WRONLY | os.O_CREAT, dir_fd=here)
    os.write(fd, b"end")
    os.close(fd)
    os.close(here)
    path = "/".join(["d" * 10] * 300 + ["end"])
    with open_tree(tmp_path) as tree:
        assert tree.hash_many([path])[path] == sha256_digest(b"end")


# --- observation ----------------------------------------------------------------------------------


def look(root: Path, ignore: str = "") -> Observation:
    time.sleep(0.05)  # older than the clock's grain
    with open_tree(root, ignore) as tree:
        todo = [""]
        while todo:
            at = todo.pop()
            for name, stat in tree.list(at):
                if stat.kind is Kind.DIR:
                    todo.append(f"{at}/{name}" if at else name)
        return Observation.from_json(tree.observation(tree.found()).as_json())


def test_an_unchanged_directory_is_still_the_same(root: Path) -> None:
    seen = look(root)
    assert seen.settled
    assert seen.still_true()


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "new").write_text(""),
        lambda root: (root / "src/deep/new").write_text(""),
        lambda root: (root / "src/a.c").write_bytes(b"int x;"),
        lambda root: (root / "src/a.c").unlink(),
        lambda root: os.chmod(root / "src/a.c", 0o755),
        lambda root: os.chmod(root / "src", 0o700),
        lambda root: os.rename(root / "src/a.c", root / "src/b.c"),
        lambda root: (os.unlink(root / "link"), os.symlink("src/b.c", root / "link")),
        lambda root: (os.rename(root / "src", root / "s2"), os.symlink("s2", root / "src")),
        lambda root: os.rename(root, root.parent / "elsewhere"),
    ],
)
def test_a_changed_directory_is_not(root: Path, change: object) -> None:
    assert callable(change)
    seen = look(root)
    change(root)
    assert not seen.still_true()


def test_what_is_left_out_may_change(root: Path) -> None:
    (root / "log").write_text("1")
    (root / "tmp").mkdir()
    seen = look(root, "log\ntmp")
    (root / "log").write_text("22")
    (root / "tmp/x").write_text("")
    assert seen.still_true()


def test_something_that_could_be_brought_back_is_watched(root: Path) -> None:
    seen = look(root, "src\n!src/deep/keep")
    assert seen.still_true()
    (root / "src/deep/keep").write_text("")
    assert not seen.still_true()


def test_what_is_too_young_is_not_believed(root: Path) -> None:
    (root / "young").write_text("")
    with open_tree(root) as tree:
        tree.list("")
        seen = tree.observation(tree.found())
    assert not seen.settled
    assert not seen.still_true()


def test_what_was_found_is_every_directory_that_was_read(root: Path) -> None:
    (root / "out/in").mkdir(parents=True)
    time.sleep(0.03)  # older than the clock's grain
    with open_tree(root, "*.md\nout\n!out/in/x") as tree:
        tree.list("")
        found = tree.found()
        # `out` and `out/in` are left out, but whether they are hangs on what is in them
        assert [directory.path for directory in found] == ["", "out", "out/in"]
        assert [row[0] for row in found[0].rows()] == ["dirlink", "host", "link", "src"]
        inodes = [(root / directory.path).stat().st_ino for directory in found]
        assert [directory.own[5] for directory in found] == inodes
        tree.list("src")
        last = tree.found()[-1]
        assert (last.path, "a.c" in [row[0] for row in last.rows()]) == ("src", True)
        assert tree.observation(found).look() == found


def test_no_descriptor_is_left_open(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with open_tree(root) as tree:
        tree.hash_many(["src/a.c", "README.md"])
        tree.xattrs("src/a.c")
        os.close(tree.open("src/a.c"))
        with pytest.raises(InputError):
            tree.open("link")
    assert len(os.listdir("/proc/self/fd")) == before
