"""Knows how an index is brought up to date by reading only the packages that changed; must not know
what is asked of it or where it is kept.

What a Boxfile says of its own targets is read anew; what that could mean to targets of other files
is looked at one by one, and wherever it is not certainly nothing the answer is None: then the whole
workspace is read, which also knows how to say what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from buildgraph.boxfile.loader import BOXFILE
from buildgraph.engine.index import looked_at, reading_out, row_of
from buildgraph.errors import InputError
from buildgraph.label import Label, parse_label

if TYPE_CHECKING:
    from buildgraph.boxfile.workspace import Workspace
    from buildgraph.engine.outline import Outline

OpenAt = Callable[[str], "Workspace"]
OutlineOf = Callable[["Workspace"], "Outline"]

_PACKAGE, _NAME, _KIND, _NEEDS = 0, 1, 2, 6  # of a row, see `index.row_of`


def renewed(
    value: Mapping[str, Any],
    moved: Collection[str],
    began_ns: int,
    open_at: OpenAt,
    outline_of: OutlineOf,
) -> dict[str, Any] | None:
    """Return an index (see `index.unpacked`) as it is now that the paths `moved` have changed.

    None where only the whole workspace tells. `began_ns` is the clock from before the first look
    at a file.
    """
    try:
        return _Renewal(value, open_at).run(moved, began_ns, outline_of)
    except (InputError, OSError):
        return None


class _Renewal:
    """One index, and the workspace as it is."""

    def __init__(self, value: Mapping[str, Any], open_at: OpenAt):
        self._value = value
        self._workspace = open_at(value["root"])
        self._reading = value["reading"]
        self._more: list[str] = []  # paths beside the workspace's that decided something

    def run(
        self, moved: Collection[str], began_ns: int, outline_of: OutlineOf
    ) -> dict[str, Any] | None:
        packages = {path.rpartition("/")[0] for path in moved if _is_boxfile(path)}
        others = {path for path in moved if not _is_boxfile(path)}
        users = self._users_of(others)
        if users is None or "" in packages:
            return None
        targets = self._targets(packages)
        if targets is None:
            return None
        reading = self._reading
        if reading is not None:
            rows = {_label(row): row for row in targets}
            own = [name for name, row in rows.items() if row[_PACKAGE] in packages]
            reading = self._read_anew({*own, *users}, rows, outline_of)
            if reading is None:
                return None
        if self._workspace.volatile:
            return None
        looked = {row[0]: row for row in self._value["looked"]}
        fresh = {row[0]: row for row in looked_at(self._workspace, began_ns, self._more)}
        looked |= {p: r for p, r in fresh.items() if p in moved or p not in looked}
        if not fresh.keys() >= set(moved):
            return None
        return {
            **self._value,
            "env": {**self._value["env"], **self._workspace.variables_read},
            "looked": [looked[path] for path in sorted(looked)],
            "targets": targets,
            "reading": reading,
        }

    def _users_of(self, paths: set[str]) -> set[str] | None:
        """Return the targets that read these files as Dockerfiles or ignore files, and only so."""
        if not paths:
            return set()
        if self._reading is None:
            return None
        from buildgraph.engine.reads import DOCKERFILE, IGNORE_FILE

        roles: dict[str, set[str]] = {}
        users: set[str] = set()
        for label, path, role, *_ in self._reading["paths"]:
            if path in paths:
                users.add(label)
                roles.setdefault(path, set()).add(role)
        if any(not roles.get(path, {""}) <= {DOCKERFILE, IGNORE_FILE} for path in paths):
            return None
        return users

    def _targets(self, packages: set[str]) -> list[list[Any]] | None:
        """Return the rows of all targets, those of these packages read anew."""
        out: list[list[Any]] = []
        done: set[str] = set()
        new: list[list[Any]] = []
        for row in self._value["targets"]:
            package = row[_PACKAGE]
            if package not in packages:
                out.append(row)
            elif package not in done:
                done.add(package)
                found = self._package(package)
                if found is None:
                    return None
                new += found
                out += found
        if done != packages:  # it had no target
            return None
        there = {_label(row) for row in out}
        if any(name not in there for row in new for name in row[_NEEDS]):
            return None
        return out

    def _package(self, package: str) -> list[list[Any]] | None:
        """Return a package's rows, if what it is to other packages is what it was."""
        before = [row for row in self._value["targets"] if row[_PACKAGE] == package]
        targets = self._workspace.package(package).targets.values()
        if any(target.visibility is not None for target in targets):
            return None  # a user elsewhere may be one no more
        rows = [
            row_of(self._workspace, target, attributes=self._reading is None) for target in targets
        ]
        was, now = ([(row[_NAME], row[_KIND]) for row in found] for found in (before, rows))
        if was != now:
            kinds = {row[_KIND] for row in self._value["targets"] if row[_PACKAGE] != package}
            # Groups may mean all targets that there are.
            if "group" in kinds or not set(was) <= set(now):
                return None
        return rows

    def _read_anew(
        self, names: Collection[str], rows: Mapping[str, list[Any]], outline_of: OutlineOf
    ) -> dict[str, Any] | None:
        """Return what all targets read, that of these and of whom it concerns read anew."""
        kept = self._reading
        found = self._outline(names, outline_of)
        if found is None:
            return None
        more = {name for name, seen in found["seen"].items() if kept["seen"].get(name) != seen}
        more = _above(more, rows)
        if not more <= set(names):
            names = {*names, *more}
            found = self._outline(names, outline_of)
            if found is None:
                return None
        return _merged(kept, found, frozenset(names))

    def _outline(self, names: Collection[str], outline_of: OutlineOf) -> dict[str, Any] | None:
        from buildgraph.engine.redefined import with_needs

        labels: list[Label] = [parse_label(name, "") for name in sorted(names)]
        outline = outline_of(self._workspace)
        outline.add([t.label for t in with_needs(self._workspace, labels, set())])
        if outline.failed or not outline.lasts:
            return None
        self._more = [*self._more, *outline.observed]
        found = reading_out(outline.reading())
        found["seen"] = {name: found["seen"][name] for name in names}
        return found


