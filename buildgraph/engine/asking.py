"""Knows how the targets of a workspace answer queries: what a word names, what needs what, what an
attribute says; must not know the language they are asked in.

A package is read when something asks for it: `deps(//app)` reads what //app needs and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from buildgraph.boxfile.target import (
    Block,
    DirContext,
    LabelContext,
    LayoutContext,
    Target,
    Value,
)
from buildgraph.boxfile.workspace import Workspace
from buildgraph.errors import InputError, raise_all
from buildgraph.graph.dag import Dag
from buildgraph.label import TargetPattern, parse_label


class TargetUniverse:
    """The targets of one workspace, as things to ask about; see `graph.query.Universe`."""

    def __init__(self, workspace: Workspace, package: str):
        """`package` is where relative patterns start."""
        self.workspace = workspace
        self._package = package
        self._needs: dict[str, tuple[str, ...]] = {}
        self._targets: dict[str, Target] = {}
        self._dag: Dag | None = None

    def find(self, pattern: str) -> frozenset[str]:
        """Return the targets that a pattern names. Raises InputError."""
        return frozenset(str(label) for label in self.workspace.expand([pattern], self._package))

    def graph(self, names: Iterable[str]) -> Dag:
        """Return a graph with these targets and all they need; may hold more. Raises InputError."""
        work = [name for name in names if name not in self._needs]
        errors: list[InputError] = []
        if work or self._dag is None:
            self._dag = None
            while work:
                name = work.pop()
                if name in self._needs:
                    continue
                self._needs[name] = ()
                try:
                    wanted = self.workspace.needs(self.target(name))
                    for label, where in wanted:
                        self._targets[str(label)] = self.workspace.target(label, where)
                except InputError as error:
                    errors.append(error)
                    continue
                self._needs[name] = tuple(str(label) for label, _ in wanted)
                work.extend(self._needs[name])
            raise_all(errors)
            self._dag = Dag(self._needs)
        return self._dag

    def target(self, name: str) -> Target:
        """Return the target of a name. Raises InputError."""
        found = self._targets.get(name)
        if found is None:
            found = self._targets[name] = self.workspace.target(parse_label(name, ""))
        return found

    def kind(self, name: str) -> tuple[str, ...]:
        """Return the target's rule, alone and as Bazel writes it."""
        rule = self.target(name).kind
        return rule, f"{rule} rule"

    def attribute(self, name: str, attribute: str) -> tuple[str, ...] | None:
        """Return the values of an attribute: items of a list one by one, entries as `key=value`."""
        target = self.target(name)
        if attribute == "rule":
            return (target.kind,)
        if attribute == "doc":
            return (target.doc,) if target.doc else ()
        value = target.attrs.get(attribute)
        return None if value is None else tuple(texts(value))

    def row(self, name: str) -> dict[str, Any]:
        """Return a target as JSON has it."""
        target = self.target(name)
        return {
            "label": name,
            "rule": target.kind,
            "doc": target.doc,
            "file": target.where.path,
            "line": target.where.line,
            "needs": list(self.graph([name]).needs(name)),
            "attributes": {key: list(texts(v)) for key, v in target.attrs.items() if v.given},
        }


def texts(value: Value) -> Iterator[str]:
    """Yield what a value says, flat: items of a list, `key=value` of a mapping."""
    data = value.data
    if data is None:
        return
    if isinstance(data, tuple):
        for item in data:
            yield from texts(item)
    elif isinstance(data, Mapping):
        for key, item in data.items():
            yield from (f"{key}={text}" for text in texts(item))
    else:
        yield _one_text(data)


def _one_text(data: object) -> str:
    match data:
        case bool():
            return "true" if data else "false"
        case Block() | TargetPattern():
            return data.text
        case LabelContext(label):
            return str(label)
        case DirContext(path):
            return path or "."
        case LayoutContext(path, tag, digest):
            return f"oci-layout://{path}" + (f"@{digest}" if digest else f":{tag}" if tag else "")
        case _:
            return str(getattr(data, "source", data))  # a text with stamps: as it is written
