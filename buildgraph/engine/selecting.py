"""Knows which files a COPY or ADD means, as a value; must not know where they go or how they are
written.

`select` finds them in a FileTree and `Selection` says what they are; `placing` says where they
go. All of it is the same whatever order a directory is read in (R35).

Where we differ from BuildKit on purpose: `--exclude` also leaves out files that the source's
glob matched directly (its issue 5489); a link that leads nowhere is an error that says where it
leads; modes and owners that `--chmod` and `--chown` replace are no part of the identity.
Source: shared reference 1.5, 1.7, 1.10 and 3.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from msgspec import Struct

from buildgraph.context.glob import (
    BadPattern,
    Components,
    DeepPattern,
    has_wildcards,
    unescape,
)
from buildgraph.context.ignore import IgnoreRules, clean_pattern
from buildgraph.engine.filemodes import Chmod
from buildgraph.engine.sniffing import is_archive
from buildgraph.engine.treewalk import KIND_WORDS, Found, Item, follow, join, walk
from buildgraph.errors import InputError, Location, did_you_mean
from buildgraph.filetree import FileStat, FileTree, FromTree, Kind, name_order
from buildgraph.graph.ops import ContextSource, CopyOp, RunMount, StageSource
from buildgraph.rootpath import clean
from buildgraph_cache.digest import Digest, sha256_digest

Xattrs = tuple[tuple[str, bytes], ...]


@runtime_checkable
class _Batched(Protocol):
    """A tree that answers for many files at once much faster than one by one."""

    def hash_many(self, paths: Iterable[str]) -> dict[str, Digest]:
        """Return digests by path."""

    def xattrs_many(self, paths: Iterable[str]) -> dict[str, Xattrs]:
        """Return attributes by path, where there are any."""


@runtime_checkable
class _Keeping(Protocol):
    """A tree that may still have the bytes of files that it has hashed."""

    def kept(self, path: str) -> bytes | None:
        """Return the bytes of a regular file, if they are at hand."""


@runtime_checkable
class _Hiding(Protocol):
    """A tree that can say why something is not in it."""

    ignore_name: str

    def hidden(self, path: str) -> str | None:
        """Return the pattern that leaves `path` out."""


class Group(Struct, frozen=True):
    """What one match of one source brings: a file under its name, or a directory's contents."""

    source: str  # as written
    name: str  # of a file; "" of a directory
    is_dir: bool
    items: tuple[Item, ...]  # of a file: one, with the name ""
    inline: bytes | None = None  # the bytes of a heredoc; its item has no path in the tree


