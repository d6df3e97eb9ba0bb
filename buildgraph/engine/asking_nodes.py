"""Knows how the steps of a lowered graph answer queries; must not know the language they are asked
in.

A step is named by its slot, `//app:image linux/amd64 build/run0`. In a query it may be written
without the platform; `'//app:image build'` means all steps of a stage, and a label or a pattern
all steps of its targets.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from buildgraph.boxfile.workspace import Workspace
from buildgraph.engine.prepare import Prepared
from buildgraph.errors import InputError, did_you_mean
from buildgraph.graph.dag import Dag
from buildgraph.graph.ops import (
    CopyOp,
    ExecOp,
    GitOp,
    HttpOp,
    ImageOp,
    MkdirOp,
    Node,
    Op,
    PackagesOp,
)
from buildgraph.graph.query_syntax import parse_query, words_of
from buildgraph.label import Label

_KINDS: dict[type, str] = {
    ExecOp: "run",
    CopyOp: "copy",
    MkdirOp: "workdir",
    ImageOp: "image",
    PackagesOp: "packages",
    HttpOp: "http",
    GitOp: "git",
}


def kind_of(op: Op) -> str:
    """Return the word for what a step does."""
    return _KINDS[type(op)]


def targets_in(text: str, workspace: Workspace, package: str) -> list[Label]:
    """Return the targets that the words of a query name: with what they need, all it can reach.

    Words that are something else (a number, a regular expression) are passed over.
    """
    out: dict[Label, None] = {}
    for word in words_of(parse_query(text)):
        try:
            out.update(dict.fromkeys(workspace.expand([word.partition(" ")[0]], package)))
        except InputError as error:
            if error.where is not None:
                raise  # a Boxfile is wrong
    return list(out)


class NodeUniverse:
    """The steps of one prepared graph; see `graph.query.Universe`."""

    def __init__(self, prepared: Prepared, workspace: Workspace, package: str):
        self._workspace = workspace
        self._package = package
        self._by_name: dict[str, Node] = {}
        self._names: dict[int, str] = {}
        for node in prepared.graph.nodes:
            name = node.slot if node.slot not in self._by_name else f"{node.slot} #{node.id}"
            self._by_name[name] = node
            self._names[node.id] = name
        self._of_target: dict[str, frozenset[str]] = {
            label: frozenset(self._names[n] for plan in plans for n in plan.nodes)
            for label, plans in prepared.plans.items()
        }
        self._short: dict[str, set[str]] = {}
        for name in self._by_name:
            for short in _short_names(name):
                self._short.setdefault(short, set()).add(name)
        self._dag = Dag(
            {
                name: [self._names[i] for i in node.inputs if i is not None]
                for name, node in self._by_name.items()
            }
        )

    def find(self, pattern: str) -> frozenset[str]:
        """Return the steps that a word names. Raises InputError."""
        text = " ".join(pattern.split())
        if text in self._by_name:
            return frozenset((text,))
        if text in self._short:
            return frozenset(self._short[text])
        if " " in text:
            label, _, rest = text.partition(" ")
            found = [str(x) for x in self._workspace.expand([label], self._package)]
            names = frozenset().union(
                *(self._short.get(f"{name} {rest}", frozenset()) for name in found)
            )
            if names:
                return names
            hint = did_you_mean(text, (*self._short, *self._by_name))
            raise InputError(f"there is no step {text!r}", hint=hint)
        labels = self._workspace.expand([text], self._package)
        return frozenset().union(*(self._of_target.get(str(x), frozenset()) for x in labels))

    def graph(self, names: Iterable[str]) -> Dag:
        """Return the graph of all steps."""
        return self._dag

    def kind(self, name: str) -> tuple[str, ...]:
        """Return the word for what a step does."""
        return (kind_of(self._by_name[name].op),)

    def attribute(self, name: str, attribute: str) -> tuple[str, ...] | None:
        """Return `title`, `stage`, `platform`, `target` or `file` of a step."""
        node = self._by_name[name]
        values = {
            "title": node.title,
            "stage": node.stage,
            "platform": str(node.platform),
            "target": node.label,
            "file": node.where.path,
        }
        return (values[attribute],) if attribute in values else None

    def row(self, name: str) -> dict[str, Any]:
        """Return a step as JSON has it."""
        node = self._by_name[name]
        return {
            "node": name,
            "kind": kind_of(node.op),
            "target": node.label,
            "stage": node.stage,
            "platform": str(node.platform),
            "title": node.title,
            "file": node.where.path,
            "line": node.where.line,
            "needs": list(self._dag.needs(name)),
        }


def _short_names(name: str) -> list[str]:
    """Return other ways to write a slot: without its platform, and its stage alone."""
    parts = name.split(" ")
    if len(parts) < 3 or not parts[0].startswith("//"):
        return []
    label, place = parts[0], " ".join(parts[2:])
    stage = place.partition("/")[0]
    return [f"{label} {place}", f"{label} {stage}", f"{label} {parts[1]} {stage}"]
