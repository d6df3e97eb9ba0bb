"""Knows how a picture of targets and their steps is asked for and written; must not know how it is
drawn.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import click

from buildgraph.boxfile.target import Target
from buildgraph.boxfile.workspace import Workspace
from buildgraph.cli.entry import guarded
from buildgraph.cli.options import store_option
from buildgraph.cli.textfile import write_text
from buildgraph.engine import records
from buildgraph.engine.planning import Step, plan
from buildgraph.graph.ops import Node
from buildgraph.graph.picture import Box, Level, Picture, picture
from buildgraph_cache.digest import Digest
from buildgraph_cache.store import Store


@click.command("graph")
@click.argument("targets", nargs=-1)
@click.option(
    "--output",
    type=click.Choice(["html", "svg", "dot"]),
    default="html",
    show_default=True,
    help="html: one page with all levels, search and zoom.",
)
@click.option(
    "--level",
    type=click.Choice(["target", "stage", "step"]),
    default="target",
    show_default=True,
    help="What a box of svg and dot is.",
)
@click.option("--file", metavar="PATH", help="Write there, not to stdout.")
@click.option("--offline", is_flag=True, help="Ask no server about base images.")
@store_option
@guarded
def command(
    targets: tuple[str, ...],
    output: str,
    level: Level,
    file: str | None,
    offline: bool,
    store: str | None,
) -> None:
    """Draw targets and their steps: all of the workspace, or those that patterns name.

    Colours say what a build would do now; durations and sizes are those of the last time. The
    thick red line is the way that took longest.
    """
    drawn = _picture(targets, store, offline=offline)
    if output == "html":
        from buildgraph.graph.picture_page import page

        text = page(drawn)
    elif output == "svg":
        from buildgraph.graph.picture_svg import svg

        text = svg(drawn, level)
    else:
        from buildgraph.graph.query_output import dot

        boxes = drawn.levels[level]
        text = dot([box.id for box in boxes], {box.id: box.needs for box in boxes}) + "\n"
    if file is None:
        click.echo(text, nl=False)
        return
    write_text(file, text)


def _picture(words: tuple[str, ...], store: str | None, *, offline: bool) -> Picture:
    from buildgraph.cli.session import Session, Settings
    from buildgraph.engine.asking import TargetUniverse

    with Session(Settings(store=store, offline=offline), os.environ, os.getcwd()) as session:
        workspace = session.workspace
        chosen = workspace.expand(words or ["//..."], session.package)
        universe = TargetUniverse(workspace, session.package)
        names = universe.graph([str(label) for label in chosen]).below(map(str, chosen))
        targets = {name: universe.target(name) for name in names}
        prepared = session.prepare(workspace, [t.label for t in targets.values()], lambda e: None)
        with session.open_graph(prepared) as graph:
            steps = plan(prepared, session.store, session.layers, graph.identifier)
        slots = {node.id: node.slot for node in prepared.graph.nodes}
        known = {step.node.id: step for step in steps}
        boxes = [
            _step_box(node, known.get(node.id), slots, session.store)
            for node in prepared.graph.nodes
        ]
        return picture(workspace.name, boxes, _target_boxes(targets, workspace))


def _step_box(node: Node, step: Step | None, slots: Mapping[int, str], store: Store) -> Box:
    seconds: float | None = None
    size: int | None = None
    last = None if step is None else records.load_slot(store, node.slot)
    if last is not None:
        seconds = last.seconds
        record = records.load_node(store, Digest(last.key))
        size = record.layer.size if record is not None and record.layer is not None else None
    return Box(
        node.slot,
        node.title,
        node.label,
        tuple(dict.fromkeys(slots[i] for i in node.inputs if i is not None)),
        node.label,
        node.stage,
        str(node.where),
        "" if step is None else step.verdict.value,
        seconds,
        size,
    )


def _target_boxes(targets: dict[str, Target], workspace: Workspace) -> list[Box]:
    return [
        Box(
            name,
            target.label.short,
            target.rule,
            tuple(str(label) for label, _ in workspace.needs(target)),
            name,
            where=str(target.where),
        )
        for name, target in targets.items()
    ]