class Selection:
    """The files of one COPY or ADD. Digests and attributes are read when they are asked for."""

    __slots__ = ("_chmod", "_digests", "_kept", "_op", "_xattrs", "archives", "groups", "tree")

    def __init__(
        self, op: CopyOp, tree: FileTree, groups: Sequence[Group], archives: Sequence[str]
    ):
        self.tree = tree
        self.groups = tuple(groups)
        self.archives = tuple(archives)  # paths in the tree of what ADD unpacks
        self._op = op
        self._chmod = Chmod.parse(op.chmod) if op.chmod is not None else None
        self._kept = tree.kept if isinstance(tree, _Keeping) else None
        self._digests: dict[str, Digest] | None = None
        self._xattrs: dict[str, Xattrs] | None = None

    @property
    def keeps_owner(self) -> bool:
        """Whether files keep the owner they have in the tree (`--from`) or get 0:0 (context)."""
        source = self._op.source
        return not isinstance(source, ContextSource) or source.owners

    @property
    def digests(self) -> dict[str, Digest]:
        """The sha256 of every regular file and archive, by path in the tree."""
        if self._digests is None:
            files = {i.path: i.stat for i in self._items() if i.stat.kind is Kind.FILE}
            for path in self.archives:
                files[path] = self.tree.stat(path) or FileStat(Kind.FILE, 0)
            if isinstance(self.tree, _Batched):
                self._digests = self.tree.hash_many(files)
            else:
                self._digests = {path: self.tree.digest(path, s) for path, s in files.items()}
        return self._digests

    @property
    def xattrs(self) -> dict[str, Xattrs]:
        """The extended attributes, by path in the tree, where there are any."""
        if self._xattrs is None:
            paths = [i.path for i in self._items() if i.stat.kind in (Kind.FILE, Kind.DIR)]
            if isinstance(self.tree, _Batched):
                self._xattrs = self.tree.xattrs_many(paths)
            else:
                found = ((path, self.tree.xattrs(path)) for path in paths)
                self._xattrs = {path: value for path, value in found if value}
        return self._xattrs

    def content(self, item: Item) -> bytes | FromTree:
        """Return the bytes of a regular file, or where they are to be read."""
        kept = self._kept(item.path) if self._kept is not None else None
        return FromTree(self.tree, item.path, item.stat) if kept is None else kept

    def mode(self, stat: FileStat) -> int:
        """Return the permission bits an item gets."""
        if self._chmod is None or stat.kind is Kind.SYMLINK:
            return stat.mode
        return self._chmod.apply(stat.mode, is_dir=stat.kind is Kind.DIR)

    def owner(self, stat: FileStat) -> tuple[int, int]:
        """Return the owner an item gets where no `--chown` says otherwise."""
        return (stat.uid, stat.gid) if self.keeps_owner else (0, 0)

    def listing(self) -> list[list[Any]]:
        """Return one row per entry, JSON-able and in order: what the files *are*.

        A row is [group, name, type, mode, uid, gid, content, xattrs, mtime]: `content` is a
        digest, a link's text, the first name of a hard link, or a device number; uid and gid are
        None where `--chown` sets them, mtime where times are not kept. A file's name matters, a
        copied directory's own name and metadata do not.
        """
        rows: list[list[Any]] = []
        digests = self.digests  # before attributes: a file that is open for one is asked for both
        for number, group in enumerate(self.groups):
            first: dict[tuple[int, int], str] = {}
            for item in group.items:
                rows.append(self._row(number, group, item, first))
        for path in self.archives:
            rows.append([-1, "", "archive", 0, None, None, digests[path], [], None])
        return rows

    def _row(
        self, number: int, group: Group, item: Item, first: dict[tuple[int, int], str]
    ) -> list[Any]:
        stat = item.stat
        kind, content = stat.kind.value, self._content(group, item)
        if stat.kind is Kind.FILE and stat.nlink > 1 and stat.ino:
            earlier = first.setdefault((stat.dev, stat.ino), item.name)
            if earlier != item.name:
                kind, content = Kind.HARDLINK.value, earlier
        uid, gid = (None, None) if self._op.chown is not None else self.owner(stat)
        xattrs = self.xattrs.get(item.path, ()) if group.inline is None else ()
        return [
            number,
            item.name if group.is_dir else group.name,
            kind,
            0 if stat.kind is Kind.SYMLINK else self.mode(stat),
            uid,
            gid,
            content,
            [[name, value.hex()] for name, value in xattrs],
            stat.mtime_ns // 1_000_000_000 if self._op.preserve_times else None,
        ]

    def _content(self, group: Group, item: Item) -> str | int | None:
        kind = item.stat.kind
        if kind is Kind.FILE:
            if group.inline is not None:
                return sha256_digest(group.inline)
            return self.digests[item.path]
        if kind is Kind.SYMLINK:
            return item.stat.target
        return item.stat.rdev if kind in (Kind.CHAR, Kind.BLOCK) else None

    def listing_text(self) -> bytes:
        """Return the listing as JSON; asked for once where both it and its digest are wanted."""
        return _json(self.listing())

    def tree_digest(self, listing: bytes | None = None) -> Digest:
        """Return the sha256 over the listing: all that a node key needs to know of the files.

        `listing` is what `listing_text` said.
        """
        rows = self.listing_text() if listing is None else listing
        return sha256_digest(b"[%b,%b]" % (_json([group.is_dir for group in self.groups]), rows))

    def identity(self) -> dict[str, Any]:
        """Return the canonical, JSON-able and small value that a node key takes in."""
        return {"files": self.tree_digest(), "count": sum(len(g.items) for g in self.groups)}

    def _items(self) -> Iterator[Item]:
        for group in self.groups:
            if group.inline is None:
                yield from group.items


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode("ascii")


# --- finding them ------------------------------------------------------------------------------


def select(op: CopyOp, tree: FileTree, where: Location | None = None) -> Selection:
    """Find what the sources of `op` mean in `tree`.

    Raises InputError for a literal source that is not there, a malformed pattern, a link that
    leads nowhere or in a circle, and for names and devices that a layer cannot hold.
    """
    try:
        return _Finder(op, tree, where).run()
    except InputError as error:
        if error.where is None:
            error.where = where
        raise