def _is_boxfile(path: str) -> bool:
    return path == BOXFILE or path.endswith(f"/{BOXFILE}")


def _label(row: Sequence[Any]) -> str:
    return f"//{row[_PACKAGE]}:{row[_NAME]}"


def _above(names: Iterable[str], rows: Mapping[str, list[Any]]) -> set[str]:
    """Return names and all that need them."""
    users: dict[str, list[str]] = {}
    for name, row in rows.items():
        for needed in row[_NEEDS]:
            users.setdefault(needed, []).append(name)
    seen = set(names)
    work = list(seen)
    while work:
        for user in users.get(work.pop(), ()):
            if user not in seen:
                seen.add(user)
                work.append(user)
    return seen


def _merged(
    kept: Mapping[str, Any], found: Mapping[str, Any], names: frozenset[str]
) -> dict[str, Any]:
    """Return what is kept, with what was found of `names` in the place of what was kept of them."""
    contexts = list(kept["contexts"])
    reads = [row for row in kept["reads"] if row[0] not in names]
    places: dict[int, int] = {}
    for label, at, *rest in found["reads"]:
        if label in names:
            if at not in places:
                places[at] = len(contexts)
                contexts.append(found["contexts"][at])
            reads.append([label, places[at], *rest])
    used = sorted({row[1] for row in reads})
    number = {at: index for index, at in enumerate(used)}
    paths = [row for row in kept["paths"] if row[0] not in names]
    return {
        "contexts": [contexts[at] for at in used],
        "reads": [[row[0], number[row[1]], *row[2:]] for row in reads],
        "paths": paths + [row for row in found["paths"] if row[0] in names],
        "defining": sorted({*kept["defining"], *found["defining"]}),
        "seen": {**kept["seen"], **found["seen"]},
    }
