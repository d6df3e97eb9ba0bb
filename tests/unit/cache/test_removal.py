"""Deleting trees that hostile commands wrote."""

from __future__ import annotations

import os
from pathlib import Path

from buildgraph_cache.disk import Disk
from buildgraph_cache.removal import delete_tree, disk_usage


def test_links_are_deleted_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(outside)
    (tree / "up").symlink_to("..")
    (tree / "absolute").symlink_to("/")
    os.link(outside / "kept", tree / "hard")
    os.mkfifo(tree / "fifo")
    delete_tree(Disk(), str(tree))
    assert sorted(os.listdir(tmp_path)) == ["outside"]
    assert os.listdir(outside) == ["kept"]


def test_a_link_in_place_of_the_tree_is_only_itself(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    delete_tree(Disk(), str(tmp_path / "link"))
    delete_tree(Disk(), str(tmp_path / "link"))
    assert os.listdir(tmp_path) == ["real"]


def test_directories_without_permissions_are_deleted(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a" / "b" / "c").mkdir(parents=True)
    (tree / "a" / "b" / "f").touch()
    for path in (tree / "a" / "b" / "c", tree / "a" / "b", tree / "a", tree):
        path.chmod(0)
    delete_tree(Disk(), str(tree))
    assert os.listdir(tmp_path) == []


def test_depth_and_strange_names_do_not_matter(tmp_path: Path) -> None:
    top = os.open(tmp_path, os.O_RDONLY)
    os.mkdir("tree", dir_fd=top)
    here = os.open("tree", os.O_RDONLY, dir_fd=top)
    names = ["d", "\udcff", "new\nline", "x" * 255, ".deep-1"]
    for number in range(1500):
        name = names[number % len(names)]
        os.mkdir(name, dir_fd=here)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    os.close(top)
    delete_tree(Disk(), str(tmp_path / "tree"))
    assert os.listdir(tmp_path) == []


def test_usage_counts_a_hard_link_once(tmp_path: Path) -> None:
    assert disk_usage(str(tmp_path / "nothing")) == 0
    empty = disk_usage(str(tmp_path))
    (tmp_path / "a").write_bytes(bytes(8192))
    one = disk_usage(str(tmp_path))
    assert one >= empty + 8192
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").symlink_to("/usr")
    assert disk_usage(str(tmp_path)) == one