class _Finder:
    """One run of `select`."""

    def __init__(self, op: CopyOp, tree: FileTree, where: Location | None):
        self.op = op
        self.tree = tree
        self.where = where
        self.groups: list[Group] = []
        self.archives: list[str] = []
        self.exclude = IgnoreRules((clean_pattern(p) for p in op.exclude if p.strip()), "--exclude")

    def run(self) -> Selection:
        for source in self.op.paths:
            try:
                if self.op.parents:
                    self.take_with_parents(source)
                else:
                    for path, by_glob in self.matches(source):
                        self.take(source, path, by_glob=by_glob)
            except BadPattern as error:
                raise InputError(f"malformed pattern {source!r}: {error}", self.where) from error
        for file in self.op.inline:
            stat = FileStat(Kind.FILE, file.mode, size=len(file.content))
            item = Item("", "", stat)
            self.groups.append(Group(f"<<{file.name}", file.name, False, (item,), file.content))
        for group in self.groups:
            for item in group.items:
                _check_storable(item.name or group.name, item.stat, group.source)
        return Selection(self.op, self.tree, self.groups, self.archives)

    def matches(self, source: str) -> list[tuple[str, bool]]:
        """Return (path, found by a glob) of a source; links of the last component unfollowed."""
        text = clean(source)
        if not has_wildcards(text):
            plain = unescape(text)
            if plain != text and follow(self.tree, plain).stat is None:
                plain = text  # a name that really has a backslash
            return [(plain, False)]
        names = text.split("/")
        fixed = next(at for at, name in enumerate(names) if has_wildcards(name))
        pattern = Components.read("/".join(names[fixed:]))
        base = follow(self.tree, unescape("/".join(names[:fixed])))
        if base.stat is None or base.stat.kind is not Kind.DIR:
            return []
        return [(path, True) for path in glob_below(self.tree, base.path, pattern)]

    def take(self, source: str, path: str, *, by_glob: bool) -> None:
        found = follow(self.tree, path)
        if found.stat is None:
            raise self.missing(source, path, found)
        name = clean(path).rpartition("/")[2] or found.path.rpartition("/")[2]
        is_dir = found.stat.kind is Kind.DIR
        if name and (by_glob or not is_dir) and self.exclude.excludes(name):
            return
        if is_dir:
            self.groups.append(
                Group(source, "", True, tuple(walk(self.tree, found.path, self.exclude)))
            )
        elif found.stat.kind is Kind.SOCKET:
            if not by_glob:
                raise InputError(f"{source!r} is a socket, which no layer can hold", self.where)
        elif self.unpacks(found):
            self.archives.append(found.path)
        else:
            item = Item("", found.path, found.stat)
            self.groups.append(Group(source, name, False, (item,)))

    def unpacks(self, found: Found) -> bool:
        return (
            self.op.unpack is not False
            and found.stat is not None
            and found.stat.kind is Kind.FILE
            and is_archive(self.tree, found.path)
        )

    def missing(self, source: str, path: str, found: Found) -> InputError:
        origin = "the context" if isinstance(self.op.source, ContextSource) else "the stage"
        if isinstance(self.tree, _Hiding):
            pattern = self.tree.hidden(clean(path)) or self.tree.hidden(found.path)
            if pattern is not None:
                return InputError(
                    f"{source!r} is left out of the context by {self.tree.ignore_name}: {pattern}",
                    self.where,
                    f"bring it back with a later line '!{clean(path)}'",
                )
        if found.file_in_the_way:
            why = f"{found.file_in_the_way!r} is not a directory"
            return InputError(f"{source!r} not found in {origin}: {why}", self.where)
        if found.path != clean(path):
            why = f"a symbolic link on the way leads to /{found.path}, and that is not there"
            return InputError(f"{source!r} not found in {origin}: {why}", self.where)
        hint = None
        if ".." in source.split("/"):
            hint = f"'..' stops at the root of {origin}: nothing outside it can be copied"
        else:
            hint = self.nearest(found.path)
        return InputError(f"{source!r} not found in {origin}", self.where, hint)

    def nearest(self, path: str) -> str | None:
        parent, _, name = path.rpartition("/")
        stat = self.tree.stat(parent)
        if parent and (stat is None or stat.kind is not Kind.DIR):
            return None
        return did_you_mean(name, [entry for entry, _ in self.tree.list(parent)])

    def take_with_parents(self, source: str) -> None:
        """Take a source with the directories on the way to it, from a `/./` on where it has one."""
        before, pivot, after = source.partition("/./")
        if not pivot:
            before, after = "", source
        base = follow(self.tree, unescape(clean(before)))
        literal = not has_wildcards(source)
        path = clean(after)
        if base.stat is None or base.stat.kind is not Kind.DIR:
            if literal:
                raise self.missing(source, join(clean(before), path), base)
            return
        if not path:
            items = walk(self.tree, base.path, self.exclude)
        elif literal:
            items = self.literal_with_parents(source, base.path, unescape(path))
        else:
            items = _matching_with_parents(self.tree, base.path, path, self.exclude)
        if items or not path:
            self.groups.append(Group(source, "", True, tuple(items)))

    def literal_with_parents(self, source: str, base: str, path: str) -> list[Item]:
        items: list[Item] = []
        names = path.split("/")
        for count in range(1, len(names) + 1):
            name = "/".join(names[:count])
            stat = self.tree.stat(join(base, name))
            if stat is None or (count < len(names) and stat.kind is not Kind.DIR):
                raise self.missing(source, join(base, path), Found(join(base, path), None))
            items.append(Item(name, join(base, name), stat))
        if self.exclude.excludes(path) and not self.exclude.may_reinclude_below(path):
            return []
        if items[-1].stat.kind is Kind.DIR:
            items += walk(self.tree, base, self.exclude, start=path)
        return items


