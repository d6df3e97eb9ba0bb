"""Knows how a query is asked and its answer printed; must not know what the language means."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from buildgraph.cli.entry import guarded, open_workspace
from buildgraph.cli.escape import safe
from buildgraph.cli.options import store_option
from buildgraph.engine.asking import TargetUniverse, texts
from buildgraph.errors import InputError
from buildgraph.graph.query import Evaluation

if TYPE_CHECKING:
    from buildgraph.engine.asking_nodes import NodeUniverse

OUTPUTS = ("label", "label_kind", "location", "json", "jsonl", "dot", "graph", "mermaid", "inputs")


@click.command("query")
@click.argument("expression", nargs=-1, required=True)
@click.option(
    "--output",
    type=click.Choice(OUTPUTS),
    default="label",
    show_default=True,
    help="What to print of each target; dot, graph and mermaid draw them, "
    "inputs lists the files they read.",
)
@click.option("--nodes", is_flag=True, help="Ask about single steps (RUN, COPY, ...).")
@store_option
@guarded
def command(expression: tuple[str, ...], output: str, nodes: bool, store: str | None) -> None:
    """Ask about targets in Bazel's words.

    \b
    buildgraph query 'deps(//app)'
    buildgraph query 'rdeps(//..., //base)'
    buildgraph query 'somepath(//app, //base)'
    buildgraph query "kind(smoke, //...) - attr(network, host, //...)"

    Functions: deps(x[, depth]), rdeps(universe, x[, depth]), allpaths(from, to), somepath(from,
    to), kind('regex', x), attr(name, 'regex', x), filter('regex', x). Sets: + (union), ^
    (intersect), - (except), set(a b), let v = x in ... $v. What is needed comes first.
    """
    text = " ".join(expression)
    if nodes:
        _ask_nodes(text, output, store)
        return
    workspace, package = open_workspace(os.getcwd())
    universe = TargetUniverse(workspace, package)
    asked = Evaluation(text, universe)
    order = asked.order(asked.run())
    if output == "inputs":
        _print_inputs(universe, order, store)
    else:
        _print(order, output, universe, lambda name: _target_row(universe, name))


def _ask_nodes(text: str, output: str, store: str | None) -> None:
    from buildgraph.cli.session import Session, Settings
    from buildgraph.engine.asking_nodes import NodeUniverse, targets_in

    if output == "inputs":
        raise click.UsageError("--output inputs is about targets: leave out --nodes")
    with Session(Settings(store=store), os.environ, os.getcwd()) as session:
        labels = targets_in(text, session.workspace, session.package)
        if not labels:
            Evaluation(text, TargetUniverse(session.workspace, session.package)).run()
            raise InputError("the query names no target", hint="try: deps(//...)")
        prepared = session.prepare(session.workspace, labels, lambda event: None)
    universe = NodeUniverse(prepared, session.workspace, session.package)
    asked = Evaluation(text, universe)
    order = asked.order(asked.run())
    _print(order, output, universe, universe.row)


def _print(
    order: Sequence[str],
    output: str,
    universe: TargetUniverse | NodeUniverse,
    row: Callable[[str], dict[str, Any]],
) -> None:
    from buildgraph.graph.query_output import dot, mermaid

    if output in ("dot", "graph", "mermaid"):
        graph = universe.graph(frozenset(order))
        needs = {name: graph.needs(name) for name in order}
        click.echo(mermaid(order, needs) if output == "mermaid" else dot(order, needs))
        return
    if output == "json":
        click.echo(json.dumps([row(name) for name in order], indent=1))
        return
    lines = []
    for name in order:
        match output:
            case "jsonl":
                lines.append(json.dumps(row(name)))
            case "label_kind":
                lines.append(f"{universe.kind(name)[-1]} {safe(name)}")
            case "location":
                found = row(name)
                lines.append(f"{safe(found['file'])}:{found['line']}: {safe(name)}")
            case _:
                lines.append(safe(name))
    if lines:
        click.echo("\n".join(lines))


def _target_row(universe: TargetUniverse, name: str) -> dict[str, Any]:
    target = universe.target(name)
    attributes = {key: list(texts(v)) for key, v in target.attrs.items() if v.given}
    return {
        "label": name,
        "rule": target.rule,
        "doc": target.doc,
        "file": target.where.path,
        "line": target.where.line,
        "needs": list(universe.graph([name]).needs(name)),
        "attributes": attributes,
    }


def _print_inputs(universe: TargetUniverse, order: Sequence[str], store: str | None) -> None:
    from buildgraph.cli.outside import known_images
    from buildgraph.engine.outline import Outline

    with known_images(universe.workspace, store) as images:
        outline = Outline(universe.workspace, images)
        outline.add([universe.target(name).label for name in order])
        found: set[str] = set()
        for name in order:
            found.update(outline.files(name))
    for path in sorted(found, key=os.fsencode):
        click.echo(safe(path))
