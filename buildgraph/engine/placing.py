"""Knows where the files of a COPY, ADD or WORKDIR go and which entries their layer gets; must not
know how a layer is written.

Every layer stands for itself: it has an entry for each directory on the way to what it adds, with
the metadata that directory has in the tree below. What the tree below says is gathered first, as
facts that go into the node's key; entries are made of the op, the selection and the facts alone.
So a layer is the same as long as its files and the facts are, whatever else became of the base.

Stricter than BuildKit on purpose: an owner's name that the target does not know is an error.
Source: shared reference 1.5 and 1.10; owners: passwd(5), group(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from buildgraph import limits
from buildgraph.engine.filemodes import Chmod
from buildgraph.engine.selecting import Group, Selection, Xattrs
from buildgraph.engine.treewalk import KIND_WORDS, EmptyTree, Found, Item, follow, join
from buildgraph.engine.users import lookup
from buildgraph.errors import InputError, Location
from buildgraph.filetree import Entry, FileStat, FileTree, FromTree, Kind, name_order
from buildgraph.graph.ops import CopyOp, MkdirOp
from buildgraph.rootpath import clean

_SEARCHED_ONE_BY_ONE = 16  # names in a directory, above which it is listed as a whole


class Parent(Struct, frozen=True):
    """A directory that exists below and must appear in the layer as it is."""

    path: str
    mode: int
    uid: int
    gid: int
    xattrs: Xattrs = ()


class DestFacts(Struct, frozen=True):
    """What a destination looks like before the step: all that its layer needs to know of it."""

    path: str  # real, inside the root; "" is the root itself
    into: bool  # files go into it under their names; else a file becomes exactly this path
    parents: tuple[Parent, ...]  # what exists of the way to it, and it itself, if a directory
    owner: tuple[int, int] | None  # of --chown, or of WORKDIR's user

    def as_json(self) -> dict[str, Any]:
        """Return the value that goes into the node key."""
        return {
            "path": self.path,
            "into": self.into,
            "parents": [
                [p.path, p.mode, p.uid, p.gid, [[n, v.hex()] for n, v in p.xattrs]]
                for p in self.parents
            ],
            "owner": list(self.owner) if self.owner is not None else None,
        }


def destination(
    op: CopyOp, selection: Selection, dest_tree: FileTree | None, where: Location | None = None
) -> DestFacts:
    """Look at the place where the files will go. `dest_tree` None is FROM scratch.

    Links of the image are followed inside it (A07). Raises InputError for a file where a
    directory is needed, a directory or link where a file or directory would go, and for owners
    that the image does not know.
    """
    tree: FileTree = EmptyTree() if dest_tree is None or op.link else dest_tree
    try:
        found, parents = _approach(tree, op.dest)
        is_dir = found.stat is not None and found.stat.kind is Kind.DIR
        slash = op.dest.endswith(("/", "/.")) or op.dest == "."
        if slash and found.stat is not None and not is_dir:
            raise InputError(
                f"the destination {op.dest} is not a directory but {KIND_WORDS[found.stat.kind]}"
            )
        into = is_dir or slash or bool(selection.archives)
        owner = _owner(op.chown, tree, link=op.link) if op.chown is not None else None
        facts = DestFacts(found.path, into, parents, owner)
        _check_conflicts(_Layout(selection, facts), tree)
    except InputError as error:
        error.where = error.where or where
        raise
    return facts


def _approach(tree: FileTree, dest: str) -> tuple[Found, tuple[Parent, ...]]:
    """Resolve a destination and return it with the directories that exist on the way."""
    found = follow(tree, clean(dest))
    if found.file_in_the_way:
        raise InputError(
            f"cannot make {dest}: /{found.file_in_the_way} is in the way and is no directory"
        )
    parents: list[Parent] = []
    names = found.path.split("/") if found.path else []
    for count in range(1, len(names) + 1):
        path = "/".join(names[:count])
        stat = tree.stat(path)
        if stat is None or stat.kind is not Kind.DIR:
            break
        parents.append(Parent(path, stat.mode, stat.uid, stat.gid, tree.xattrs(path)))
    return found, tuple(parents)


# --- owners ------------------------------------------------------------------------------------


def _owner(spec: str, tree: FileTree, *, link: bool) -> tuple[int, int]:
    """Return uid and gid of `user[:group]`; a number alone is both (A48)."""
    user, colon, group = spec.partition(":")
    if not user and not group:
        raise InputError(f"--chown={spec}: no user")
    if _is_number(user) and not group:
        number = lookup(user, b"", b"").uid
        return number, number
    names = [name for name in (user, group) if name and not _is_number(name)]
    if link and names:
        raise InputError(
            f"--chown={spec}: {names[0]!r} cannot be looked up with --link, which does not see "
            "the files below",
            hint="give numbers, or leave --link out",
        )
    passwd = _read_text(tree, "etc/passwd") if names else b""
    groups = _read_text(tree, "etc/group") if names else b""
    identity = lookup(user + (colon + group if group else ""), passwd, groups)
    return identity.uid, identity.gid


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _read_text(tree: FileTree, path: str) -> bytes:
    found = follow(tree, path)
    if found.stat is None or found.stat.kind is not Kind.FILE:
        return b""
    fd = tree.open(found.path)
    try:
        out = b""
        while len(out) < limits.PASSWD_BYTES and (data := os.read(fd, 1 << 16)):
            out += data
        return out
    finally:
        os.close(fd)


# --- where each file goes ----------------------------------------------------------------------


class _Placed(Struct, frozen=True):
    item: Item
    group: Group
    number: int  # of the group: hard links are kept inside one


class _Layout:
    """Paths of all entries, in the order of the sources: what comes later replaces."""

    def __init__(self, selection: Selection, facts: DestFacts):
        self.placed: dict[str, _Placed] = {}
        self._above = ""  # what the last path is in, known to be no file: paths come by directory
        self.facts = facts
        self.makes_dest = bool(selection.archives)  # even if nothing is put into it
        into = facts.into
        for number, group in enumerate(selection.groups):
            if group.is_dir:
                if facts.path in self.placed:
                    raise self._clash(group, facts.path, "a file of the same step")
                self.makes_dest = into = True
                for item in group.items:
                    self._put(join(facts.path, item.name), _Placed(item, group, number))
            else:
                path = join(facts.path, group.name) if into else facts.path
                self._put(path, _Placed(group.items[0], group, number))

    def _put(self, path: str, placed: _Placed) -> None:
        before = self.placed.get(path)
        if before is not None:
            was, now = before.item.stat.kind, placed.item.stat.kind
            if (was is Kind.DIR) != (now is Kind.DIR):
                raise self._clash(placed.group, path, f"{KIND_WORDS[was]} of the same step")
        parent = path.rpartition("/")[0]
        if parent != self._above:
            above = self.placed.get(parent)
            if above is not None and above.item.stat.kind is not Kind.DIR:
                raise self._clash(placed.group, parent, f"{KIND_WORDS[above.item.stat.kind]}")
            self._above = parent
        self.placed[path] = placed

    @staticmethod
    def _clash(group: Group, path: str, what: str) -> InputError:
        return InputError(f"cannot copy {group.source!r} onto /{path}, which is {what}")

    def new_parents(self) -> set[str]:
        """Return the directories that no file or fact brings and that are needed."""
        known = {parent.path for parent in self.facts.parents}
        return self.directories() - known - self.placed.keys()

    def directories(self) -> set[str]:
        """Return the destination, if it is made, and every directory above what is placed."""
        out = {self.facts.path} if self.makes_dest else set()
        out.update(path.rpartition("/")[0] for path in self.placed)
        for path in tuple(out):
            while path and (path := path.rpartition("/")[0]) not in out:
                out.add(path)
        out.discard("")
        return out


def _check_conflicts(layout: _Layout, tree: FileTree) -> None:
    """Refuse a directory onto anything else, and anything else onto a directory."""
    facts = layout.facts
    if layout.makes_dest and facts.path and not _is_dir_or_missing(tree.stat(facts.path)):
        group = next((p.group for p in layout.placed.values()), None)
        source = f"{group.source!r}" if group else "the contents of a directory"
        raise InputError(f"cannot copy {source} onto /{facts.path}, which is not a directory")
    by_directory: dict[str, list[tuple[str, _Placed]]] = {}
    for path, placed in layout.placed.items():
        directory, _, name = path.rpartition("/")
        by_directory.setdefault(directory, []).append((name, placed))
    exists: dict[str, bool] = {"": True}
    for directory in sorted(by_directory, key=name_order):
        if not _exists(tree, directory, exists):
            continue
        for path, placed, stat in _against(tree, directory, by_directory[directory]):
            is_dir = placed.item.stat.kind is Kind.DIR
            exists[path] = stat.kind is Kind.DIR
            if is_dir != (stat.kind is Kind.DIR):
                raise _conflict(placed, path, stat)


def _is_dir_or_missing(stat: FileStat | None) -> bool:
    return stat is None or stat.kind is Kind.DIR


def _exists(tree: FileTree, directory: str, known: dict[str, bool]) -> bool:
    """Say whether a directory exists below, asking once for each."""
    if directory not in known:
        parent = directory.rpartition("/")[0]
        stat = tree.stat(directory) if _exists(tree, parent, known) else None
        known[directory] = stat is not None and stat.kind is Kind.DIR
    return known[directory]


def _against(
    tree: FileTree, directory: str, entries: list[tuple[str, _Placed]]
) -> Iterator[tuple[str, _Placed, FileStat]]:
    """Yield those entries of one directory that stand there already."""
    if len(entries) > _SEARCHED_ONE_BY_ONE:
        there = dict(tree.list(directory))
        for name, placed in entries:
            if name in there:
                yield join(directory, name), placed, there[name]
        return
    for name, placed in entries:
        stat = tree.stat(join(directory, name))
        if stat is not None:
            yield join(directory, name), placed, stat


def _conflict(placed: _Placed, path: str, stat: FileStat) -> InputError:
    item = placed.item
    source = f"/{item.path}" if item.path else placed.group.source
    hint = None
    if item.stat.kind is Kind.DIR and stat.kind is Kind.SYMLINK:
        hint = f"the link leads to {stat.target!r}; copy to that path instead"
    return InputError(
        f"cannot copy {KIND_WORDS[item.stat.kind]} {source} onto /{path}, "
        f"which is {KIND_WORDS[stat.kind]}",
        hint=hint,
    )


# --- entries -----------------------------------------------------------------------------------


def entries(op: CopyOp, selection: Selection, facts: DestFacts) -> list[Entry]:
    """Return the layer's entries, sorted by the bytes of their paths, parents included.

    Nothing selected gives no entries. What ADD unpacks (`selection.archives`) is not among them,
    but the directory it goes to is. Contents are read when the layer is written.
    """
    layout = _Layout(selection, facts)
    if not layout.placed and not layout.makes_dest:
        return []
    out: dict[str, Entry] = {}
    for parent in facts.parents:
        if parent.path not in layout.placed:
            out[parent.path] = _parent_entry(parent)
    chmod = Chmod.parse(op.chmod) if op.chmod is not None else None
    mode = chmod.apply(0o755, is_dir=True) if chmod else 0o755
    uid, gid = facts.owner or (0, 0)
    for path in layout.new_parents():
        out[path] = Entry(path, Kind.DIR, mode, uid, gid)
    first: dict[tuple[int, int, int], str] = {}
    for path in sorted(layout.placed, key=name_order):
        out[path] = _entry(op, selection, facts, path, layout.placed[path], first)
    needed = layout.placed.keys() | layout.directories()
    return [out[path] for path in sorted(needed & out.keys(), key=name_order)]


def _parent_entry(parent: Parent) -> Entry:
    return Entry(parent.path, Kind.DIR, parent.mode, parent.uid, parent.gid, xattrs=parent.xattrs)


def _entry(
    op: CopyOp,
    selection: Selection,
    facts: DestFacts,
    path: str,
    placed: _Placed,
    first: dict[tuple[int, int, int], str],
) -> Entry:
    """Return one entry; `first` remembers where a hard-linked inode was put first."""
    item, stat, inline = placed.item, placed.item.stat, placed.group.inline
    kind, link, size = stat.kind, "", 0
    content: bytes | FromTree | None = None
    if kind is Kind.SYMLINK:
        link = stat.target
    elif inline is not None:
        size, content = len(inline), inline
    elif kind is Kind.FILE:
        if stat.nlink > 1 and stat.ino:
            link = first.setdefault((placed.number, stat.dev, stat.ino), path)
        if link not in ("", path):
            kind = Kind.HARDLINK
        else:
            link, size, content = "", stat.size, selection.content(item)
    uid, gid = facts.owner or selection.owner(stat)
    return Entry(
        path,
        kind,
        0o777 if kind is Kind.SYMLINK else selection.mode(stat),
        uid,
        gid,
        size,
        stat.mtime_ns // 1_000_000_000 if op.preserve_times and inline is None else None,
        link,
        selection.xattrs.get(item.path, ()) if inline is None else (),
        stat.rdev if kind in (Kind.CHAR, Kind.BLOCK) else 0,
        content,
    )


# --- WORKDIR -----------------------------------------------------------------------------------


def mkdir_facts(
    op: MkdirOp, dest_tree: FileTree | None, where: Location | None = None
) -> DestFacts:
    """Look at the place of a WORKDIR. Raises InputError where a file is in the way."""
    tree: FileTree = dest_tree if dest_tree is not None else EmptyTree()
    try:
        found, parents = _approach(tree, op.path)
        if found.stat is not None and found.stat.kind is not Kind.DIR:
            raise InputError(f"WORKDIR {op.path}: it exists and is {KIND_WORDS[found.stat.kind]}")
        owner = _owner_of_workdir(op.user, tree) if found.stat is None and op.user else None
    except InputError as error:
        error.where = error.where or where
        raise
    return DestFacts(found.path, True, parents, owner)


def _owner_of_workdir(user: str, tree: FileTree) -> tuple[int, int]:
    """Return whose directory it becomes; root's where the image does not know the user.

    USER is not looked up before a RUN needs it (1.4), so `FROM scratch`, `USER app`, `WORKDIR /w`
    has to work.
    """
    try:
        return _owner(user, tree, link=False)
    except InputError:
        return 0, 0


def mkdir_entries(facts: DestFacts) -> list[Entry]:
    """Return the directories that WORKDIR makes, with those above; none where it exists."""
    known = {parent.path for parent in facts.parents}
    if not facts.path or facts.path in known:
        return []
    uid, gid = facts.owner or (0, 0)
    out = [_parent_entry(parent) for parent in facts.parents]
    names = facts.path.split("/")
    for count in range(len(facts.parents) + 1, len(names) + 1):
        out.append(Entry("/".join(names[:count]), Kind.DIR, 0o755, uid, gid))
    return out