def _matching_with_parents(
    tree: FileTree, base: str, text: str, exclude: IgnoreRules
) -> list[Item]:
    """Return what matches, what lies below it, and the directories above it, in order."""
    pattern = DeepPattern.read(text)
    kept: set[str] = set()

    def keeps(name: str) -> bool:
        if name.rpartition("/")[0] in kept or pattern.matches(name):
            kept.add(name)
            return True
        return False

    items = walk(
        tree, base, exclude, enter=lambda name: keeps(name) or pattern.may_match_below(name)
    )
    above: set[str] = set()
    for item in items:  # sorted, so a directory comes before what is in it
        if keeps(item.name):
            parent = item.name.rpartition("/")[0]
            while parent and parent not in above:
                above.add(parent)
                parent = parent.rpartition("/")[0]
    return [item for item in items if item.name in kept or item.name in above]


def glob_below(tree: FileTree, base: str, pattern: Components) -> list[str]:
    """Return the paths below the directory `base` that match, sorted; no link is followed."""
    live = [base]
    for at, (matches, literal) in enumerate(zip(pattern.names, pattern.literals, strict=True)):
        last = at == len(pattern.names) - 1
        found: list[str] = []
        for directory in live:
            if literal is not None:
                stat = tree.stat(join(directory, literal))
                entries = [] if stat is None else [(literal, stat)]
            else:
                entries = [entry for entry in tree.list(directory) if matches(entry[0])]
            found += [join(directory, name) for name, s in entries if last or s.kind is Kind.DIR]
        live = found
    return sorted(live, key=name_order)


def _check_storable(name: str, stat: FileStat, source: str) -> None:
    """Refuse what would mean something else in a layer (OCI image layer, "Whiteouts")."""
    base = name.rpartition("/")[2]
    if base.startswith(".wh."):
        raise InputError(
            f"{source!r}: a file called {base!r} would delete {base[4:]!r} in a layer",
            hint="rename it, or leave it out by the ignore file or --exclude",
        )
    if stat.kind is Kind.CHAR and stat.rdev == 0:
        raise InputError(f"{source!r}: the device 0:0 at {name!r} would mean a deleted file")
    if stat.kind is Kind.HARDLINK:
        raise InputError(
            f"{source!r}: {name!r} is {KIND_WORDS[stat.kind]} without a file of its own"
        )


def mount_source(mount: RunMount) -> str:
    """Return the path that a mount shows, in what it is from."""
    return dict(mount.options).get("source", "").strip("/")


def mounted_as_copy(mount: RunMount) -> CopyOp:
    """Return the COPY that selects the files of a mount: those that a COPY of its source would."""
    source: ContextSource | StageSource = (
        ContextSource(mount.context or 0) if mount.input is None else StageSource(mount.input)
    )
    return CopyOp(source, (mount_source(mount) or "/",), (), "/", unpack=False)
