"""Holds what is remembered of files to the room there is, and to what was hashed."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from buildgraph.context.ignore import IgnoreRules
from buildgraph.context.remembered import Contents, NoStatCache, Room
from buildgraph.context.tree import ContextTree


def test_trees_share_the_room() -> None:
    room = Room(10)
    one, two = Contents(room), Contents(room)
    one.put("a", b"123456")
    two.put("b", b"12345")  # no room
    two.put("c", b"1234")
    assert (one.get("a"), two.get("b"), two.get("c")) == (b"123456", None, b"1234")
    one.put("a", b"123456")  # is there: counted once
    one.clear()
    assert one.get("a") is None
    two.put("b", b"12345")
    assert two.get("b") == b"12345"


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "top").mkdir()
    for name, data in (("a", b"small"), ("empty", b""), ("b", b"x" * 3000)):
        (tmp_path / "top" / name).write_bytes(data)
    time.sleep(0.15)  # older than a write(2) lasts
    return tmp_path / "top"


def open_tree(top: Path, room: int = 100) -> ContextTree:
    return ContextTree(str(top), IgnoreRules(), NoStatCache(), room=Room(room))


def test_what_is_kept_is_what_was_hashed(top: Path) -> None:
    with open_tree(top) as tree:
        digests = tree.hash_many(["a", "b", "empty"])
        (top / "a").write_bytes(b"other")
        assert tree.kept("a") == b"small"
        assert digests["a"] == "sha256:" + hashlib.sha256(b"small").hexdigest()
        assert tree.kept("b") is None  # more than there is room for
        assert tree.kept("empty") is None
    assert tree.kept("a") is None  # closed


def test_what_was_written_just_now_is_read_again(top: Path) -> None:
    (top / "a").write_bytes(b"young")
    with open_tree(top) as tree:
        tree.hash_many(["a"])
        assert tree.kept("a") is None


def test_a_tree_of_its_own_keeps_nothing(top: Path) -> None:
    with ContextTree(str(top), IgnoreRules(), NoStatCache()) as tree:
        tree.hash_many(["a"])
        assert tree.kept("a") is None
