"""Knows how the targets of a workspace are kept, as read, so that a later question need not read
them again; must not know what is asked or where it is kept.

With them stand the files and directories they came from. A file counts as the same if its stat is,
else if its bytes are; a directory if its stat is, else if the names in it that matter are: an
editor that saves by renaming changes neither. What stat cannot be trusted for, because it changed
when it was read, is looked into.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from buildgraph.errors import InputError, Location
from buildgraph.graph.dag import Dag
from buildgraph.label import (
    AllBelow,
    AllInPackage,
    AtPath,
    Label,
    OneTarget,
    TargetPattern,
    parse_pattern,
)

TYPE_CHECKING = False  # typing's own costs a module that the quick way does without
if TYPE_CHECKING:
    from buildgraph.boxfile.target import Target
    from buildgraph.boxfile.workspace import Workspace
    from buildgraph.engine.reads import Reading

FORMAT: Final = 4  # part of the key an index is kept under: another form is another index
_GRAIN_NS: Final = 20_000_000  # as in the stat cache
_YOUNG: Final = -1


class NotKnown(Exception):
    """The index cannot say; the workspace itself must be read."""


# -- writing ------------------------------------------------------------------------------------


def encode(
    workspace: Workspace,
    package: str,
    began_ns: int,
    reading: Reading | None,
    more: Iterable[str] = (),
) -> bytes | None:
    """Return all targets of a workspace as an index; None where stats could not tell it is true.

    `began_ns` is the clock from before the first file was read; `more` are further paths that
    were looked at. Everything must have been loaded: raises InputError else.
    """
    if workspace.volatile:
        return None
    targets = [
        row_of(workspace, workspace.target(label), attributes=reading is None)
        for label in workspace.expand(["//..."])
    ]
    try:
        looked = looked_at(workspace, began_ns, more)
    except OSError:
        return None
    return packed(
        {
            "root": workspace.root,
            "package": package,
            "env": dict(workspace.variables_read),
            "looked": looked,
            "targets": targets,
            "reading": None if reading is None else reading_out(reading),
        }
    )


def row_of(workspace: Workspace, target: Target, *, attributes: bool) -> list[Any]:
    """Return a target as it is kept; who asks what is read asks for no attribute."""
    from buildgraph.engine.asking import texts

    label, where = target.label, target.where
    needs = [str(other) for other, _ in workspace.needs(target)]
    said: dict[str, list[str]] = {}
    given: list[str] = []
    if attributes:
        said = {n: list(texts(v)) for n, v in target.attrs.items() if v.data is not None}
        given = [name for name, value in target.attrs.items() if value.given]
    row = [label.package, label.name, target.kind, target.doc, where.path, where.line, needs]
    return [*row, said, given]


def packed(value: Mapping[str, Any]) -> bytes:
    """Return an index as bytes."""
    # The root stands before all, so that work which needs no more can begin before it is read.
    root = str(value["root"])
    return (
        f"{root}\0".encode("utf-8", "surrogateescape")
        + json.dumps(value, separators=(",", ":")).encode()
    )


def root_of(data: bytes) -> str:
    """Return the root of the workspace that an index is of."""
    return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def looked_at(workspace: Workspace, began_ns: int, more: Iterable[str]) -> list[list[Any]]:
    """Return what decided so far, as it is now. Raises OSError."""
    root = workspace.root
    paths = {*workspace.files_read, *(os.path.relpath(path, root) for path in more)}
    return [_looked(root, path.rstrip("/"), began_ns) for path in sorted(paths)]


def _looked(root: str, path: str, began_ns: int) -> list[Any]:
    full = os.path.join(root, path)
    found = os.stat(full)
    ctime = _YOUNG if found.st_ctime_ns >= began_ns - _GRAIN_NS else found.st_ctime_ns
    return [path, ctime, found.st_ino, found.st_size, _content(full)]


def _content(full: str) -> str:
    """Return what a file holds, or which names of a directory matter, as a digest."""
    import hashlib  # costs as much as all stats, and most files need no digest

    if os.path.isdir(full):
        names: list[str] = []
        with os.scandir(full) as entries:
            for entry in entries:
                # A link or a directory may become a package or lead to one; other files must have
                # one of these names.
                if not entry.is_file(follow_symlinks=False):
                    names.append(entry.name + "/")
                elif _matters(entry.name):
                    names.append(entry.name)
        text = "\0".join(sorted(names)).encode("utf-8", "surrogateescape")
    else:
        with open(full, "rb") as file:
            text = file.read()
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _matters(name: str) -> bool:
    return name in (
        "Boxfile.yaml",
        "Boxfile.lock",
        "Dockerfile",
        "Containerfile",
        "dockerfile",
        "CACHEDIR.TAG",
        "pyvenv.cfg",
        "oci-layout",
    ) or name.endswith(".dockerignore")


def reading_out(reading: Reading) -> dict[str, Any]:
    """Return what targets read as it is kept."""
    contexts: dict[int, int] = {}
    table: list[list[Any]] = []
    rows: list[list[Any]] = []
    for label, reads in reading.contexts.items():
        for read in reads:
            at = contexts.get(id(read.context))
            if at is None:
                at = contexts[id(read.context)] = len(table)
                found = read.context
                table.append([found.root, found.ignore, found.ignore_name, found.real])
            where = [read.where.path, read.where.line]
            row = [label, at, read.sources, read.title, read.stage, *where]
            rows.append([*row, read.exclude, read.parents])
    paths = [
        [label, read.path, read.role, read.where.path, read.where.line]
        for label, reads in reading.paths.items()
        for read in reads
    ]
    return {
        "contexts": table,
        "reads": rows,
        "paths": paths,
        "defining": sorted(reading.defining),
        "seen": dict(reading.seen),
    }


# -- reading ------------------------------------------------------------------------------------


class Index:
    """All targets of a workspace as they were read, and still are; see `graph.query.Universe`."""

    def __init__(self, value: Mapping[str, Any]):
        self.root: str = value["root"]
        self.package: str = value["package"]
        self._rows: dict[str, list[Any]] = {f"//{row[0]}:{row[1]}": row for row in value["targets"]}
        self._reading = value["reading"]
        self._dag: Dag | None = None

    def expand(self, patterns: Sequence[str]) -> list[str]:
        """Return what patterns name, as `Workspace.expand` does. Raises NotKnown."""
        chosen: dict[str, None] = {}
        for text in patterns:
            if text.startswith("/") and not text.startswith("//"):
                raise NotKnown
            try:
                pattern = parse_pattern(text, self.package)
            except InputError as error:
                raise NotKnown from error
            found = self._select(pattern)
            if pattern.exclude:
                for label in found:
                    chosen.pop(label, None)
            else:
                chosen.update(dict.fromkeys(found))
        if not chosen:
            raise NotKnown
        return list(chosen)

    def _select(self, pattern: TargetPattern) -> list[str]:
        match pattern.what:
            case OneTarget(label):
                found = [str(label)]
            case AllInPackage(package):
                found = [name for name, row in self._rows.items() if row[0] == package]
            case AllBelow(package):
                inside = f"{package}/" if package else ""
                found = [
                    name
                    for name, row in self._rows.items()
                    if row[0] == package or row[0].startswith(inside)
                ]
            case AtPath(path, neighbour):
                near = neighbour is not None and str(neighbour) in self._rows
                found = [str(neighbour) if near else str(Label(path, "image"))]
            case _:
                raise NotKnown
        if not found or any(name not in self._rows for name in found):
            raise NotKnown
        return found

    def find(self, pattern: str) -> frozenset[str]:
        """Return the targets that a word of a query names. Raises NotKnown."""
        return frozenset(self.expand([pattern]))

    def graph(self, names: Iterable[str]) -> Dag:
        """Return the graph of all targets."""
        if self._dag is None:
            self._dag = Dag({name: row[6] for name, row in self._rows.items()})
        return self._dag

    def kind(self, name: str) -> tuple[str, ...]:
        """Return the target's rule, alone and as Bazel writes it."""
        rule = self._rows[name][2]
        return rule, f"{rule} rule"

    def doc(self, name: str) -> str:
        """Return what a target says of itself."""
        return str(self._rows[name][3])

    def attribute(self, name: str, attribute: str) -> tuple[str, ...] | None:
        """Return the values of an attribute, as `TargetUniverse.attribute` does."""
        row = self._rows[name]
        if attribute in ("rule", "doc"):
            text = row[2 if attribute == "rule" else 3]
            return (text,) if text else ()
        found = row[7].get(attribute)
        return None if found is None else tuple(found)

    def row(self, name: str) -> dict[str, Any]:
        """Return a target as JSON has it."""
        _, _, rule, doc, path, line, needs, attributes, given = self._rows[name]
        return {
            "label": name,
            "rule": rule,
            "doc": doc,
            "file": path,
            "line": line,
            "needs": needs,
            "attributes": {key: attributes.get(key, []) for key in given},
        }

    def reading(self) -> Reading | None:
        """Return what every target needs and reads, where that is kept as well."""
        from buildgraph.engine.reads import ContextAt, ContextRead, PathRead, Reading

        kept = self._reading
        if kept is None:
            return None
        contexts = [ContextAt(at, tuple(ls), name, real) for at, ls, name, real in kept["contexts"]]
        reads: dict[str, list[ContextRead]] = {}
        for label, at, sources, title, stage, path, line, exclude, parents in kept["reads"]:
            reads.setdefault(label, []).append(
                ContextRead(
                    contexts[at],
                    None if sources is None else tuple(sources),
                    title,
                    stage,
                    Location(path, line),
                    tuple(exclude),
                    parents,
                )
            )
        paths: dict[str, list[PathRead]] = {}
        for label, read, role, path, line in kept["paths"]:
            paths.setdefault(label, []).append(PathRead(read, role, Location(path, line)))
        needs = {name: row[6] for name, row in self._rows.items()}
        return Reading(needs, paths, reads, frozenset(kept["defining"]), kept["seen"])


def unpacked(data: bytes) -> dict[str, Any]:
    """Return what `packed` was given."""
    value: dict[str, Any] = json.loads(data.partition(b"\0")[2])
    return value


def changed(value: Mapping[str, Any]) -> set[str] | None:
    """Return the paths that are another than when an index was made; None: not by paths alone."""
    if any(os.environ.get(name) != text for name, text in value["env"].items()):
        return None
    prefix = value["root"].rstrip("/") + "/"
    out: set[str] = set()
    try:
        for path, ctime, inode, size, content in value["looked"]:
            full = prefix + path
            found = os.stat(full)
            if (found.st_ctime_ns, found.st_ino, found.st_size) != (ctime, inode, size):
                if _content(full) != content:
                    out.add(path)
    except OSError:
        return None
    return out
