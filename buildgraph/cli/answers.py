"""Knows how answers about targets are written as text; must not know how they were found, and
imports next to nothing: the quick way writes with it as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from buildgraph.cli.escape import safe

if TYPE_CHECKING:
    from buildgraph.engine.affected import Affected, Cause
    from buildgraph.graph.dag import Dag

_SHOWN = 5


class Described(Protocol):
    """Things that a query can be about, as far as they are printed."""

    def graph(self, names: Iterable[str]) -> Dag:
        """Return a graph that holds these names."""

    def kind(self, name: str) -> tuple[str, ...]:
        """Return the words for what sort of thing it is."""

    def row(self, name: str) -> dict[str, Any]:
        """Return a thing as JSON has it."""


def query_text(order: Sequence[str], output: str, universe: Described) -> str:
    """Return the answer of a query in the form that was asked for; ends in a newline if not ""."""
    if output in ("dot", "graph", "mermaid"):
        from buildgraph.graph.query_output import dot, mermaid

        graph = universe.graph(frozenset(order))
        needs = {name: graph.needs(name) for name in order}
        return (mermaid(order, needs) if output == "mermaid" else dot(order, needs)) + "\n"
    if output == "json":
        return json.dumps([universe.row(name) for name in order], indent=1) + "\n"
    return "".join(f"{_line(name, output, universe)}\n" for name in order)


def _line(name: str, output: str, universe: Described) -> str:
    match output:
        case "jsonl":
            return json.dumps(universe.row(name))
        case "label_kind":
            return f"{universe.kind(name)[-1]} {safe(name)}"
        case "location":
            found = universe.row(name)
            return f"{safe(found['file'])}:{found['line']}: {safe(name)}"
        case _:
            return safe(name)


def list_text(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> str:
    """Return the list of targets, of their rows as `query` has them."""
    if as_json:
        keys = ("label", "rule", "doc", "file", "line")
        return "".join(json.dumps({key: row[key] for key in keys}) + "\n" for row in rows)
    lines = [(short(row["label"]), row["rule"], row["doc"].partition("\n")[0]) for row in rows]
    wide = min(max((len(name) for name, _, _ in lines), default=0), 60)
    kinds = max((len(rule) for _, rule, _ in lines), default=0)
    return "".join(
        f"{safe(name):<{wide}}  {safe(rule):<{kinds}}  {safe(doc)}".rstrip() + "\n"
        for name, rule, doc in lines
    )


def short(label: str) -> str:
    """Return `//dir` for `//dir:image`, as `Label.short`."""
    package = label.removesuffix(":image")
    return label if package in (label, "//") else package


def affected_text(
    found: Sequence[Affected],
    wanted: Iterable[str] | None,
    rule_of: Callable[[str], str],
    *,
    why: bool,
    as_json: bool,
) -> str:
    """Return the affected targets, those that are wanted; None: all."""
    by_label = {one.label: one for one in found}
    chosen = None if wanted is None else frozenset(wanted)
    lines: list[str] = []
    for one in found:
        if chosen is not None and one.label not in chosen:
            continue
        if as_json:
            lines.append(json.dumps(_row(one, by_label, rule_of(one.label))))
            continue
        lines.append(safe(one.label))
        if why:
            lines += [f"    {line}" for line in _reasons(one, by_label)]
    return "".join(f"{line}\n" for line in lines)


def _chain(one: Affected, by_label: Mapping[str, Affected]) -> list[Affected]:
    """Return the targets from one to that whose own files changed."""
    out = [one]
    while out[-1].via is not None:
        out.append(by_label[out[-1].via])
    return out


def _reasons(one: Affected, by_label: Mapping[str, Affected]) -> list[str]:
    chain = _chain(one, by_label)
    way = ", which ".join(f"needs {safe(other.label)}" for other in chain[1:])
    causes = [_cause(cause) for cause in chain[-1].causes[:_SHOWN]]
    more = len(chain[-1].causes) - _SHOWN
    if more > 0:
        causes.append(f"and {more} more")
    return [way, *(f"    {text}" for text in causes)] if way else causes


def _cause(cause: Cause) -> str:
    where = cause.where
    if where is None or where.path == cause.path:
        line = f":{where.line}" if where is not None and where.line else ""
        return f"{safe(cause.path)}{line}: {safe(cause.text)}"
    place = f"{where.path}:{where.line}" if where.line else where.path
    return f"{safe(cause.path)}: {safe(cause.text)} ({safe(place)})"


def _row(one: Affected, by_label: Mapping[str, Affected], rule: str) -> dict[str, Any]:
    chain = _chain(one, by_label)
    return {
        "label": one.label,
        "rule": rule,
        "via": [other.label for other in chain[1:]],
        "causes": [
            {
                "path": cause.path,
                "what": cause.text,
                "file": cause.where.path if cause.where else None,
                "line": cause.where.line or None if cause.where else None,
            }
            for cause in chain[-1].causes
        ],
    }
