"""Knows how to go through a FileTree as if it were the root directory; must not know what for.

A FileTree follows no link, so links are followed here, as text, inside the tree: an absolute
target starts at its root and `..` stops there. Nothing on the host is ever named.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from buildgraph import limits
from buildgraph.context.ignore import IgnoreRules
from buildgraph.errors import InputError
from buildgraph.filetree import FileStat, FileTree, Kind, name_order
from buildgraph.rootpath import clean, components
from buildgraph_cache.digest import Digest

KIND_WORDS: Final = {
    Kind.FILE: "a file",
    Kind.HARDLINK: "a file",
    Kind.SYMLINK: "a symbolic link",
    Kind.CHAR: "a device",
    Kind.BLOCK: "a device",
    Kind.DIR: "a directory",
    Kind.FIFO: "a named pipe",
    Kind.SOCKET: "a socket",
}


class EmptyTree:
    """A FileTree with nothing in it: what FROM scratch starts from."""

    def stat(self, path: str) -> FileStat | None:
        """Return the root, and None for everything else."""
        return None if path else FileStat(Kind.DIR, 0o755)

    def list(self, path: str) -> list[tuple[str, FileStat]]:
        """Return nothing."""
        return []

    def open(self, path: str) -> int:
        """Raise FileNotFoundError."""
        raise FileNotFoundError(path)

    def xattrs(self, path: str) -> tuple[tuple[str, bytes], ...]:
        """Return nothing."""
        return ()

    def digest(self, path: str, stat: FileStat) -> Digest:
        """Raise FileNotFoundError."""
        raise FileNotFoundError(path)


class Found(Struct, frozen=True):
    """Where a path leads. `stat` None: nothing is there, and `path` is where it would be."""

    path: str
    stat: FileStat | None
    file_in_the_way: str = ""  # a component that is no directory, though more follows


class Item(Struct, frozen=True):
    """One entry below a starting point; `name` is relative to that, `path` to the tree."""

    name: str
    path: str
    stat: FileStat


def join(directory: str, name: str) -> str:
    """Return the path of an entry of a directory; "" is the root, and no name is the directory."""
    return f"{directory}/{name}" if directory and name else directory or name


def follow(tree: FileTree, path: str) -> Found:
    """Follow every link of `path`, the last one too. Raises InputError for a loop of links."""
    todo = components(path)[::-1]
    names: list[str] = []
    stat = tree.stat("") or FileStat(Kind.DIR, 0o755)
    budget = limits.LINK_BUDGET
    while todo:
        name = todo.pop()
        if name == "..":
            names = names[:-1]
            stat = tree.stat("/".join(names)) or stat
            continue
        here = "/".join([*names, name])
        found = tree.stat(here)
        if found is None:
            return Found(clean("/".join([here, *reversed(todo)])), None)
        if found.kind is Kind.SYMLINK:
            budget -= 1
            if budget < 0:
                raise InputError(f"too many symbolic links on the way to /{clean(path)}")
            if found.target.startswith("/"):
                names = []
            todo.extend(components(found.target)[::-1])
            stat = tree.stat("/".join(names)) or stat
            continue
        if todo and found.kind is not Kind.DIR:
            return Found(here, None, here)
        names.append(name)
        stat = found
    return Found("/".join(names), stat)


def walk(
    tree: FileTree,
    top: str,
    exclude: IgnoreRules,
    *,
    start: str = "",
    enter: Callable[[str], bool] | None = None,
) -> list[Item]:
    """Return everything below the directory `top`, links not followed, sorted by bytes.

    Names are relative to `top`, though only what lies below its subdirectory `start` is looked
    at. A directory for whose name `enter` says False is returned and not read.
    What `exclude` leaves out is not there; a directory it leaves out is, where something below
    is brought back. Sockets are left out: no layer can hold one.
    """
    out: list[Item] = []
    waiting: dict[str, Item] = {}  # excluded directories, until something below them counts
    todo = [(start, join(top, start))]
    while todo:
        base, directory = todo.pop()
        scope = exclude.below(base) if exclude else None
        prefix = base + "/" if base else ""
        path_prefix = directory + "/" if directory else ""
        for name, stat in tree.list(directory):
            item = Item(prefix + name, path_prefix + name, stat)
            if scope is not None and scope.excludes(name):
                if stat.kind is not Kind.DIR or not exclude.may_reinclude_below(item.name):
                    continue
                waiting[item.name] = item
            elif stat.kind is Kind.SOCKET:
                continue
            else:
                out.append(item)
                if waiting:
                    _admit_parents(item.name, waiting, out)
            if stat.kind is Kind.DIR and (enter is None or enter(item.name)):
                todo.append((item.name, item.path))
    out.sort(key=lambda item: name_order(item.name))
    return out


def _admit_parents(name: str, waiting: dict[str, Item], out: list[Item]) -> None:
    parent = posixpath.dirname(name)
    while parent:
        item = waiting.pop(parent, None)
        if item is not None:
            out.append(item)
        parent = posixpath.dirname(parent)
