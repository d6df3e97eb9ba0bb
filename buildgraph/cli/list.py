"""Knows how the targets of a workspace are listed; must not know how they are built."""

from __future__ import annotations

import os
import time

import click

from buildgraph.cli.answers import list_text
from buildgraph.cli.entry import guarded, open_workspace
from buildgraph.cli.known import keep


@click.command("list")
@click.argument("targets", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@guarded
def command(targets: tuple[str, ...], as_json: bool) -> None:
    """List targets: all of the workspace, or those that patterns name."""
    began = time.time_ns()
    workspace, package = open_workspace(os.getcwd())
    rows = []
    for label in workspace.expand(targets or ["//..."], package):
        target = workspace.target(label)
        rows.append(
            {
                "label": str(label),
                "rule": target.kind,
                "doc": target.doc,
                "file": target.where.path,
                "line": target.where.line,
            }
        )
    click.echo(list_text(rows, as_json=as_json), nl=False)
    if not targets:
        keep(workspace, package, began, None)
