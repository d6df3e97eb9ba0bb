"""The answer that nothing at all has changed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from buildgraph.filetree import FileStat, Kind
from buildgraph_cache import invocation
from buildgraph_cache.store import Store


def stat_of(path: Path) -> FileStat:
    info = os.lstat(path)
    return FileStat(
        Kind.FILE,
        info.st_mode & 0o7777,
        size=info.st_size,
        mtime_ns=info.st_mtime_ns,
        ctime_ns=info.st_ctime_ns,
        ino=info.st_ino,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "a" / "b").mkdir(parents=True)
    (top / "f").write_text("f")
    (top / "a" / "g\udcff").write_text("g")
    (top / "a" / "link").symlink_to("g")
    (top / "h").write_text("h")
    time.sleep(0.03)
    return top


def items(top: Path) -> list[tuple[str, FileStat]]:
    found = [("", stat_of(top))]
    for path in top.rglob("*"):
        found.append((str(path.relative_to(top)), stat_of(path)))
    return found


def index_of(root: str) -> str:
    return f"{root}/index.sqlite"


def remember(root: str, top: Path) -> None:
    with Store.open(root) as store:
        value = invocation.encode(items(top), b"the answer", time.time_ns(), str(top))
        assert value is not None
        store.put_record(invocation.KIND, "key", value)
        store.sync()


def edit_same_size(top: Path) -> None:
    info = os.stat(top / "f")
    (top / "f").write_text("F")
    os.utime(top / "f", ns=(info.st_atime_ns, info.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], None]] = {
    "edit": lambda top: (top / "f").write_text("x"),  # type: ignore[dict-item,return-value]
    "edit-same-size-same-mtime": edit_same_size,
    "chmod": lambda top: (top / "f").chmod(0o600),
    "new": lambda top: (top / "a" / "b" / "new").touch(),
    "delete": lambda top: (top / "h").unlink(),
    "rename": lambda top: os.rename(top / "h", top / "i"),
    "swap": lambda top: os.replace(top / "f", top / "h"),
    "directory-instead": lambda top: ((top / "h").unlink(), (top / "h").mkdir()),  # type: ignore[dict-item,return-value]
    "gone": lambda top: os.rename(top, top.with_name("elsewhere")),
    "link": lambda top: (
        (top / "a" / "link").unlink(),  # type: ignore[dict-item,return-value]
        (top / "a" / "link").symlink_to("f"),
    ),
}


def test_nothing_changed(root: str, tree: Path) -> None:
    remember(root, tree)
    for _ in range(2):
        assert invocation.check(index_of(root), "key") == b"the answer"
    assert invocation.check(index_of(root), "other") is None


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_is_seen(root: str, tree: Path, change: str) -> None:
    remember(root, tree)
    CHANGES[change](tree)
    assert invocation.check(index_of(root), "key") is None


def test_a_file_that_changed_just_now_is_not_trusted(tree: Path) -> None:
    (tree / "f").write_text("now")
    assert invocation.encode(items(tree), b"", time.time_ns(), str(tree)) is None
    assert invocation.encode(items(tree), b"", time.time_ns() + 10**9, str(tree)) is not None


def test_an_answer_grows_old_and_none_comes_from_the_future(root: str, tree: Path) -> None:
    remember(root, tree)
    now = time.time_ns()
    day = 86_400 * 10**9
    assert invocation.check(index_of(root), "key", now_ns=now + day - 10**10) == b"the answer"
    assert invocation.check(index_of(root), "key", now_ns=now + day) is None
    assert invocation.check(index_of(root), "key", now_ns=now - day) is None


def test_soft_answers_of_another_boot_are_not_believed(root: str, tree: Path) -> None:
    with Store.open(root) as store:
        value = invocation.encode(items(tree), b"x", time.time_ns(), str(tree))
        assert value is not None
        store.put_record(invocation.KIND, "key", value)
        assert invocation.check(index_of(root), "key") == b"x"
        store._session.index.put("UPDATE records SET boot='other'", ())
        assert invocation.check(index_of(root), "key") is None


def test_an_empty_list_is_an_answer_too(root: str) -> None:
    with Store.open(root) as store:
        value = invocation.encode([], b"x", time.time_ns())
        assert value is not None
        store.put_record(invocation.KIND, "key", value)
    assert invocation.check(index_of(root), "key") == b"x"


@pytest.mark.parametrize("table", [b"", b"bginvoc1", b"bginvoc1" + b"\xff" * 60, bytes(100)])
def test_damage_is_never_an_answer(root: str, table: bytes) -> None:
    with Store.open(root) as store:
        store.put_record(invocation.KIND, "key", table)
    assert invocation.check(index_of(root), "key") is None
    Path(index_of(root)).write_bytes(b"garbage" * 1000)
    assert invocation.check(index_of(root), "key") is None
    os.unlink(index_of(root))
    assert invocation.check(index_of(root), "key") is None
    assert not os.path.exists(index_of(root))


def test_it_needs_next_to_no_imports() -> None:
    code = (
        "import sys; before = set(sys.modules); import buildgraph_cache.invocation;"
        "print(sorted(m for m in set(sys.modules) - before if m.startswith('buildgraph')))"
    )
    path = os.pathsep.join(sys.path)
    text = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": path},
    )
    assert text.stdout.strip() == "['buildgraph_cache', 'buildgraph_cache.invocation']"
