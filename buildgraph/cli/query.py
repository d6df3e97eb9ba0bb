"""Knows how a query is asked and its answer printed; must not know what the language means."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import click

from buildgraph.cli.answers import query_text
from buildgraph.cli.entry import guarded, open_workspace
from buildgraph.cli.escape import safe
from buildgraph.cli.known import QUICK_OUTPUTS, keep
from buildgraph.cli.options import store_option
from buildgraph.engine.asking import TargetUniverse
from buildgraph.errors import InputError
from buildgraph.graph.query import Evaluation

OUTPUTS = (*QUICK_OUTPUTS, "inputs")


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
    began = time.time_ns()
    workspace, package = open_workspace(os.getcwd())
    universe = TargetUniverse(workspace, package)
    asked = Evaluation(text, universe)
    order = asked.order(asked.run())
    if output == "inputs":
        _print_inputs(universe, order, store)
    else:
        click.echo(query_text(order, output, universe), nl=False)
        if "..." in text:
            keep(workspace, package, began, store)


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
    click.echo(query_text(order, output, universe), nl=False)


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
